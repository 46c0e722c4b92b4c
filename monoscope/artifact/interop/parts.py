"""Parts: an SAE as a foreign format says it, before it becomes one of ours."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from monoscope.errors import FormatError
from monoscope.sae import SAE, SAEConfig
from monoscope.sae.config import ACTIVATIONS
from monoscope.sae.frames import CARRIERS, carrier_rows


class InteropWarning(UserWarning):
    """Something that a format cannot carry, named; what was carried computes the same."""


@dataclass(kw_only=True)
class Parts:
    """f = act(W_enc (x − b_dec) + b_enc), x̂ = f W_dec + b_dec, all float32; rows are latents.

    w_enc, w_dec [L,D]; b_enc [L]; b_dec [D].  threshold: [] or [L], strict.
    extra: b_mag and r_mag [L] of a gated SAE, whose b_enc is the gate's bias.
    per_token: what is done to each token first and undone last, "layer_norm" (mean and spread) or
    "rms" (norm √D).
    dtype: what the file was written in.  provenance: what it says of where it was trained.
    lost: what could not be carried, in words.
    """

    format: str
    w_enc: Tensor
    b_enc: Tensor
    w_dec: Tensor
    b_dec: Tensor
    activation: str
    k: int | None = None
    threshold: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)
    per_token: Literal["none", "rms", "layer_norm"] = "none"
    dtype: torch.dtype | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)

    @torch.no_grad()
    def uncentred(self) -> None:
        """The encoder was applied to x itself, not to x − b_dec: b_enc += W_enc b_dec, in fp64."""
        self.shift(self.w_enc.double() @ self.b_dec.double())

    def shift(self, by: Tensor) -> None:
        """Add `by` [L] fp64 to W_enc x, in every bias that stands beside it."""
        self.b_enc = (self.b_enc.double() + by).float()
        if self.activation == "gated":
            stretched = self.extra["r_mag"].double().exp() * by
            self.extra["b_mag"] = (self.extra["b_mag"].double() + stretched).float()

    @torch.no_grad()
    def unit_rows(self) -> None:
        """The selection looked at z_i ‖W_dec[i]‖: that norm moves into the encoder, in fp64."""
        norms = self.w_dec.double().norm(dim=1).clamp_min(1e-8)
        self.w_enc = (self.w_enc.double() * norms[:, None]).float()
        self.b_enc = (self.b_enc.double() * norms).float()
        self.w_dec = (self.w_dec.double() / norms[:, None]).float()

    @torch.no_grad()
    def split_signs(self) -> None:
        """AbsTopK, the k largest |z| with their signs, is TopK over z and −z: latents L … 2L−1."""
        d_sae = len(self.b_enc)
        self.w_enc = torch.cat([self.w_enc, -self.w_enc])
        self.b_enc = torch.cat([self.b_enc, -self.b_enc])
        self.w_dec = torch.cat([self.w_dec, -self.w_dec])
        self.activation = "topk"
        self.lost.append(
            f"abstopk: codes are never negative here; latent i firing at −f is latent {d_sae} + i "
            "firing at f, so there are twice as many latents"
        )

    @torch.no_grad()
    def scaled_input(self, scale: float) -> None:
        """The SAE saw scale·x and gave scale·x̂: take raw x, codes as they were (W_enc ← scale·)."""
        self.w_enc = (self.w_enc.double() * scale).float()
        self.w_dec = (self.w_dec.double() / scale).float()
        self.b_dec = (self.b_dec.double() / scale).float()

    @torch.no_grad()
    def _carry(self) -> None:
        """Latents at the end that carry what the normalisation took off each token."""
        d_sae, n = len(self.b_enc), CARRIERS[self.per_token]
        self.shift(-(self.w_enc.double() @ self.b_dec.double()))  # what is left sees b_dec = 0
        rows = carrier_rows(self.per_token, self.b_dec)
        self.w_enc = torch.cat([self.w_enc, torch.zeros_like(rows)])
        self.w_dec = torch.cat([self.w_dec, rows])
        self.b_enc = torch.cat([self.b_enc, torch.zeros(n)])
        self.b_dec = torch.zeros_like(self.b_dec)
        self.extra = {name: torch.cat([v, torch.zeros(n)]) for name, v in self.extra.items()}
        if self.threshold is not None and self.threshold.ndim:
            self.threshold = torch.cat([self.threshold, torch.zeros(n)])
        self.lost.append(
            f"{self.per_token}: codes are theirs times the size of the token, and latents {d_sae} "
            f"to {d_sae + n - 1} carry what it took off each token, so L0 is up to {n} higher"
        )

    def build(self) -> SAE:
        """The SAE; each entry of `lost` becomes an InteropWarning.

        Raises FormatError for an activation that monoscope does not have.
        """
        if self.activation not in ACTIVATIONS:
            raise FormatError(
                f"monoscope has no {self.activation} SAE",
                got=f"a {self.format} file with that activation",
                expected=f"one of {', '.join(ACTIVATIONS)}",
            )
        if self.per_token != "none":
            self._carry()
        d_sae, d_in = self.w_enc.shape
        config = SAEConfig(
            d_in=d_in,
            d_sae=d_sae,
            activation=self.activation,  # type: ignore[arg-type]
            k=self.k,
            normalisation=self.per_token,
        )
        about = {"format": self.format, "dtype": dtype_name(self.dtype), "lost": self.lost}
        sae = SAE(config, self.provenance | {"imported": about | self._imported()})
        with torch.no_grad():
            for mine, theirs in (
                (sae.W_enc, self.w_enc),
                (sae.b_enc, self.b_enc),
                (sae.W_dec, self.w_dec),
                (sae.b_dec, self.b_dec),
                *((getattr(sae, name), value) for name, value in self.extra.items()),
            ):
                mine.copy_(theirs)
            if self.threshold is not None:
                sae.threshold.copy_(self.threshold.expand(sae.threshold.shape))
        for line in self.lost:
            warnings.warn(line, InteropWarning, stacklevel=4)
        return sae.eval()

    def _imported(self) -> dict[str, Any]:
        kept = self.provenance.get("imported")
        return dict(kept) if isinstance(kept, dict) else {}


def whole(k: object) -> int:
    """k as a whole number; batch-wide formats may store a fraction, which is rounded up."""
    if isinstance(k, int | float) and not isinstance(k, bool) and math.isfinite(k) and k > 0:
        return math.ceil(k)
    raise FormatError("k is no positive number", got=repr(k))


def json_text(values: dict[str, Any]) -> str:
    """A config as it is written."""
    return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def dtype_name(dtype: torch.dtype | None) -> str:
    """ "float32" for torch.float32; None counts as that."""
    return str(dtype or torch.float32).removeprefix("torch.")


def written_dtype(sae: SAE) -> torch.dtype:
    """The dtype an SAE goes out in: the one it came in with where every weight fits it exactly."""
    name = (sae.provenance.get("imported") or {}).get("dtype")
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(str(name))
    tensors = (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec)
    if dtype and all(torch.equal(t.detach().to(dtype).float(), t.detach()) for t in tensors):
        return dtype
    return torch.float32
