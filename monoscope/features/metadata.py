"""How much of each latent's activation falls on each metadata value, such as lang=fr."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from monoscope.errors import MismatchError
from monoscope.features.columns import Columns

MAX_VALUES = 64  # a key with more distinct values (titles, dates) names documents, not kinds


@njit(cache=True, nogil=True)
def _add(lo, hi, starts, rows, values, category, mass, count):  # type: ignore[no-untyped-def]
    for i in range(lo, hi):
        for j in range(starts[i], starts[i + 1]):
            for k in range(category.shape[1]):
                c = category[rows[j], k]
                if c >= 0:
                    mass[i, c] += values[j]
                    count[i, c] += 1


class MetaMass:
    """Σ activation and number of active tokens per latent and metadata value.

    Values are discovered as documents stream in; each gets a column of mass [L, C] fp64, count
    [L, C] int64 and tokens [C] int64 (all tokens seen with it). A key with more than MAX_VALUES
    values is dropped, and stays dropped, so the state does not grow with the data.
    """

    def __init__(self, n_latents: int) -> None:
        self.columns: dict[str, dict[str, int] | None] = {}  # None: a dropped key
        self.mass = np.zeros((n_latents, 8))
        self.count = np.zeros((n_latents, 8), np.int64)
        self.tokens = np.zeros(8, np.int64)
        self._free = list(range(8))[::-1]

    def categories(
        self, doc: NDArray[np.int64], meta: Mapping[int, Mapping[str, str]]
    ) -> NDArray[np.int32]:
        """The columns that each token's document belongs to, [N, keys]; -1 where it has no value.

        doc [N]: the document of each token. meta: metadata by document.
        """
        ids, inverse, lengths = np.unique(doc, return_inverse=True, return_counts=True)
        for d in ids.tolist():
            for key, value in sorted(meta.get(d, {}).items()):
                self._discover(key, str(value))
        kept = [(key, columns) for key, columns in self.columns.items() if columns is not None]
        table = np.full((len(ids), len(kept)), -1, np.int32)
        for row, d in enumerate(ids.tolist()):
            own = meta.get(d, {})
            for k, (key, columns) in enumerate(kept):
                if key in own:
                    table[row, k] = columns[str(own[key])]
                    self.tokens[table[row, k]] += lengths[row]
        return table[inverse]

    def update(
        self, columns: Columns, category: NDArray[np.int32], latents: tuple[int, int]
    ) -> None:
        """Add a block's entries; category [N, keys] is what `categories` gave for its tokens."""
        _add(
            *latents, columns.starts, columns.rows, columns.values, category, self.mass, self.count
        )

    def merge(self, other: MetaMass) -> None:
        """Add the state of other data, matching columns by name.

        Raises MismatchError if the numbers of latents differ.
        """
        if len(self.mass) != len(other.mass):
            raise MismatchError(
                "cannot merge metadata of different latents",
                got=f"{len(other.mass)} latents",
                expected=len(self.mass),
            )
        for key, theirs in sorted(other.columns.items()):
            if theirs is None:
                self._drop(key)
                continue
            for value in sorted(theirs):
                self._discover(key, value)
            ours = self.columns[key]
            if ours is None:
                continue
            for value, column in theirs.items():
                self.mass[:, ours[value]] += other.mass[:, column]
                self.count[:, ours[value]] += other.count[:, column]
                self.tokens[ours[value]] += other.tokens[column]

    def names(self, n_documents: int) -> list[tuple[str, int]]:
        """("key=value", column) of every kept metadata value, sorted by name.

        A key with more values than a third of the documents (but two at least) is left out too.
        """
        most = max(2, n_documents // 3)
        return sorted(
            (f"{key}={value}", column)
            for key, columns in self.columns.items()
            if columns is not None and len(columns) <= most
            for value, column in columns.items()
        )

    def _discover(self, key: str, value: str) -> None:
        columns = self.columns.setdefault(key, {})
        if columns is None or value in columns:
            return
        if len(columns) == MAX_VALUES:
            self._drop(key)
            return
        if not self._free:
            self._grow()
        columns[value] = self._free.pop()

    def _drop(self, key: str) -> None:
        freed: Sequence[int] = list((self.columns.get(key) or {}).values())
        self.mass[:, freed] = 0
        self.count[:, freed] = 0
        self.tokens[freed] = 0
        self._free.extend(freed)
        self.columns[key] = None

    def _grow(self) -> None:
        n = len(self.tokens)
        self._free = list(range(n, 2 * n))[::-1]
        self.mass = np.concatenate([self.mass, np.zeros_like(self.mass)], axis=1)
        self.count = np.concatenate([self.count, np.zeros_like(self.count)], axis=1)
        self.tokens = np.concatenate([self.tokens, np.zeros_like(self.tokens)])
