"""The search for the rule that best predicts where each latent fires, from counts alone.

No latent is ever compared with every token. Its own firings are counted by the values of a field
(a sparse product Fᵀ·onehot), the sample's base rates are counted once, and every candidate rule
is scored from those two: F1 = 2·TP / (n_fired + n_rule).
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
    """Where latents fire in a table: entry e is latent[e] on token row[e]; both [nnz]."""

    latent: Ints
    row: Ints
    d_sae: int

    @property
    def totals(self) -> Ints:
        """Firings of each latent, [L]."""
        return np.bincount(self.latent, minlength=self.d_sae).astype(np.int64)

    def where(self, keep: NDArray[np.bool_]) -> Firings:
        """The firings on the rows for which keep [N] holds."""
        kept = keep[self.row]
        return Firings(self.latent[kept], self.row[kept], self.d_sae)


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
    parts = [_Part(table, firings.where(rows), rows) for rows in (proposing, choosing)]
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
        self.totals = firings.totals

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
        """Firings of each latent on each value of the column, [L, V]."""
        firings = self.firings if firings is None else firings
        codes = self.table.columns[column].codes[firings.row]
        held = codes >= 0
        shape = (firings.d_sae, max(len(self.table.columns[column].names), 1))
        ones = np.ones(int(held.sum()), dtype=np.int32)
        return sparse.csr_matrix((ones, (firings.latent[held], codes[held])), shape=shape)


def _candidates(table: TokenTable, propose: _Part, choose: _Part) -> Iterator[_Candidate]:
    meta = [name for name in table.columns if name.startswith(META)]
    for column in table.columns:
        hits, base = propose.hits(column), propose.base(column)
        picks = _greedy(hits, lambda row, value, base=base: base[value], propose.totals)
        cost = FIELD_COST.get(column, 0.0)
        chosen = choose.base(column)
        yield _sized(
            column, picks, choose.hits(column), lambda r, v, b=chosen: b[v], choose.totals, cost
        )
    for key in meta:
        value = _leading(propose.hits(key), propose.base(key), propose.totals)
        for column in (name for name in PAIRED if name in table.columns):
            yield _paired(column, key, value, propose, choose)


def _paired(column: str, key: str, value: Ints, propose: _Part, choose: _Part) -> _Candidate:
    """Rules `column ∈ S and key = value[latent]`: the same search inside the metadata value."""
    codes, width = propose.table.columns[key].codes, len(propose.table.columns[key].names)

    def inside(part: _Part) -> tuple[sparse.csr_matrix, Any]:
        firings = part.firings
        kept = (codes[firings.row] == value[firings.latent]) & (value[firings.latent] >= 0)
        joint = part.base_joint(column, key)
        narrowed = Firings(firings.latent[kept], firings.row[kept], firings.d_sae)
        return part.hits(column, narrowed), lambda row, v: joint[v * width + value[row]]

    hits, base = inside(propose)
    picks = _greedy(hits, base, propose.totals)
    hits, base = inside(choose)
    cost = BOTH_COST + FIELD_COST.get(column, 0.0)
    candidate = _sized(column, picks, hits, base, choose.totals, cost)
    candidate.score[value < 0] = -np.inf
    candidate.meta, candidate.meta_value = key, value
    return candidate


def _leading(hits: sparse.csr_matrix, base: Ints, totals: Ints) -> Ints:
    """The metadata value that alone predicts each latent best by F1, −1 where it never fires."""
    dense = np.asarray(hits.todense(), dtype=np.float64)
    f1 = 2 * dense / np.maximum(totals[:, None] + base[None, :], 1)
    return np.where(dense.sum(1) > 0, f1.argmax(1), -1).astype(np.int64)


def _greedy(hits: sparse.csr_matrix, base_of: Any, totals: Ints) -> Ints:
    """Add, one by one, the value that raises F1 most: codes [L, MAX_VALUES], −1 for no more."""
    n_latents = hits.shape[0]
    latent = np.repeat(np.arange(n_latents), np.diff(hits.indptr))
    value, tp = hits.indices.astype(np.int64), hits.data.astype(np.float64)
    kept = tp >= MIN_HITS
    latent, value, tp = latent[kept], value[kept], tp[kept]
    base = base_of(latent, value).astype(np.float64)
    single = 2 * tp / (totals[latent] + base)
    order = np.lexsort((value, -single, latent))  # by latent, best first, ties by code
    latent, value, tp, base = latent[order], value[order], tp[order], base[order]
    start = np.searchsorted(latent, np.arange(n_latents))
    rank = np.arange(len(latent)) - start[latent]
    kept = rank < POOL
    width = int(rank[kept].max()) + 1 if kept.any() else 1
    where = (latent[kept], rank[kept])
    pool_tp, pool_base = np.zeros((n_latents, width)), np.full((n_latents, width), np.inf)
    pool_value = np.full((n_latents, width), -1, dtype=np.int64)
    pool_tp[where], pool_base[where], pool_value[where] = tp[kept], base[kept], value[kept]

    picks = np.full((n_latents, MAX_VALUES), -1, dtype=np.int64)
    got, fired, best = (np.zeros(n_latents) for _ in range(3))
    all_latents = np.arange(n_latents)
    for step in range(min(MAX_VALUES, width)):
        f1 = 2 * (got[:, None] + pool_tp) / (totals[:, None] + fired[:, None] + pool_base)
        pick = f1.argmax(1)
        gain = f1[all_latents, pick] > best
        rows, pick = all_latents[gain], pick[gain]
        if not len(rows):
            break
        picks[rows, step] = pool_value[rows, pick]
        got[rows] += pool_tp[rows, pick]
        fired[rows] += pool_base[rows, pick]
        best[rows] = f1[rows, pick]
        pool_base[rows, pick] = np.inf
    return picks


def _sized(
    column: str, picks: Ints, hits: sparse.csr_matrix, base_of: Any, totals: Ints, cost: float
) -> _Candidate:
    """Keep of each latent's picks the prefix with the best F1 − cost on the choosing part."""
    latent, step = np.nonzero(picks >= 0)
    value = picks[latent, step]
    tp, base = np.zeros(picks.shape), np.zeros(picks.shape)
    tp[latent, step] = _lookup(hits, latent, value)
    base[latent, step] = base_of(latent, value)
    f1 = 2 * tp.cumsum(1) / np.maximum(totals[:, None] + base.cumsum(1), 1)
    score = np.where(picks >= 0, f1 - VALUE_COST * np.arange(picks.shape[1]) - cost, -np.inf)
    size = score.argmax(1)
    return _Candidate(column, picks, size + 1, score[np.arange(len(size)), size])


def _lookup(matrix: sparse.csr_matrix, row: Ints, col: Ints) -> Ints:
    """matrix[row, col], entry by entry, by binary search."""
    matrix.sort_indices()
    width = matrix.shape[1]
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
    keys = rows * width + matrix.indices
    wanted = row * width + col
    at = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    if not len(keys):
        return np.zeros(len(wanted), dtype=np.int64)
    return np.where(keys[at] == wanted, matrix.data[at], 0).astype(np.int64)


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
