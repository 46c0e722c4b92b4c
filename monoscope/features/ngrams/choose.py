"""Which patterns stand for a latent: weighed and chosen on train tokens that were not explained.

What one context needs is often more than the latent does: after a few French words " deux" is
enough. So the endings of every pattern are tried beside it, and the data say how much is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from monoscope.features.ngrams.patterns import Pattern, Tokens, stripped
from monoscope.features.ngrams.reading import Reading

GAIN = 0.005  # of correlation that a further pattern must bring


def with_endings(found: Sequence[tuple[Tokens, float]]) -> list[Pattern]:
    """The patterns found in contexts and all their endings, shortest first, each once.

    Each has the mean activation, and the number, of the contexts whose pattern it covers.
    """
    endings = {stripped(tokens[start:]) for tokens, _ in found for start in range(len(tokens))}
    out = []
    for tokens in endings - {None}:
        assert tokens is not None
        pattern = Pattern(tokens, 0.0, 0)
        values = [value for other, value in found if pattern.covers(other)]
        out.append(replace(pattern, value=float(np.mean(values)), n_contexts=len(values)))
    return sorted(out, key=lambda p: (len(p.tokens), -p.n_contexts, str(p.tokens)))


def choose(
    candidates: Sequence[Pattern],
    reading: Reading,
    activation: NDArray[np.float64],
    fair: NDArray[np.bool_],
    most: int,
) -> list[Pattern]:
    """Add, one by one, the pattern that raises the correlation with `activation` [N] most.

    Each predicts the mean activation where it matches; where several match, the largest counts.
    Only rows where fair [N] holds are looked at. At most `most` are chosen, none that brings less
    than GAIN; earlier candidates win ties.
    """
    n, a = int(fair.sum()), np.where(fair, activation, 0.0)
    rows = [at[fair[at]] for at in (reading.match(p.tokens) for p in candidates)]
    values = [float(a[at].mean()) if len(at) else 0.0 for at in rows]
    left = [i for i, value in enumerate(values) if value > 0]
    spread = n * float(a @ a) - float(a.sum()) ** 2
    p, sums, best = np.zeros(len(a)), np.zeros(3), 0.0  # sums: Σp, Σp², Σpa
    chosen: list[Pattern] = []
    while left and len(chosen) < most and spread > 0:
        gains = [_added(p, a, rows[i], values[i]) for i in left]
        scores = [_correlation(sums + gain, float(a.sum()), spread, n) for gain in gains]
        top = int(np.argmax(scores))
        if scores[top] < best + GAIN:
            break
        best, sums, i = scores[top], sums + gains[top], left.pop(top)
        p[rows[i]] = np.maximum(p[rows[i]], values[i])
        chosen.append(replace(candidates[i], value=values[i]))
    return chosen


def _added(
    p: NDArray[np.float64], a: NDArray[np.float64], rows: NDArray[np.int64], value: float
) -> NDArray[np.float64]:
    """What a pattern would add to Σp, Σp² and Σpa."""
    old = p[rows]
    new = np.maximum(old, value)
    return np.array([(new - old).sum(), (new**2 - old**2).sum(), ((new - old) * a[rows]).sum()])


def _correlation(sums: NDArray[np.float64], total: float, spread: float, n: int) -> float:
    own = n * sums[1] - sums[0] ** 2
    return float((n * sums[2] - sums[0] * total) / np.sqrt(own * spread)) if own > 0 else 0.0
