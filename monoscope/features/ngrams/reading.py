"""Token sequences of a sample, indexed by token, so that a pattern finds its places at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from monoscope.features.ngrams.patterns import Pattern, Tokens

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_GAP = 64  # impossible tokens before each document, more than any pattern is long


class StoredDoc(Protocol):
    """What is read of a stored document."""

    @property
    def token_ids(self) -> Sequence[int]: ...


@dataclass(frozen=True)
class Reading:
    """All T tokens of N sampled rows' documents, in order, with a gap before each document.

    ids [T]: −1 in a gap. row [T]: which sampled row a token is, −1 where it is none (masked).
    doc [N]: the document of each row. order, starts: the places of each token id.
    """

    ids: Ints
    row: Ints
    doc: Ints
    order: Ints
    starts: Ints

    @classmethod
    def build(cls, documents: Mapping[int, StoredDoc], doc: Ints, pos: Ints) -> Reading:
        """Of the rows (doc [N], pos [N]), pos counting each document's own tokens."""
        parts, begins, place = [], {}, 0
        for number in sorted(documents):
            own = np.asarray(documents[number].token_ids, np.int64)
            parts += [np.full(_GAP, -1, np.int64), own]
            begins[number] = place + _GAP
            place += _GAP + len(own)
        ids = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        row = np.full(len(ids), -1, np.int64)
        at = np.array([begins[d] for d in doc.tolist()], np.int64) + pos
        row[at] = np.arange(len(doc))
        order = np.argsort(ids, kind="stable")
        most = int(ids.max(initial=0))
        return cls(ids, row, doc, order, np.searchsorted(ids[order], np.arange(most + 2)))

    @property
    def n(self) -> int:
        """N, the sampled rows."""
        return len(self.doc)

    def places(self, token: int) -> Ints:
        """Where a token stands."""
        if token + 1 >= len(self.starts):
            return np.zeros(0, np.int64)
        return self.order[self.starts[token] : self.starts[token + 1]]

    def match(self, tokens: Tokens) -> Ints:
        """The sampled rows at which a pattern ends, ascending."""
        back = {len(tokens) - 1 - i: token for i, token in enumerate(tokens)}  # offset -> token
        fixed = {offset: token for offset, token in back.items() if token is not None}
        first = min(fixed, key=lambda offset: len(self.places(fixed[offset])))
        end = self.places(fixed[first]) + first
        end = end[end < len(self.ids)]
        for offset, token in back.items():
            here = self.ids[end - offset]
            end = end[here >= 0 if token is None else here == token]
        rows = self.row[end]
        return np.sort(rows[rows >= 0])

    def predict(self, patterns: Sequence[Pattern]) -> tuple[Ints, Floats]:
        """Where any pattern matches, ascending, and the largest value above zero that does."""
        found = [self.match(p.tokens) for p in patterns]
        if not found:
            return np.zeros(0, np.int64), np.zeros(0)
        rows, group = np.unique(np.concatenate(found), return_inverse=True)
        values = np.full(len(rows), -np.inf)
        of = np.concatenate(
            [np.full(len(f), p.value) for f, p in zip(found, patterns, strict=True)]
        )
        np.maximum.at(values, group, of)
        return rows[values > 0], values[values > 0]

    def outside(self, docs: Collection[int]) -> NDArray[np.bool_]:
        """Which rows belong to none of the documents, [N]."""
        return ~np.isin(self.doc, np.array(sorted(docs), np.int64))
