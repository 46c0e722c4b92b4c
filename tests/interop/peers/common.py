"""What the peers' own scripts share; runs in their environments, without monoscope.

A script is called as `python NAME.py write FOLDER` or `python NAME.py read JOBS.json`.
write: makes FOLDER/CASE/ in the peer's format with the peer's own code, and FOLDER/CASE.safetensors
with x [N,D] and what the peer computes of it: codes [N,L] and x_hat [N,D].
read: for every job {"folder", "x", "out", "again"} loads the folder with the peer's own loader,
encodes x, writes codes and x_hat to `out`, and saves the loaded SAE into `again`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

D, L, K, N = 16, 48, 6, 256
Answer = tuple[torch.Tensor, torch.Tensor]


def activations(seed: int = 7) -> torch.Tensor:
    """x [N,D]: anisotropic, with a mean and a few long rows, as a model's are."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(N, D, generator=g) * torch.linspace(0.5, 4.0, D) + torch.linspace(-1, 2, D)
    x[::17] *= 6.0
    return x


def weights(seed: int = 3, *, unit: bool = True) -> dict[str, torch.Tensor]:
    """W_enc [L,D], b_enc [L], W_dec [L,D] and b_dec [D]; rows of W_dec of norm 1 with `unit`."""
    g = torch.Generator().manual_seed(seed)
    w_dec = torch.randn(L, D, generator=g)
    w_dec = w_dec / w_dec.norm(dim=1, keepdim=True)
    if not unit:
        w_dec = w_dec * (0.3 + 2.0 * torch.rand(L, 1, generator=g))
    return {
        "W_enc": torch.randn(L, D, generator=g) / D**0.5,
        "b_enc": torch.randn(L, generator=g) * 0.3 - 0.2,
        "W_dec": w_dec,
        "b_dec": torch.randn(D, generator=g),
        "threshold": torch.rand(L, generator=g) + 0.1,
        "b_mag": torch.randn(L, generator=g) * 0.3,
        "r_mag": torch.randn(L, generator=g) * 0.3,
    }


def main(write: dict[str, Callable[[Path], Answer]], read: Callable[[Path, Path], object]) -> None:
    verb, place = sys.argv[1], Path(sys.argv[2])
    torch.manual_seed(0)
    with torch.no_grad():
        if verb == "write":
            x = activations()
            for name, case in write.items():
                (place / name).mkdir(parents=True)
                codes, x_hat = case(place / name)
                answer = {"x": x, "codes": codes, "x_hat": x_hat}
                _save(answer, place / f"{name}.safetensors")
            return
        for job in json.loads(place.read_text()):
            x = load_file(job["x"])["x"]
            codes, x_hat = read(Path(job["folder"]), Path(job["again"]))(x)  # type: ignore[operator]
            _save({"x": x, "codes": codes, "x_hat": x_hat}, Path(job["out"]))


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file({n: t.detach().float().contiguous().clone() for n, t in tensors.items()}, path)
