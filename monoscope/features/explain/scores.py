"""How well a judge's answers tell active windows from silent ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST = 3  # answers on either side below which there is no score
_RESAMPLES = 1000


@dataclass(frozen=True)
class Score:
    """Of n_pos windows where the answer is yes and n_neg where it is no; null below 3 of either.

    sensitivity = yes among n_pos; specificity = no among n_neg; balanced_accuracy = their mean.
    auc = P(p⁺ > p⁻) + ½ P(p⁺ = p⁻) over pairs, p the judge's probability of yes where it gives
    log-probabilities, else its answer, when auc = balanced_accuracy.
    """

    n_pos: int
    n_neg: int
    sensitivity: float | None = None
    specificity: float | None = None
    balanced_accuracy: float | None = None
    auc: float | None = None


def score(truth: Sequence[bool], probability: Sequence[float]) -> Score:
    """Score answers; a probability of one half or less is a no."""
    held, p = np.asarray(truth, bool), np.asarray(probability, float)
    yes, no = p[held], p[~held]
    if min(len(yes), len(no)) < LEAST:
        return Score(len(yes), len(no))
    sensitivity, specificity = float((yes > 0.5).mean()), float((no <= 0.5).mean())
    above = (yes[:, None] > no).mean() + 0.5 * (yes[:, None] == no).mean()
    balanced = (sensitivity + specificity) / 2
    return Score(len(yes), len(no), sensitivity, specificity, balanced, float(above))


@dataclass(frozen=True)
class Mean:
    """A mean over latents with its 95 % percentile bootstrap interval; null over none."""

    n: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    median: float | None = None
    share_over_0_9: float | None = None


def mean(values: Sequence[float | None], seed: int = 0) -> Mean:
    """The mean of what is not None."""
    held = np.array([value for value in values if value is not None], float)
    if not len(held):
        return Mean(0)
    draws = np.random.default_rng(seed).integers(0, len(held), (_RESAMPLES, len(held)))
    low, high = np.quantile(held[draws].mean(1), [0.025, 0.975])
    return Mean(
        len(held), float(held.mean()), float(low), float(high), float(np.median(held)),
        float((held >= 0.9).mean()),
    )  # fmt: skip
