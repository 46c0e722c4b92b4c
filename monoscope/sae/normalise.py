"""Normaliser: how inputs are brought to a common size before training sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from monoscope.errors import DataError

Normalisation = Literal["none", "mean_norm", "unit", "standardize"]
NORMALISATIONS: tuple[str, ...] = get_args(Normalisation)
SMALLEST = 1e-6  # share of the mean spread below which a coordinate counts as constant


@dataclass(frozen=True)
class Normaliser:
    """x ↦ what the SAE is trained on.

    none         x
    mean_norm    x·s            with s = √D / E‖x‖, so that E‖x‖ = √D (Templeton 2024)
    standardize  (x − μ)·s      with s = 1/σ per coordinate
    unit         √D·(x − μ)/‖x − μ‖   per token, on the sphere around the mean
    shift: μ [D], or a zero; scale: s, a number or [D].
    """

    kind: Normalisation
    shift: Tensor
    scale: Tensor

    @classmethod
    def fit(cls, kind: Normalisation, sample: Tensor) -> Normaliser:
        """From raw x [N, D]; DataError where they are all alike or zero."""
        zero, one = sample.new_zeros(()), sample.new_ones(())
        if kind == "none":
            return cls(kind, zero, one)
        if kind == "mean_norm":
            mean_norm = sample.norm(dim=1).mean()
            if mean_norm == 0:
                raise DataError("activations are all zero", hint="Check the site and the mask.")
            return cls(kind, zero, sample.shape[1] ** 0.5 / mean_norm)
        mean, spread = sample.double().mean(0), sample.double().std(0, correction=0)
        if not spread.any():
            raise DataError("activations are all alike", hint="Check the site and the mask.")
        mean, spread = mean.to(sample.dtype), spread.to(sample.dtype)
        if kind == "unit":
            return cls(kind, mean, one)
        return cls(kind, mean, 1.0 / spread.clamp_min(float(spread.mean()) * SMALLEST))

    def __call__(self, x: Tensor) -> Tensor:
        """Normalised x [N, D]; the caller's tensor is left alone."""
        if self.kind == "none":
            return x
        if self.kind == "mean_norm":
            return x * self.scale
        if self.kind == "standardize":
            return (x - self.shift) * self.scale
        centred = x - self.shift
        return centred / radius(centred)[:, None]

    def to(self, device: torch.device | str) -> Normaliser:
        return Normaliser(self.kind, self.shift.to(device), self.scale.to(device))


def radius(centred: Tensor) -> Tensor:
    """‖x‖/√D of each row of x [N, D], never zero: what "unit" divides by and codes get back."""
    norm = torch.linalg.vector_norm(centred, dim=1)
    return (norm / centred.shape[1] ** 0.5).clamp_min(1e-12)
