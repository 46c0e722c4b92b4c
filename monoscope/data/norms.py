"""Moments of activations: mergeable sums in fp64, from which a store's norm statistics follow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

_TILE = 1024  # rows; small enough for a tile in fp64 to stay in the cache
_BINS_PER_OCTAVE = 128
_LEAST_NORM = 2.0**-126


@dataclass(frozen=True)
class NormStats:
    """What is known of the size of the train activations, in model units.

    mean [D] float32: μ; mean_norm: mean of ‖x‖; median_norm: median of ‖x‖, within 0.3 %;
    total_variance: Σ‖x − μ‖² / N.
    """

    mean: Tensor
    mean_norm: float
    median_norm: float
    total_variance: float


@dataclass(frozen=True)
class Moments:
    """Sums over n tokens: mean [D] fp64, scatter Σ‖x − mean‖², Σ‖x‖ and a log histogram of ‖x‖.

    Merging in one order always gives the same bits, so a resumed harvest ends with the same
    statistics. Source: Chan, Golub & LeVeque 1979, pairwise update of mean and scatter.
    """

    n: int
    mean: Tensor
    scatter: float
    norm_sum: float
    norm_bins: dict[int, int] = field(default_factory=dict)

    @classmethod
    def none(cls, d_in: int) -> Moments:
        """The moments of no tokens at all."""
        return cls(0, torch.zeros(d_in, dtype=torch.float64), 0.0, 0.0)

    @classmethod
    def of(cls, acts: Tensor) -> Moments:
        """The moments of acts [n,D], in tiles of rows."""
        total = cls.none(acts.shape[1])
        norms = torch.empty(acts.shape[0], dtype=torch.float64)
        for tile, part in zip(acts.split(_TILE), norms.split(_TILE), strict=True):
            x = tile.to(torch.float64, copy=True)
            torch.linalg.vector_norm(x, dim=1, out=part)
            mean = x.mean(0)
            off = x.sub_(mean).flatten()
            total = total.merge(cls(x.shape[0], mean, float(off @ off), float(part.sum())))
        return replace(total, norm_bins=_histogram(norms))

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of tokens together."""
        n = self.n + other.n
        if n == 0 or other.n == 0:
            return self
        delta = other.mean - self.mean
        between = float(delta.square().sum()) * self.n * other.n / n
        bins = dict(self.norm_bins)
        for key, count in other.norm_bins.items():
            bins[key] = bins.get(key, 0) + count
        return Moments(
            n,
            self.mean + delta * (other.n / n),
            self.scatter + other.scatter + between,
            self.norm_sum + other.norm_sum,
            dict(sorted(bins.items())),
        )

    def stats(self) -> NormStats:
        """The norm statistics of n ≥ 1 tokens."""
        median = _median(self.norm_bins, self.n)
        return NormStats(self.mean.float(), self.norm_sum / self.n, median, self.scatter / self.n)

    def to_dict(self) -> dict[str, Any]:
        """The moments as JSON values, exact to the last bit; `from_dict` reads them back."""
        return {
            "n": self.n,
            "mean": self.mean.tolist(),
            "scatter": self.scatter,
            "norm_sum": self.norm_sum,
            "norm_bins": {str(key): count for key, count in self.norm_bins.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Moments:
        """The moments that `to_dict` wrote."""
        mean = torch.tensor(data["mean"], dtype=torch.float64)
        bins = {int(key): int(count) for key, count in data["norm_bins"].items()}
        return cls(int(data["n"]), mean, float(data["scatter"]), float(data["norm_sum"]), bins)


def _histogram(norms: Tensor) -> dict[int, int]:
    """How many of norms [n] lie in each bin floor(log2 ‖x‖ × bins per octave)."""
    bins = (norms.clamp(min=_LEAST_NORM).log2() * _BINS_PER_OCTAVE).floor().long()
    values, counts = bins.unique(return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _median(bins: Mapping[int, int], n: int) -> float:
    """The value below which half of the counts lie, interpolated inside its bin."""
    below = 0
    for key in sorted(bins):
        if below + bins[key] >= n / 2:
            inside = (n / 2 - below) / bins[key]
            return math.exp2((key + inside) / _BINS_PER_OCTAVE)
        below += bins[key]
    raise AssertionError("a histogram without counts has no median")
