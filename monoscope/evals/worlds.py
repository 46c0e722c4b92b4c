"""Synthetic worlds whose true features are known: x = Σ f_i d_i, drawn without end.

Three kinds, each with what a real model is suspected of: features in superposition (more of them
than dimensions), features that come together (correlation), and features of which one implies
another (hierarchy, where an SAE is tempted to absorb the parent into its children).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

KINDS = ("superposed", "correlated", "hierarchy")


@dataclass(frozen=True)
class World:
    """F unit directions [F,D] and the law by which features fire.

    probability [F]: how often each fires (given its parent, where it has one). parent [F]: the
    feature without which it never fires, −1 for none. factor: how strongly features of one group
    of four are tied through a shared Gaussian (0: independent). Values are 1 + |N(0, ½²)|.
    """

    name: str
    directions: Tensor
    probability: Tensor
    parent: Tensor
    factor: float = 0.0

    @property
    def n_features(self) -> int:
        return len(self.directions)

    @property
    def l0(self) -> float:
        """Features active on a sample, on average."""
        own = self.probability.clone()
        child = self.parent >= 0
        own[child] = self.probability[child] * self.probability[self.parent[child]]
        return float(own.sum())

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """True codes f [n,F] and x [n,D], float32."""
        active = self._draws(n, generator) < self.probability
        child = self.parent >= 0
        active[:, child] &= active[:, self.parent[child]]
        size = 1 + 0.5 * torch.randn(n, self.n_features, generator=generator).abs()
        codes = torch.where(active, size, torch.zeros(()))
        return codes, codes @ self.directions

    def batches(self, n: int, seed: int, batch_size: int = 2048) -> Iterator[Tensor]:
        """x [batch_size,D], again and again until n samples were given."""
        generator = torch.Generator().manual_seed(seed)
        for _ in range(max(1, n // batch_size)):
            yield self.sample(batch_size, generator)[1]

    def _draws(self, n: int, generator: torch.Generator) -> Tensor:
        """Uniform numbers [n,F], tied within groups of four by a Gaussian copula."""
        own = torch.randn(n, self.n_features, generator=generator)
        if not self.factor:
            return torch.special.ndtr(own)
        groups = torch.arange(self.n_features) // 4
        shared = torch.randn(n, int(groups.max()) + 1, generator=generator)[:, groups]
        return torch.special.ndtr(self.factor**0.5 * shared + (1 - self.factor) ** 0.5 * own)


def make(kind: str, seed: int, *, d_in: int = 32, n_features: int = 64) -> World:
    """One of KINDS with F random unit directions in D dimensions.

    superposed, correlated: each feature fires on 3 % of samples; correlated ties groups of four
    with factor ½. hierarchy: every fourth feature is a parent that fires on 8 %, the three after
    it are its children, each on 30 % of the parent's samples.
    """
    generator = torch.Generator().manual_seed(seed)
    directions = F.normalize(torch.randn(n_features, d_in, generator=generator), dim=1)
    probability = torch.full((n_features,), 0.03)
    parent = torch.full((n_features,), -1, dtype=torch.int64)
    if kind == "hierarchy":
        index = torch.arange(n_features)
        is_child = index % 4 != 0
        parent[is_child] = index[is_child] // 4 * 4
        probability = torch.where(is_child, torch.tensor(0.3), torch.tensor(0.08))
    return World(kind, directions, probability, parent, 0.5 if kind == "correlated" else 0.0)
