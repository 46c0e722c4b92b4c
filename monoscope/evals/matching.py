"""Directions matched to directions: one to one by the Hungarian method, or each to its nearest.

Two sets of random directions match too, the better the more of them there are and the fewer
dimensions, so a matched cosine only means something beside that of random ones (`chance`).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

EXACT_UP_TO = 8192
"""Rows beyond which a one-to-one assignment takes too long; then each row takes its nearest."""

_BLOCK = 2048
_APART = 0x6368616E6365  # "chance"


def matched(a: Tensor, b: Tensor, *, signed: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """For each row of a [n,D] the row of b [m,D] it is matched to and their cosine, [n] each.

    One to one, maximising the summed cosine (n ≤ m needed for every row to have a partner; a row
    without one gets −1 and cosine 0). signed=False matches by |cosine|. Kuhn 1955.
    """
    cosine = _cosines(a, b)
    weight = cosine if signed else np.abs(cosine)
    rows, columns = linear_sum_assignment(weight, maximize=True)
    partner, value = np.full(len(a), -1), np.zeros(len(a))
    partner[rows], value[rows] = columns, weight[rows, columns]
    return partner, value


def nearest(a: Tensor, b: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """For each row of a [n,D] its most alike row of b [m,D] and their cosine; not one to one."""
    a, b = _units(a, b)
    best = [(part @ b.T).max(1) for part in a.split(_BLOCK)]
    return (
        torch.cat([found.indices for found in best]).cpu().numpy(),
        torch.cat([found.values for found in best]).cpu().numpy(),
    )


def matched_cosine(a: Tensor, b: Tensor, *, signed: bool = True) -> float:
    """Mean cosine of the one-to-one matching over the rows of a."""
    return float(matched(a, b, signed=signed)[1].mean())


def chance(a: Tensor, n_rows: int, seed: int, *, signed: bool = True, n_draws: int = 3) -> float:
    """matched_cosine of a with n_rows random directions, a mean over draws.

    The draws are not those that `seed` gives elsewhere: a world made under the same seed would
    meet its own directions among them.
    """
    generator = torch.Generator().manual_seed(_APART + seed)
    draws = [torch.randn(n_rows, a.shape[1], generator=generator) for _ in range(n_draws)]
    return float(np.mean([matched_cosine(a, draw, signed=signed) for draw in draws]))


def _cosines(a: Tensor, b: Tensor) -> np.ndarray:
    a, b = _units(a, b)
    return np.asarray((a @ b.T).cpu().numpy())


def _units(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of both at length 1, on the device of b."""
    a, b = a.detach().to(b.device), b.detach()
    return F.normalize(a.float(), dim=1), F.normalize(b.float(), dim=1)
