"""Which latents fire on the same tokens: counted over all pairs, exactly where that fits.

Up to MAX_EXACT latents (and not too many active at once) every pair of every token is counted.
Tokens wait, as their active latents, until there are many; then the pairs on them are added to
those counted before, a latent's partners at a time, in a row of counters that stays in the cache.
So time goes with tokens × L0² and memory with the pairs that were ever seen together.

Beyond that a random set of tokens is kept, bounded in size, and pairs are counted on those; how
many tokens the counts rest on is part of the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from monoscope.errors import MismatchError
from monoscope.features.columns import Columns, even_parts, share

MAX_EXACT = 16_384  # latents; the pairs seen, 8 bytes each, then take at most 1.1 GB
MAX_EXACT_L0 = 128  # active latents a token; with more, counting all pairs outweighs encoding
WAITING_ENTRIES = 2**21  # active entries of the tokens whose pairs wait to be counted
STORED_PER_WAITING = 16  # pairs stored for each of them, at most: what keeps the adding cheap
SAMPLE_ENTRIES = 2**25  # kept active entries of sampled tokens
SAMPLE_PAIRS = 2**32  # pairs of active latents on sampled tokens


@njit(cache=True, nogil=True)
def _waiting(starts, rows, entries, offsets):  # type: ignore[no-untyped-def]
    """Pairs of each latent with larger ones on a block's tokens, [L]."""
    n = np.zeros(len(starts) - 1, np.int64)
    for i in range(len(n)):
        for j in range(starts[i], starts[i + 1]):
            n[i] += offsets[rows[j] + 1] - entries[j] - 1
    return n


@njit(cache=True, nogil=True)
def _add(lo, hi, before, more, starts, rows, entries, indices, offsets, other, both, length):  # type: ignore[no-untyped-def]
    """Rows lo … hi-1 of `before` + `more` + the pairs of a block's tokens, ascending.

    Written to other, both one after another, and to length[lo:hi]; how many there are. One row's
    counters are used at a time, and a mark for each eight of them says where to look.
    """
    n = len(starts) - 1
    seen = np.zeros(n + 8, np.uint32)
    marks = np.zeros(n // 8 + 1, np.uint8)
    at = 0
    for i in range(lo, hi):
        for known in (before, more):
            for t in range(known[0][i], known[0][i + 1]):
                seen[known[1][t]] += known[2][t]
                marks[known[1][t] >> 3] = 1
        for j in range(starts[i], starts[i + 1]):
            for e in range(entries[j] + 1, offsets[rows[j] + 1]):
                seen[indices[e]] += np.uint32(1)
                marks[indices[e] >> 3] = 1
        first = at
        for g in range((i + 1) >> 3, len(marks)):
            if marks[g]:
                marks[g] = 0
                for o in range(8 * g, 8 * g + 8):
                    other[at], both[at] = o, seen[o]  # no branch: a zero is written over
                    at += seen[o] > 0
                    seen[o] = 0
        length[i] = at - first
    return at


@njit(cache=True, nogil=True)
def _look_up(left, right, starts, other, both, out):  # type: ignore[no-untyped-def]
    for n in range(len(left)):
        row = other[starts[left[n]] : starts[left[n] + 1]]
        at = np.searchsorted(row, right[n])
        if at < len(row) and row[at] == right[n]:
            out[n] = both[starts[left[n]] + at]


@njit(cache=True, nogil=True)
def _offer(i, j, n_both, score, other, both, scores):  # type: ignore[no-untyped-def]
    """Put j among latent i's best if it belongs there: by score, then by smaller id."""
    k = other.shape[1]
    s = k
    while s > 0 and (
        other[i, s - 1] < 0
        or score > scores[i, s - 1]
        or (score == scores[i, s - 1] and j < other[i, s - 1])
    ):
        s -= 1
    if s == k:
        return
    for t in range(k - 1, s, -1):
        other[i, t], both[i, t], scores[i, t] = other[i, t - 1], both[i, t - 1], scores[i, t - 1]
    other[i, s], both[i, s], scores[i, s] = j, n_both, score


@njit(cache=True, nogil=True)
def _best_of_counts(starts, others, boths, count, least, other, both, scores):  # type: ignore[no-untyped-def]
    for i in range(len(count)):
        for t in range(starts[i], starts[i + 1]):
            j, n_both = others[t], np.int64(boths[t])
            if n_both >= least:
                score = n_both / (count[i] + count[j] - n_both)
                _offer(i, j, n_both, score, other, both, scores)
                _offer(j, i, n_both, score, other, both, scores)


@njit(cache=True, nogil=True)
def _best_of_sample(starts, rows, indices, offsets, count, least, other, both, scores):  # type: ignore[no-untyped-def]
    n = len(count)
    seen = np.zeros(n, np.int64)
    touched = np.empty(n, np.int64)
    for i in range(n):
        n_touched = 0
        for j in range(starts[i], starts[i + 1]):
            for e in range(offsets[rows[j]], offsets[rows[j] + 1]):
                o = indices[e]
                if seen[o] == 0:
                    touched[n_touched] = o
                    n_touched += 1
                seen[o] += 1
        for t in range(n_touched):
            o = touched[t]
            if o != i and seen[o] >= least:
                score = seen[o] / (count[i] + count[o] - seen[o])
                _offer(i, o, seen[o], score, other, both, scores)
            seen[o] = 0


@njit(cache=True, nogil=True)
def _pairs_of_sample(left, right, starts, rows, out):  # type: ignore[no-untyped-def]
    for n in range(len(left)):
        a, b = starts[left[n]], starts[right[n]]
        while a < starts[left[n] + 1] and b < starts[right[n] + 1]:
            if rows[a] == rows[b]:
                out[n] += 1
                a += 1
                b += 1
            elif rows[a] < rows[b]:
                a += 1
            else:
                b += 1


@dataclass(frozen=True)
class Best:
    """Each latent's best partners, [L, K]: other (-1 where there are fewer), n_both, jaccard."""

    other: NDArray[np.int64]
    n_both: NDArray[np.int64]
    jaccard: NDArray[np.float64]

    @classmethod
    def empty(cls, n_latents: int, k: int) -> Best:
        """No partners yet."""
        shape = (n_latents, k)
        return cls(np.full(shape, -1, np.int64), np.zeros(shape, np.int64), np.zeros(shape))


class Counted(NamedTuple):
    """Pairs in compressed rows: latent i was seen with other > i on `both` tokens, ascending."""

    starts: NDArray[np.int64]
    other: NDArray[np.int32]
    both: NDArray[np.uint32]

    @classmethod
    def none(cls, n_latents: int) -> Counted:
        """No pairs yet."""
        return cls(np.zeros(n_latents + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.uint32))

    def plus(self, more: Counted, columns: Columns, threads: int) -> Counted:
        """These counts, `more` of them, and those of the tokens in `columns`."""
        n = len(self.starts) - 1
        places = np.diff(self.starts) + np.diff(more.starts)
        places += _waiting(columns.starts, columns.rows, columns.entries, columns.offsets)
        places = np.minimum(places, n - 1 - np.arange(n))
        length = np.empty(n, np.int64)
        found: dict[int, tuple[NDArray[np.int32], NDArray[np.uint32]]] = {}

        def add(latents: tuple[int, int]) -> None:
            room = int(places[slice(*latents)].sum()) + 1  # what stays unused is never touched
            other, both = np.empty(room, np.int32), np.empty(room, np.uint32)
            used = _add(
                *latents, tuple(self), tuple(more), columns.starts, columns.rows, columns.entries,
                columns.indices, columns.offsets, other, both, length,
            )  # fmt: skip
            found[latents[0]] = other[:used], both[:used]

        share(add, even_parts(np.concatenate([[0], places.cumsum()]), threads))
        others, boths = zip(*(found[at] for at in sorted(found)), strict=True)
        starts = np.concatenate([[0], length.cumsum()])
        if len(found) == 1:
            return Counted(starts, others[0], boths[0])
        return Counted(starts, np.concatenate(others), np.concatenate(boths))


class PairCounts:
    """Exact counts of tokens on which both latents of a pair are active.

    It holds 8 bytes for each pair ever seen and a bounded number of tokens that wait.
    """

    exact = True

    def __init__(self, n_latents: int) -> None:
        self.n_tokens = 0
        self.count = np.zeros(n_latents, np.int64)
        self._counted = Counted.none(n_latents)
        self._length: list[NDArray[np.int64]] = []  # of the tokens that wait
        self._indices: list[NDArray[np.int32]] = []
        self._threads = 1

    def add(self, columns: Columns, token_hash: NDArray[np.uint64], threads: int = 1) -> None:
        """Count the pairs, and each latent's firings, on a block's tokens."""
        self.n_tokens += len(token_hash)
        self.count += np.diff(columns.starts)
        self._length.append(np.diff(columns.offsets))
        self._indices.append(columns.indices)
        self._threads = threads
        stored = len(self._counted.other)
        if sum(map(len, self._indices)) >= max(WAITING_ENTRIES, stored // STORED_PER_WAITING):
            self._settle()

    def merge(self, other: PairCounts) -> None:
        """Add the counts of other data."""
        self.n_tokens += other.n_tokens
        self.count += other.count
        self._length += other._length
        self._indices += other._indices
        self._settle(other._counted)

    def best(self, k: int, least: int) -> Best:
        """The k partners of each latent with the highest Jaccard index and n_both >= least."""
        best = Best.empty(len(self.count), k)
        _best_of_counts(
            *self._settle(), self.count, least, best.other, best.n_both, best.jaccard
        )  # fmt: skip
        return best

    def pairs(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
        """n_both of the given pairs of different latents, [n]."""
        out = np.zeros(len(left), np.int64)
        _look_up(np.minimum(left, right), np.maximum(left, right), *self._settle(), out)
        return out

    def _settle(self, more: Counted | None = None) -> Counted:
        """Count the pairs of the tokens that wait, and add `more`."""
        n_latents = len(self.count)
        if more is not None or self._length:
            lengths = np.concatenate([[0], *self._length])
            indices = np.concatenate([np.zeros(0, np.int32), *self._indices])
            columns = Columns.of_ones(indices, lengths.cumsum(), n_latents)
            more = Counted.none(n_latents) if more is None else more
            self._counted = self._counted.plus(more, columns, self._threads)
            self._length, self._indices = [], []
        return self._counted


class PairSample:
    """The active latents of randomly chosen tokens, from which pairs are counted at the end.

    A token is kept while its hash is below a limit; the limit is halved whenever the kept tokens
    hold too many entries or pairs. The limit reached, and so the sample, does not depend on the
    order of the data, and two samples merge into the sample of the whole.
    """

    exact = False

    def __init__(
        self, n_latents: int, max_entries: int = SAMPLE_ENTRIES, max_pairs: int = SAMPLE_PAIRS
    ) -> None:
        self.n_latents = n_latents
        self.max_entries, self.max_pairs = max_entries, max_pairs
        self.shift = 0  # kept: hash >> (64 - shift) == 0
        self.token_hash = np.zeros(0, np.uint64)
        self.length = np.zeros(0, np.int64)
        self.indices = np.zeros(0, np.int32)

    @property
    def n_tokens(self) -> int:
        """Tokens in the sample."""
        return len(self.token_hash)

    @property
    def count(self) -> NDArray[np.int64]:
        """Firings of each latent in the sample, [L]."""
        return np.bincount(self.indices, minlength=self.n_latents)

    def add(self, columns: Columns, token_hash: NDArray[np.uint64], threads: int = 1) -> None:
        """Keep a block's chosen tokens; their pairs are counted at the end."""
        length = np.diff(columns.offsets)
        kept = _below(token_hash, self.shift)
        self._append(token_hash[kept], length[kept], columns.indices[np.repeat(kept, length)])

    def merge(self, other: PairSample) -> None:
        """Add the sample of other data."""
        self.shift = max(self.shift, other.shift)
        self._trim()
        kept = _below(other.token_hash, self.shift)
        entries = other.indices[np.repeat(kept, other.length)]
        self._append(other.token_hash[kept], other.length[kept], entries)

    def best(self, k: int, least: int) -> Best:
        """The k partners of each latent with the highest Jaccard index and n_both >= least."""
        columns, best = self._columns(), Best.empty(self.n_latents, k)
        _best_of_sample(
            columns.starts, columns.rows, columns.indices, columns.offsets, self.count, least,
            best.other, best.n_both, best.jaccard,
        )  # fmt: skip
        return best

    def pairs(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
        """n_both of the given pairs of different latents, [n]."""
        columns, out = self._columns(), np.zeros(len(left), np.int64)
        _pairs_of_sample(left, right, columns.starts, columns.rows, out)
        return out

    def _columns(self) -> Columns:
        offsets = np.concatenate([[0], np.cumsum(self.length)])
        return Columns.of_ones(self.indices, offsets, self.n_latents)

    def _append(
        self, token_hash: NDArray[np.uint64], length: NDArray[np.int64], indices: NDArray[np.int32]
    ) -> None:
        self.token_hash = np.concatenate([self.token_hash, token_hash])
        self.length = np.concatenate([self.length, length])
        self.indices = np.concatenate([self.indices, indices])
        while self.n_tokens > 1 and (
            len(self.indices) > self.max_entries or int((self.length**2).sum()) > self.max_pairs
        ):
            self.shift += 1
            self._trim()

    def _trim(self) -> None:
        kept = _below(self.token_hash, self.shift)
        self.indices = self.indices[np.repeat(kept, self.length)]
        self.token_hash, self.length = self.token_hash[kept], self.length[kept]


def _below(token_hash: NDArray[np.uint64], shift: int) -> NDArray[np.bool_]:
    """Which hashes lie under 2 ** (64 - shift)."""
    if shift == 0:  # a shift by all 64 bits is undefined
        return np.ones(len(token_hash), bool)
    below: NDArray[np.bool_] = token_hash >> np.uint64(64 - shift) == 0
    return below


Pairs = PairCounts | PairSample


def pair_counter(n_latents: int, l0: float) -> Pairs:
    """The exact counter where it fits L latents, about l0 active at once; else the sample."""
    exact = n_latents <= MAX_EXACT and l0 <= MAX_EXACT_L0
    return PairCounts(n_latents) if exact else PairSample(n_latents)


def merge_pairs(into: Pairs, other: Pairs) -> None:
    """Add the counts of other data.

    Raises MismatchError if the two count in different ways or for different latents.
    """
    if isinstance(into, PairCounts) and isinstance(other, PairCounts):
        if len(into.count) == len(other.count):
            into.merge(other)
            return
    elif (
        isinstance(into, PairSample)
        and isinstance(other, PairSample)
        and into.n_latents == other.n_latents
    ):
        into.merge(other)
        return
    raise MismatchError("cannot merge co-activation counts of different kinds or latents")


def pmi(
    n_both: NDArray[np.int64], n_left: NDArray[np.int64], n_right: NDArray[np.int64], n_tokens: int
) -> NDArray[np.float64]:
    """Pointwise mutual information log(n_both·N/(n_left·n_right)), nats; NaN where never both."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = n_both * float(n_tokens) / (n_left.astype(np.float64) * n_right)
        return np.where(n_both > 0, np.log(ratio), np.nan)
