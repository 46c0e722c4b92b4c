"""How well predicted activations agree with real ones, token by token; both are nearly all zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Values = NDArray[np.float64]
Sparse = tuple[Rows, Values]
"""Values above zero at ascending rows; all other rows are zero."""


@dataclass(frozen=True)
class Agreement:
    """A prediction p against activations a over n tokens, zeros counted.

    r: Pearson's correlation of p and a; 0 where p is constant, for it then tells nothing.
    auc: P(p⁺ > p⁻) + ½ P(p⁺ = p⁻), a token where the latent fires against one where it does not.
    sensitivity, specificity, f1: of p > 0 as a yes.
    """

    n_fired: int
    n_tokens: int
    r: float
    auc: float
    sensitivity: float
    specificity: float
    f1: float


def agreement(predicted: Sparse, real: Sparse, n_tokens: int) -> Agreement | None:
    """Compare; None where the latent fires on no token or on all, for nothing can be told then."""
    (p_rows, p), (a_rows, a) = predicted, real
    n_fired = len(a_rows)
    if not 0 < n_fired < n_tokens:
        return None
    _, in_p, in_a = np.intersect1d(p_rows, a_rows, assume_unique=True, return_indices=True)
    hit = len(in_p)
    quiet, wrong = n_tokens - n_fired, len(p_rows) - hit
    yes, no = np.zeros(n_fired), np.delete(p, in_p)
    yes[in_a] = p[in_p]
    return Agreement(
        n_fired, n_tokens, _pearson(p, a, float(p[in_p] @ a[in_a]), n_tokens),
        _auc(yes, no, quiet), hit / n_fired, 1 - wrong / quiet, 2 * hit / (len(p_rows) + n_fired),
    )  # fmt: skip


def _pearson(p: Values, a: Values, both: float, n: int) -> float:
    """(n·Σpa − Σp·Σa) / √((n·Σp² − (Σp)²)(n·Σa² − (Σa)²)), from the entries above zero alone."""
    spread = [n * float(v @ v) - float(v.sum()) ** 2 for v in (p, a)]
    if spread[0] <= 0 or spread[1] <= 0:
        return 0.0
    return float((n * both - p.sum() * a.sum()) / np.sqrt(spread[0] * spread[1]))


def _auc(yes: Values, no: Values, quiet: int) -> float:
    """yes: p on every firing token. no: p on those of `quiet` others where it is above zero."""
    zeros = quiet - len(no)
    order = np.sort(no)
    below = np.searchsorted(order, yes, "left") + np.where(yes > 0, zeros, 0)
    upto = np.searchsorted(order, yes, "right") + zeros
    return float((below + upto).sum() / 2 / (len(yes) * quiet))
