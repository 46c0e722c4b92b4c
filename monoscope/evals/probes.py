"""Which k features tell two classes apart, and how well a linear classifier on them does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold

from monoscope.evals.cache import Figures

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Inverse L2 penalties a dense probe chooses among by threefold cross-validation."""
_SPARSE_STRENGTH = 1.0
_BLOCK = 1 << 22  # draws of a bootstrap held at once


class Probe:
    """Logistic regression on standardised features; classes weigh the same, however many.

    strength: inverse L2 penalty; None chooses among STRENGTHS by cross-validated AUC.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, strength: float | None, seed: int) -> None:
        self.mean, self.scale = x.mean(0), x.std(0)
        self.scale = np.where(self.scale > 1e-12, self.scale, 1.0)
        z = self._standard(x)
        self.strength = _chosen(z, y, seed) if strength is None else strength
        self.model = _fit(z, y, self.strength)

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Log-odds of class 1 for x [n,F]."""
        return np.asarray(self.model.decision_function(self._standard(x)))

    def direction(self) -> np.ndarray:
        """Weights in the features' own units, [F]."""
        return np.asarray(self.model.coef_[0] / self.scale)

    def figures(self, x: np.ndarray, y: np.ndarray) -> Figures:
        """AUC and balanced accuracy on x [n,F], y [n]; chance is 0.5 for both."""
        scores = self.scores(x)
        return {
            "auc": float(roc_auc_score(y, scores)),
            "accuracy": float(balanced_accuracy_score(y, scores > 0)),
        }

    def _standard(self, x: np.ndarray) -> np.ndarray:
        return (x - self.mean) / self.scale


def strongest(x: np.ndarray, y: np.ndarray, k: int) -> np.ndarray:
    """The k features with the largest |mean₁ − mean₀| / pooled standard deviation, best first.

    x [n,F], y [n] of 0 and 1. A feature that never varies comes last.
    """
    one, zero = x[y == 1], x[y == 0]
    spread = np.sqrt((one.var(0) + zero.var(0)) / 2)
    gap = np.abs(one.mean(0) - zero.mean(0))
    score = np.divide(gap, spread, out=np.where(gap > 0, np.inf, 0.0), where=spread > 1e-12)
    return np.argsort(-score, kind="stable")[:k]


def sparse_figures(
    x: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray, ks: Sequence[int], seed: int
) -> Figures:
    """{k: auc, accuracy} of probes on the k strongest features, chosen and fitted on train rows."""
    order = strongest(x[train], y[train], max(ks))
    out: Figures = {}
    for k in ks:
        top = order[:k]
        probe = Probe(x[train][:, top], y[train], _SPARSE_STRENGTH, seed)
        out[str(k)] = probe.figures(x[test][:, top], y[test]) | {"best": int(order[0])}
    return out


def dense_figures(
    x: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int
) -> Figures:
    """auc and accuracy of a probe on all features, its penalty chosen by cross-validation."""
    return Probe(x[train], y[train], None, seed).figures(x[test], y[test])


def mean_over(values: Sequence[float], n_replicates: int, seed: int) -> Figures:
    """Mean over tasks (or latents) with its 95 % bootstrap interval over them; null for none."""
    held = np.asarray(values, np.float64)
    if not len(held):
        return {"mean": None, "ci": None, "n": 0}
    ci = None
    if len(held) > 1 and n_replicates:
        rng, block = np.random.default_rng(seed), max(1, _BLOCK // len(held))
        means = [
            held[rng.integers(len(held), size=(min(block, n_replicates - at), len(held)))].mean(1)
            for at in range(0, n_replicates, block)
        ]
        ci = np.quantile(np.concatenate(means), [0.025, 0.975]).tolist()
    return {"mean": float(held.mean()), "ci": ci, "n": len(held)}


def _chosen(z: np.ndarray, y: np.ndarray, seed: int) -> float:
    folds = min(3, int(np.bincount(y).min()))
    if folds < 2:
        return STRENGTHS[0]
    split = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(z, y))
    scores = []
    for strength in STRENGTHS:
        aucs = [
            roc_auc_score(y[test], _fit(z[train], y[train], strength).decision_function(z[test]))
            for train, test in split
        ]
        scores.append(float(np.mean(aucs)))
    return STRENGTHS[int(np.argmax(scores))]


def _fit(z: np.ndarray, y: np.ndarray, strength: float) -> LogisticRegression:
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000, tol=1e-3)
    return model.fit(z, y)
