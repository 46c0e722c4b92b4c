"""Sparse codes regrouped by latent: the order in which every statistic wants to see them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def _regroup(indices, values, offsets, n_latents):  # type: ignore[no-untyped-def]
    starts = np.zeros(n_latents + 1, np.int64)
    for r in range(len(offsets) - 1):
        before = -1
        for e in range(offsets[r], offsets[r + 1]):
            if not before < indices[e] < n_latents:
                raise ValueError("a row's latents are not ascending or out of range")
            before = indices[e]
            starts[before + 1] += 1
    for i in range(n_latents):
        starts[i + 1] += starts[i]
    cursor = starts[:-1].copy()
    rows = np.empty(starts[n_latents], np.int32)
    entries = np.empty(starts[n_latents], np.int64)
    active = np.empty(starts[n_latents], np.float32)
    for r in range(len(offsets) - 1):
        for e in range(offsets[r], offsets[r + 1]):
            place = cursor[indices[e]]
            cursor[indices[e]] = place + 1
            rows[place] = r
            entries[place] = e
            active[place] = values[e]
    return starts, rows, entries, active


@dataclass(frozen=True)
class Columns:
    """A block of N tokens, by latent: latent i owns starts[i]:starts[i+1], in order of token.

    rows [nnz] int32: the token; values [nnz] float32, all > 0; entries [nnz] int64: where the same
    entry stands in the compressed rows. indices, offsets: those rows, ascending within a row.
    """

    starts: NDArray[np.int64]
    rows: NDArray[np.int32]
    values: NDArray[np.float32]
    entries: NDArray[np.int64]
    indices: NDArray[np.int32]
    offsets: NDArray[np.int64]

    @classmethod
    def from_rows(
        cls,
        indices: NDArray[np.int32],
        values: NDArray[np.float32],
        offsets: NDArray[np.int64],
        n_latents: int,
    ) -> Columns:
        """Regroup compressed rows; entries that are not above zero are no activations and go.

        Raises ValueError if the latents of a row are not ascending or not below n_latents.
        """
        if not (values > 0).all():
            kept = values > 0
            before = np.concatenate([[0], np.cumsum(kept)])
            indices, values, offsets = indices[kept], values[kept], before[offsets]
        starts, rows, entries, active = _regroup(indices, values, offsets, n_latents)
        return cls(starts, rows, active, entries, indices, offsets)

    @classmethod
    def of_ones(
        cls, indices: NDArray[np.int32], offsets: NDArray[np.int64], n_latents: int
    ) -> Columns:
        """Regroup rows that say only which latents are active."""
        return cls.from_rows(indices, np.ones(len(indices), np.float32), offsets, n_latents)

    def parts(self, n: int) -> list[tuple[int, int]]:
        """Cut the latents into at most n ranges of about the same number of entries."""
        return even_parts(self.starts, n)


def even_parts(starts: NDArray[np.int64], n: int) -> list[tuple[int, int]]:
    """Cut latents, of which i owns starts[i]:starts[i+1], into at most n ranges of like size."""
    n_latents = len(starts) - 1
    goals = np.linspace(0, starts[-1], n + 1)[1:-1]
    cuts = [0, *np.searchsorted(starts, goals).tolist(), n_latents]
    cuts = sorted({min(cut, n_latents) for cut in cuts})
    return list(pairwise(cuts))


def share(work: Callable[[tuple[int, int]], None], parts: list[tuple[int, int]]) -> None:
    """Do `work` on every range of latents, each in a thread of its own."""
    if len(parts) == 1:
        work(parts[0])
        return
    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(work, parts))
