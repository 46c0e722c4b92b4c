"""The examples of each latent: its strongest contexts, and a fair sample from weak to strong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monoscope.errors import MismatchError
from monoscope.features import sample_kernels as kernels
from monoscope.features.columns import Columns
from monoscope.features.sample_kernels import (
    BIN_SLOTS,
    EMPTY,
    FLOOR,
    N_SLOTS,
    N_TOP,
    RANDOM,
    RING,
    WINDOW,
)  # fmt: skip

N_BANDS = 5
PER_BAND = 4  # no more than a bin keeps, or the draw within a band would not be fair


@dataclass(frozen=True)
class Chosen:
    """Examples drawn from a state, sorted by latent, kind, band and rank; all arrays [n].

    band: EMPTY for the top contexts, else 0 (weakest) … N_BANDS-1. window [n, WINDOW] float32: the
    latent on the tokens around the example, which is in the middle.
    """

    latent: NDArray[np.int64]
    band: NDArray[np.int64]
    rank: NDArray[np.int64]
    value: NDArray[np.float32]
    doc: NDArray[np.int64]
    pos: NDArray[np.int32]
    window: NDArray[np.float32]


@dataclass
class Samples:
    """Kept examples of L latents: arrays [L, N_SLOTS], laid out as `sample_kernels` says.

    ceiling [L]: quarter octave of the largest value so far. About 17 kB per latent, whatever the
    number of tokens.
    """

    seed: int
    value: NDArray[np.float32]
    doc: NDArray[np.int64]
    pos: NDArray[np.int32]
    priority: NDArray[np.uint64]
    window: NDArray[np.float32]
    ceiling: NDArray[np.int32]

    @classmethod
    def empty(cls, n_latents: int, seed: int) -> Samples:
        """The state before any data."""
        shape = (n_latents, N_SLOTS)
        return cls(
            seed,
            np.zeros(shape, np.float32),
            np.full(shape, EMPTY, np.int64),
            np.zeros(shape, np.int32),
            np.zeros(shape, np.uint64),
            np.zeros((*shape, WINDOW), np.float32),
            np.full(n_latents, EMPTY, np.int32),
        )

    def update(
        self,
        columns: Columns,
        doc: NDArray[np.int64],
        pos: NDArray[np.int32],
        token_hash: NDArray[np.uint64],
        latents: tuple[int, int],
    ) -> None:
        """Offer a block's entries: doc, pos, token_hash [N] are those of its tokens, which come
        sorted by document and position. latents: the half-open range to work on."""
        kernels.add_columns(
            *latents, columns.starts, columns.rows, columns.values, columns.values.view(np.int32),
            doc, pos, token_hash, *self._slots(), self.ceiling,
        )  # fmt: skip

    def merge(self, other: Samples) -> None:
        """Add the examples of other documents, as if both had been seen in one stream.

        Raises MismatchError if the seeds differ, for then the priorities do not compare.
        """
        if self.seed != other.seed:
            raise MismatchError(
                "cannot merge samples drawn with different seeds",
                got=other.seed,
                expected=self.seed,
            )
        value, doc, pos, priority, window = other._slots()
        kernels.add_slots(
            *self._slots(), self.ceiling, value, value.view(np.int32),
            doc, pos, priority, window, other.ceiling,
        )  # fmt: skip

    def top(self) -> Chosen:
        """Up to N_TOP strongest contexts of each latent, at most one per document."""
        latent, slot = np.nonzero(self.doc[:, :N_TOP] != EMPTY)
        value, doc, pos = (a[latent, slot] for a in (self.value, self.doc, self.pos))
        order = np.lexsort((pos, doc, -value, latent))
        latent, slot = latent[order], slot[order]
        band = np.full(len(latent), EMPTY, np.int64)
        return self._chosen(latent, slot, band, _rank_within(latent))

    def bands(self, peak: NDArray[np.float32]) -> Chosen:
        """Up to PER_BAND examples from each of N_BANDS equal bands between 0 and the maximum.

        peak [L]: the maxima. A band's examples are its tokens of smallest priority, so that each
        token has the same chance; where a band ends within a bin, some that the bin did not keep
        may be missed. Bands without a token have no example; all others have.
        """
        latent, slot = np.nonzero(self.doc[:, RING:] != EMPTY)
        slot += RING
        band = band_of(self.value[latent, slot], peak[latent])
        group = latent * N_BANDS + band
        random = (slot >= FLOOR) | ((slot - RING) % BIN_SLOTS >= RANDOM)
        drawn = np.zeros(len(self.doc) * N_BANDS, bool)
        drawn[group[random]] = True
        kept = random | ~drawn[group]  # a bin's ends only stand in where no draw fell
        latent, slot, band, group = (a[kept] for a in (latent, slot, band, group))
        order = np.lexsort((self.priority[latent, slot], group))
        latent, slot, band, group = (a[order] for a in (latent, slot, band, group))
        kept = _rank_within(group) < PER_BAND
        latent, slot, band, group = (a[kept] for a in (latent, slot, band, group))
        value, doc, pos = (a[latent, slot] for a in (self.value, self.doc, self.pos))
        order = np.lexsort((pos, doc, -value, group))
        latent, slot, band, group = (a[order] for a in (latent, slot, band, group))
        return self._chosen(latent, slot, band, _rank_within(group))

    def _slots(self) -> tuple[NDArray[np.float32], ...]:
        arrays = (self.value, self.doc, self.pos, self.priority, self.window)
        return arrays  # type: ignore[return-value]

    def _chosen(
        self,
        latent: NDArray[np.int64],
        slot: NDArray[np.int64],
        band: NDArray[np.int64],
        rank: NDArray[np.int64],
    ) -> Chosen:
        at = (latent, slot)
        return Chosen(
            latent, band, rank, self.value[at], self.doc[at], self.pos[at], self.window[at]
        )  # fmt: skip


def band_of(value: NDArray[np.float32], peak: NDArray[np.float32]) -> NDArray[np.int64]:
    """The band of each value: floor(N_BANDS · value / peak), the peak itself in the highest."""
    share = value.astype(np.float64) / peak
    return np.minimum((N_BANDS * share).astype(np.int64), N_BANDS - 1)


def token_hashes(seed: int, doc: NDArray[np.int64], pos: NDArray[np.int32]) -> NDArray[np.uint64]:
    """A uint64 per token that depends on nothing but seed, document and position."""
    with np.errstate(over="ignore"):
        start = _mix(np.array([seed], dtype=np.int64).view(np.uint64))
        return _mix(_mix(start ^ doc.view(np.uint64)) ^ pos.astype(np.uint64))


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64, as `sample_kernels.mix` computes it."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _rank_within(group: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, 2, … within each run of equal values of a sorted array."""
    n = len(group)
    first = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]])) if n else group
    length = np.diff(np.append(first, n))
    return np.arange(n) - np.repeat(first, length)
