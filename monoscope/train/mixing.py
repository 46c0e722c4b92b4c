"""How well a stream is shuffled, seen from its batches alone."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

RECENT, ENOUGH = 16, 6  # batches compared: most, fewest


class Mixing:
    """Compares how batch means differ with how they would if every token were drawn by itself.

    For batches of B independent rows, E‖m_b − m̄‖² = tr Σ / B. `alike` is the ratio of what is seen
    to that, so B / alike is the number of independent tokens that a batch is worth (the design
    effect of cluster sampling; Kish 1965).
    """

    def __init__(self) -> None:
        self._means: deque[Tensor] = deque(maxlen=RECENT)
        self._spreads: deque[float] = deque(maxlen=RECENT)
        self._rows = 0

    def see(self, x: Tensor) -> None:
        """Take note of a batch x [N, D]."""
        mean = x.mean(0, dtype=torch.float64)
        self._rows = x.shape[0]
        self._means.append(mean.cpu())
        spread = (x - mean.to(x.dtype)).square().sum(dtype=torch.float64) / max(1, self._rows - 1)
        self._spreads.append(float(spread))

    def alike(self) -> float | None:
        """The ratio; None before enough batches were seen, or where all rows are the same."""
        if len(self._means) < ENOUGH:
            return None
        means = torch.stack(list(self._means))
        between = float((means - means.mean(0)).square().sum()) / (len(means) - 1)
        within = sum(self._spreads) / len(self._spreads)
        total = within + between  # a batch of one cluster has no spread of its own
        return self._rows * between / total if total > 0 else None
