"""The search for the rule that best predicts where each latent fires, from counts alone.

No latent is ever compared with every token. Its own firings are counted by the values of a field
(a sparse product Fᵀ·onehot), the sample's base rates are counted once, and every candidate rule
is scored from those two. A firing weighs as much as it is strong (its value over the latent's
mean), so that faint firings do not decide what a latent is called; a false alarm weighs 1:
F1 = 2·TP / (2·TP + missed + false alarms).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from monoscope.features.rules import META, AnyOf, Both, Rule, TokenTable

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MAX_VALUES = 12  # values a rule may list: a label nobody could read is no label
POOL = 64  # values tried per latent and field, the best ones singly
VALUE_COST = 0.004  # F1 a further value must earn
MIN_HITS = 2  # firings on a value before it is tried: one is chance
# What a rule must gain in F1 over a plainer one; next tokens say what follows, not what is seen.
FIELD_COST = {"word": 0.005, "phrase": 0.01, "previous": 0.01, "next": 0.03, "shape": 0.01}
BOTH_COST = 0.02
PAIRED = ("token", "word", "shape", "previous")


@dataclass(frozen=True)
class Firings:
    """Where latents fire in a table: entry e is latent[e] on token row[e], value[e]; all [nnz]."""

    latent: Ints
    row: Ints
    value: Floats
    d_sae: int

    @property
    def totals(self) -> Ints:
        """Firings of each latent, [L]."""
        return np.bincount(self.latent, minlength=self.d_sae).astype(np.int64)

    @property
    def mass(self) -> Floats:
        """Σ value of each latent, [L]."""
        return np.bincount(self.latent, self.value, minlength=self.d_sae).astype(np.float64)

    def where(self, keep: NDArray[np.bool_]) -> Firings:
        """The firings for which keep [nnz] holds."""
        return Firings(self.latent[keep], self.row[keep], self.value[keep], self.d_sae)

    def weighed(self) -> Firings:
        """The same with values over their latent's mean, so that each latent's sum to its count."""
        mean = self.mass / np.maximum(self.totals, 1)
        return Firings(self.latent, self.row, self.value / mean[self.latent], self.d_sae)


@dataclass(frozen=True)
class Found:
    """The best rule of each latent, None where it has no candidate, and its F1 where chosen."""

    rules: list[Rule | None]
    score: Floats
    plain: list[AnyOf | None]  # the best rule on the token alone, for labels that stay unclear


@dataclass
class _Candidate:
    """One rule per latent, as codes: picks [L, M] into the column, −1 for none; f1 and cost [L]."""

    column: str
    picks: Ints
    size: Ints
    score: Floats
    meta: str | None = None
    meta_value: Ints | None = None


def find_rules(table: TokenTable, firings: Firings, choosing: NDArray[np.bool_]) -> Found:
    """Propose rules on the rows outside `choosing` [N] and choose among them on those inside.

    Values are added greedily by F1 where they are proposed; how many to keep, and which field,
    is decided by F1 less a small cost on rows the proposals never saw. Where every row is
    choosing, both steps use all rows.
    """
    proposing = ~choosing if not choosing.all() else choosing
    weighed = firings.weighed()
    parts = [_Part(table, weighed.where(k[weighed.row]), k) for k in (proposing, choosing)]
    best = np.full(firings.d_sae, -np.inf)
    rules: list[Rule | None] = [None] * firings.d_sae
    plain: list[AnyOf | None] = [None] * firings.d_sae
    for candidate in _candidates(table, *parts):
        better = np.flatnonzero(candidate.score > best)
        best[better] = candidate.score[better]
        for latent in better.tolist():
            rules[latent] = _rule(table, candidate, latent)
        if candidate.column == "token" and candidate.meta is None:
            plain = [_plain(table, candidate, latent) for latent in range(firings.d_sae)]
    return Found(rules, best, plain)


class _Part:
    """One part of the sample: its firings, and the base counts of its columns."""

    def __init__(self, table: TokenTable, firings: Firings, rows: NDArray[np.bool_]) -> None:
        self.table, self.firings, self.rows = table, firings, rows
        self.mass = firings.mass

    def base(self, column: str) -> Ints:
        codes = self.table.columns[column].codes[self.rows]
        size = len(self.table.columns[column].names)
        return np.bincount(codes[codes >= 0], minlength=size).astype(np.int64)

    def base_joint(self, left: str, right: str) -> Ints:
        a, b = self.table.columns[left], self.table.columns[right]
        held = self.rows & (a.codes >= 0) & (b.codes >= 0)
        pair = a.codes[held].astype(np.int64) * len(b.names) + b.codes[held]
        return np.bincount(pair, minlength=len(a.names) * len(b.names)).astype(np.int64)

    def hits(self, column: str, firings: Firings | None = None) -> sparse.csr_matrix:
        """Firings of each latent on each value of the column, [L, V]: count + i·weight.

        Complex numbers, so that one sparse sum adds up both.
        """
        firings = self.firings if firings is None else firings
        codes = self.table.columns[column].codes[firings.row]
        held = codes >= 0
        shape = (firings.d_sae, max(len(self.table.columns[column].names), 1))
        each = (1 + 1j * firings.value[held]).astype(np.complex64)
        return sparse.csr_matrix((each, (firings.latent[held], codes[held])), shape=shape)


def _candidates(table: TokenTable, propose: _Part, choose: _Part) -> Iterator[_Candidate]:
    meta = [name for name in table.columns if name.startswith(META)]
    for column in table.columns:
        hits, base = propose.hits(column), propose.base(column)
        picks = _greedy(hits, lambda row, value, base=base: base[value], propose.mass)
        cost = FIELD_COST.get(column, 0.0)
        chosen = choose.base(column)
        yield _sized(
            column, picks, choose.hits(column), lambda r, v, b=chosen: b[v], choose.mass, cost
        )
    for key in meta:
        value = _leading(propose.hits(key), propose.base(key), propose.mass)
        for column in (name for name in PAIRED if name in table.columns):
            yield _paired(column, key, value, propose, choose)


def _paired(column: str, key: str, value: Ints, propose: _Part, choose: _Part) -> _Candidate:
    """Rules `column ∈ S and key = value[latent]`: the same search inside the metadata value."""
    codes, width = propose.table.columns[key].codes, len(propose.table.columns[key].names)

    def inside(part: _Part) -> tuple[sparse.csr_matrix, Any]:
        firings = part.firings
        kept = (codes[firings.row] == value[firings.latent]) & (value[firings.latent] >= 0)
        joint = part.base_joint(column, key)
        return part.hits(column, firings.where(kept)), lambda row, v: joint[v * width + value[row]]

    hits, base = inside(propose)
    picks = _greedy(hits, base, propose.mass)
    hits, base = inside(choose)
    cost = BOTH_COST + FIELD_COST.get(column, 0.0)
    candidate = _sized(column, picks, hits, base, choose.mass, cost)
    candidate.score[value < 0] = -np.inf
    candidate.meta, candidate.meta_value = key, value
    return candidate


def _leading(hits: sparse.csr_matrix, base: Ints, total: Floats) -> Ints:
    """The metadata value that alone predicts each latent best by F1, −1 where it never fires."""
    dense = hits.toarray().astype(np.complex128)
    f1 = _f1(dense.imag, base[None, :] - dense.real, total[:, None])
    return np.where(dense.real.sum(1) > 0, f1.argmax(1), -1).astype(np.int64)


def _f1(tp: Floats, false: Floats, total: Floats) -> Floats:
    """2·TP / (2·TP + missed + false alarms), where TP + missed = total; 0 where nothing fires."""
    return 2 * tp / np.maximum(total + tp + false, 1e-12)


def _greedy(hits: sparse.csr_matrix, base_of: Any, total: Floats) -> Ints:
    """Add, one by one, the value that raises F1 most: codes [L, MAX_VALUES], −1 for no more."""
    pool, pool_tp, pool_false = _pool(hits, base_of, total)
    n_latents, width = pool.shape
    picks = np.full((n_latents, MAX_VALUES), -1, dtype=np.int64)
    tp, false, best = (np.zeros(n_latents) for _ in range(3))
    every = np.arange(n_latents)
    for step in range(min(MAX_VALUES, width)):
        f1 = _f1(tp[:, None] + pool_tp, false[:, None] + pool_false, total[:, None])
        pick = f1.argmax(1)
        gains = f1[every, pick] > best
        rows, pick = every[gains], pick[gains]
        if not len(rows):
            break
        picks[rows, step] = pool[rows, pick]
        tp[rows] += pool_tp[rows, pick]
        false[rows] += pool_false[rows, pick]
        best[rows] = f1[rows, pick]
        pool_false[rows, pick] = np.inf
    return picks


def _pool(hits: sparse.csr_matrix, base_of: Any, total: Floats) -> tuple[Ints, Floats, Floats]:
    """The POOL values of each latent with the best F1 of their own: code, TP, false alarms [L, P].

    Where there are fewer, the code is −1 and the false alarms infinite.
    """
    n_latents = hits.shape[0]
    latent = np.repeat(np.arange(n_latents), np.diff(hits.indptr))
    kept = hits.data.real >= MIN_HITS
    latent, value = latent[kept], hits.indices[kept].astype(np.int64)
    tp, count = (part[kept].astype(np.float64) for part in (hits.data.imag, hits.data.real))
    false = base_of(latent, value) - count
    order = np.lexsort((value, -_f1(tp, false, total[latent]), latent))  # best first, ties by code
    latent, value, tp, false = latent[order], value[order], tp[order], false[order]
    rank = np.arange(len(latent)) - np.searchsorted(latent, np.arange(n_latents))[latent]
    kept = rank < POOL
    shape = (n_latents, int(rank[kept].max()) + 1 if kept.any() else 1)
    where = (latent[kept], rank[kept])
    pool, pool_tp, pool_false = np.full(shape, -1), np.zeros(shape), np.full(shape, np.inf)
    pool[where], pool_tp[where], pool_false[where] = value[kept], tp[kept], false[kept]
    return pool, pool_tp, pool_false


def _sized(
    column: str, picks: Ints, hits: sparse.csr_matrix, base_of: Any, total: Floats, cost: float
) -> _Candidate:
    """Keep of each latent's picks the prefix with the best F1 − cost on the choosing part."""
    latent, step = np.nonzero(picks >= 0)
    value = picks[latent, step]
    found = _lookup(hits, latent, value)
    tp, false = np.zeros(picks.shape), np.zeros(picks.shape)
    tp[latent, step] = found.imag
    false[latent, step] = base_of(latent, value) - found.real
    f1 = _f1(tp.cumsum(1), false.cumsum(1), total[:, None])
    score = np.where(picks >= 0, f1 - VALUE_COST * np.arange(picks.shape[1]) - cost, -np.inf)
    size = score.argmax(1)
    return _Candidate(column, picks, size + 1, score[np.arange(len(size)), size])


def _lookup(matrix: sparse.csr_matrix, row: Ints, col: Ints) -> NDArray[np.complex128]:
    """matrix[row, col], entry by entry, by binary search; 0 where there is no entry."""
    matrix.sort_indices()
    width = matrix.shape[1]
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
    keys = np.append(rows * width + matrix.indices, np.iinfo(np.int64).max)
    wanted = row * width + col
    at = np.searchsorted(keys, wanted)
    out: NDArray[np.complex128] = np.where(keys[at] == wanted, np.append(matrix.data, 0)[at], 0)
    return out


def _rule(table: TokenTable, candidate: _Candidate, latent: int) -> Rule:
    names = table.columns[candidate.column].names
    codes = candidate.picks[latent, : candidate.size[latent]]
    rule = AnyOf(candidate.column, tuple(names[code] for code in codes))
    if candidate.meta is None or candidate.meta_value is None:
        return rule
    value = table.columns[candidate.meta].names[candidate.meta_value[latent]]
    return Both(rule, AnyOf(candidate.meta, (value,)))


def _plain(table: TokenTable, candidate: _Candidate, latent: int) -> AnyOf | None:
    if not np.isfinite(candidate.score[latent]):
        return None
    codes = candidate.picks[latent, : min(3, int(candidate.size[latent]))]
    return AnyOf("token", tuple(table.columns["token"].names[code] for code in codes))
