"""Sums kept by document, and intervals from resampling the documents.

Tokens of one document are not independent, so the document is what gets resampled. Every figure is
a function of sums (a ratio of sums, never a mean of ratios); a replicate draws G documents with
replacement, adds up their sums and applies the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Metrics = Callable[[Mapping[str, Array]], dict[str, Array]]

LEVEL = 0.95
_BLOCK = 1 << 22  # replicate × document counts held at once


@dataclass(frozen=True)
class Sums:
    """Sums by document: values [G,C] in fp64, one row per document, one column per name."""

    columns: tuple[str, ...]
    docs: NDArray[np.int64]
    values: Array

    def total(self) -> dict[str, Array]:
        """Each column summed over all documents, an array [1]."""
        return self.by_name(self.values.sum(0, keepdims=True))

    def by_name(self, totals: Array) -> dict[str, Array]:
        """Totals [R,C], a row per resampling, as arrays [R] by column name."""
        return dict(zip(self.columns, totals.T, strict=True))

    def only(self, columns: Sequence[str]) -> Sums:
        """The same documents, these columns alone."""
        keep = [self.columns.index(name) for name in columns]
        return Sums(tuple(columns), self.docs, self.values[:, keep])

    def rows(self, which: NDArray[np.bool_]) -> Sums:
        """Some of the documents, all columns."""
        return Sums(self.columns, self.docs[which], self.values[which])

    def beside(self, other: Sums) -> Sums:
        """The documents of `other`, which are all here: its columns, then those it has not."""
        mine = self.rows(np.isin(self.docs, other.docs))
        assert np.array_equal(mine.docs, other.docs), "documents that are missing here"
        new = tuple(name for name in self.columns if name not in other.columns)
        values = np.concatenate([other.values, mine.only(new).values], axis=1)
        return Sums((*other.columns, *new), other.docs, values)


class DocumentSums:
    """Adds up per-token rows by document; its state grows with documents, not tokens."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self._row: dict[int, int] = {}
        self._values = np.zeros((64, len(self.columns)))

    def add(self, doc: Tensor, table: Tensor) -> None:
        """Add table [N,C] fp64, a row per token, to the documents doc [N]."""
        ids, inverse = torch.unique(doc.cpu(), return_inverse=True)
        part = torch.zeros(len(ids), table.shape[1], dtype=torch.float64)
        part.index_add_(0, inverse, table.cpu())
        rows = [self._row.setdefault(i, len(self._row)) for i in ids.tolist()]
        if len(self._row) > len(self._values):
            spare = max(len(self._values), len(self._row) - len(self._values))
            self._values = np.vstack([self._values, np.zeros((spare, len(self.columns)))])
        self._values[rows] += part.numpy()

    def sums(self) -> Sums:
        """What was added so far, documents in ascending order."""
        docs = np.array(sorted(self._row), dtype=np.int64)
        rows = [self._row[i] for i in docs.tolist()]
        return Sums(self.columns, docs, self._values[rows])


def ratio(top: Array, bottom: Array, tiny: float = 0.0) -> Array:
    """top / bottom, and NaN wherever bottom <= tiny: there the figure is undefined."""
    top, bottom = np.asarray(top, np.float64), np.asarray(bottom, np.float64)
    out = np.full(np.broadcast(top, bottom).shape, np.nan)
    return np.divide(top, bottom, out=out, where=bottom > tiny)


def point(sums: Sums, metrics: Metrics) -> dict[str, float | None]:
    """Every figure over all documents; None where it is undefined."""
    values = {name: float(figure[0]) for name, figure in metrics(sums.total()).items()}
    return {name: value if np.isfinite(value) else None for name, value in values.items()}


def intervals(
    sums: Sums, metrics: Metrics, n_replicates: int, seed: int
) -> dict[str, tuple[float, float] | None]:
    """95 % percentile interval of every figure that `metrics` computes from sums.

    None for a figure that is undefined in any replicate, and for fewer than two documents, where
    resampling says nothing; no figures at all for n_replicates = 0.
    Source: Efron 1979; the documents are the clusters.
    """
    if n_replicates == 0:
        return {}
    if len(sums.docs) < 2:
        return dict.fromkeys(metrics(sums.total()))
    figures = metrics(sums.by_name(_resample(sums.values, n_replicates, seed)))
    tail = (1 - LEVEL) / 2
    out: dict[str, tuple[float, float] | None] = {}
    for name, values in figures.items():
        low, high = np.quantile(values, [tail, 1 - tail]).tolist()
        out[name] = (low, high) if np.isfinite(values).all() else None
    return out


def _resample(values: Array, n_replicates: int, seed: int) -> Array:
    """Column sums [R,C] of R samples of the G rows, drawn with replacement."""
    rng = np.random.default_rng(seed)
    n_docs = len(values)
    block = max(1, _BLOCK // n_docs)
    out = np.empty((n_replicates, values.shape[1]))
    for start in range(0, n_replicates, block):
        size = min(block, n_replicates - start)
        draws = rng.integers(n_docs, size=(size, n_docs)) + n_docs * np.arange(size)[:, None]
        counts = np.bincount(draws.ravel(), minlength=size * n_docs).reshape(size, n_docs)
        out[start : start + size] = counts @ values
    return out
