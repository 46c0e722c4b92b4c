"""Probe activations: what an export is checked on after it has been read back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from monoscope.errors import FormatError, OutputError
from monoscope.files import atomic_path
from monoscope.sae import SAE

FILE = "probe.safetensors"
N_TOKENS = 64
TOLERANCE = 1e-5  # of the largest magnitude, in codes and in the reconstruction
_ACTIVE = 16  # latents mixed into a drawn token


@dataclass(frozen=True)
class Agreement:
    """How far two SAEs agree on probe activations.

    n_tokens: how many.  exact: every code and every reconstruction is the same number.
    codes, x_hat: largest difference, over the largest magnitude.
    """

    n_tokens: int
    exact: bool
    codes: float
    x_hat: float

    def to_json(self) -> dict[str, object]:
        return {
            "probe_tokens": self.n_tokens, "exact": self.exact,
            "codes_difference": self.codes, "x_hat_difference": self.x_hat,
        }  # fmt: skip


def stored_probe(folder: str | Path) -> Tensor | None:
    """The activations x [n,D] stored with an SAE, if there are any."""
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        return load_file(path)["x"]
    except (OSError, SafetensorError, KeyError) as error:
        raise FormatError(f"cannot read {path}", got=error) from error


def drawn_probe(sae: SAE, seed: int = 0) -> Tensor:
    """Activations x [n,D] for an SAE that comes without any: b_dec plus a few decoder rows.

    Their size is that of the activations it was trained on, where its provenance says it.
    """
    g = torch.Generator().manual_seed(seed)
    w = sae.W_dec.detach().cpu()
    pick = torch.randint(len(w), (N_TOKENS, min(_ACTIVE, len(w))), generator=g)
    x = (torch.rand(*pick.shape, 1, generator=g) * w[pick]).sum(1)
    norm = (sae.provenance.get("norm_stats") or {}).get("mean_norm") or sae.d_in**0.5
    x = x * (float(norm) / x.norm(dim=1, keepdim=True).clamp_min(1e-6))
    return x + sae.b_dec.detach().cpu()


def write_probe(sae: SAE, x: Tensor, folder: Path) -> None:
    """Store x [n,D] with what the SAE makes of it: sparse codes and reconstruction."""
    codes = sae.encode(x)
    tensors = {
        "x": x, "indices": codes.indices, "values": codes.values, "offsets": codes.offsets,
        "x_hat": sae.decode(codes),
    }  # fmt: skip
    with atomic_path(folder / FILE) as part:
        save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, part)


@torch.no_grad()
def compare(mine: SAE, theirs: SAE, x: Tensor) -> Agreement:
    """How far `theirs`, read back, computes what `mine` computes on x [n,D].

    Raises OutputError, with both differences, where it does not.
    """
    a, b = mine.encode(x), theirs.encode(x)
    dense_a, dense_b = a.to_dense().cpu(), b.to_dense().cpu()
    hat_a, hat_b = mine.decode(a).cpu(), theirs.decode(b).cpu()
    codes, x_hat = _difference(dense_a, dense_b), _difference(hat_a, hat_b)
    exact = torch.equal(dense_a, dense_b) and torch.equal(hat_a, hat_b)
    if not (codes <= TOLERANCE and x_hat <= TOLERANCE):
        raise OutputError(
            "what was written, read back, does not compute the same",
            got=f"codes differ by {codes:.1e}, reconstructions by {x_hat:.1e} of their size",
            expected=f"at most {TOLERANCE:g} on {len(x)} probe activations",
            hint="Nothing was kept.",
        )
    return Agreement(len(x), exact, codes, x_hat)


def _difference(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    size = max(float(a.abs().max()), 1e-12) if a.numel() else 1.0
    return float((a - b).abs().max()) / size if a.numel() else 0.0
