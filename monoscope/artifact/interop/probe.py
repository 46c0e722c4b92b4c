"""Probe activations: kept with an SAE, so that a copy of it can show that it computes the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from monoscope.errors import ConfigError, FormatError, OutputError
from monoscope.files import atomic_path
from monoscope.ops.codes import SparseCodes
from monoscope.sae import SAE

FILE = "probe.safetensors"
N_TOKENS = 64
TOLERANCE = 1e-5  # of the largest magnitude, in codes and in the reconstruction
_SOURCE, _MODEL = "activations_of", "model"  # in the file's metadata
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


@dataclass(frozen=True)
class Probe:
    """Activations x [n,D] and what the SAE made of them when they were stored.

    codes [n,L] dense, x_hat [n,D].  real: x are activations of a model, not drawn from the decoder,
    so that FVU and L0 on them say something.
    """

    x: Tensor
    codes: Tensor
    x_hat: Tensor
    real: bool


def read_probe(folder: str | Path, d_sae: int) -> Probe | None:
    """The probe stored with an SAE of d_sae latents, if there is one.

    Raises FormatError if the file is damaged, or was stored with another SAE.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            names = ("x", "indices", "values", "offsets", "x_hat")
            x, indices, values, offsets, x_hat = (file.get_tensor(name) for name in names)
        codes = SparseCodes(indices, values, offsets, d_sae).to_dense()
    except (OSError, SafetensorError, ConfigError, ValueError, IndexError, RuntimeError) as error:
        raise FormatError(
            f"cannot read {path}", got=error, hint="Delete it: the SAE can do without."
        ) from error
    return Probe(x, codes, x_hat, about.get(_SOURCE) == _MODEL)


def stored_probe(folder: str | Path) -> Tensor | None:
    """The activations x [n,D] stored with an SAE, if there are any; FormatError as `read_probe`."""
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            x: Tensor = file.get_tensor("x")
    except (OSError, SafetensorError) as error:
        raise FormatError(
            f"cannot read {path}", got=error, hint="Delete it: the SAE can do without."
        ) from error
    return x


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


@torch.no_grad()
def write_probe(sae: SAE, x: Tensor, folder: Path, *, real: bool = True) -> None:
    """Store x [n,D] with what the SAE makes of it: sparse codes and reconstruction.

    real: x are a model's activations, not those of `drawn_probe`.
    """
    codes = sae.encode(x.to(sae.W_enc.device))
    tensors = {
        "x": x, "indices": codes.indices, "values": codes.values, "offsets": codes.offsets,
        "x_hat": sae.decode(codes),
    }  # fmt: skip
    held = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
    with atomic_path(folder / FILE) as part:
        save_file(held, part, {_SOURCE: _MODEL if real else "decoder"})


@torch.no_grad()
def differences(sae: SAE, probe: Probe) -> tuple[float, float]:
    """How far the SAE's codes and x̂ on a probe are from the stored ones, of their magnitude."""
    codes = sae.encode(probe.x.to(sae.W_enc.device))
    dense, x_hat = codes.to_dense().cpu(), sae.decode(codes).cpu()
    return _difference(probe.codes, dense), _difference(probe.x_hat, x_hat)


@torch.no_grad()
def compare(mine: SAE, theirs: SAE, x: Tensor) -> Agreement:
    """How far `theirs`, read back, computes what `mine` computes on x [n,D].

    Raises OutputError, with both differences, where it does not.
    """
    a, b = (sae.encode(x.to(sae.W_enc.device)) for sae in (mine, theirs))
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
