"""Rules a label is made of: statements about a token and its context that can be checked.

A `TokenTable` describes N tokens by categorical fields (the token's text, its word, its
neighbours, its shape, the document's metadata). A rule says which values of a field a latent
fires on. Values are text, not vocabulary ids, so a rule reads the same on any table.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from monoscope.errors import FormatError
from monoscope.visible import quoted, visible

LABEL_WIDTH = 60
META = "meta:"
_WORDING = {
    "token": "{}",
    "word": "{} any case",
    "phrase": "phrase {}",
    "previous": "after {}",
    "next": "before {}",
    "shape": "{}",
    "script": "{} script",
    "position": "token {} of the text",
}
_BARE = ("shape", "script", "position")


class StoredDoc(Protocol):
    """What is read of a stored document; ends[i] is the end of token i in `text`, in characters."""

    @property
    def text(self) -> str: ...
    @property
    def ends(self) -> Sequence[int]: ...
    @property
    def meta(self) -> Mapping[str, str]: ...


class Column:
    """One categorical field of N tokens: codes [N] int32 into `names`, −1 where it has no value."""

    def __init__(self, values: Iterable[Hashable | None], width: int = 0) -> None:
        index: dict[Hashable, int] = {}
        codes = np.fromiter(
            (-1 if v is None else index.setdefault(v, len(index)) for v in values), np.int32, -1
        )
        self.codes: NDArray[np.int32] = codes
        self.names: list[str] = [str(name) for name in index]
        self.index: dict[str, int] = {name: i for i, name in enumerate(self.names)}

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Tokens holding each value, [V]."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.names)).astype(np.int64)

    def wanted(self, values: Iterable[str]) -> NDArray[np.int32]:
        """Codes of those of `values` that this column holds."""
        return np.array([self.index[v] for v in values if v in self.index], dtype=np.int32)


@dataclass
class TokenTable:
    """N tokens described by named columns; the columns are shared, never changed."""

    n_tokens: int
    columns: dict[str, Column]
    _joint: dict[tuple[str, str], NDArray[np.int64]] = field(default_factory=dict, repr=False)

    @classmethod
    def build(
        cls,
        documents: Mapping[int, StoredDoc],
        doc: NDArray[np.int64],
        pos: NDArray[np.int64],
        meta_keys: Sequence[str] = (),
    ) -> TokenTable:
        """Describe the tokens (doc [N], pos [N]) of `documents`; pos counts each one's own tokens.

        Neighbouring tokens come from the document itself, so a masked neighbour is still seen.
        """
        pieces = {i: pieces_of(document) for i, document in documents.items()}
        at = [(pieces[d], p) for d, p in zip(doc.tolist(), pos.tolist(), strict=True)]
        token = [doc_pieces[p] for doc_pieces, p in at]
        before = [doc_pieces[p - 1] if p else None for doc_pieces, p in at]
        after = [doc_pieces[p + 1] if p + 1 < len(doc_pieces) else None for doc_pieces, p in at]
        columns = {
            "token": Column(token),
            "word": Column(word_of(t) for t in token),
            "phrase": Column(
                None if b is None else b + t for b, t in zip(before, token, strict=True)
            ),
            "previous": Column(before),
            "next": Column(after),
            "shape": Column(shape_of(t) for t in token),
            "script": Column(script_of(t) for t in token),
            "position": Column(position_of(p) for _, p in at),
        }
        for key in meta_keys:
            columns[META + key] = Column(documents[d].meta.get(key) for d in doc.tolist())
        return cls(len(at), columns)

    def joint(self, left: str, right: str) -> NDArray[np.int64]:
        """Tokens holding each pair of values of two columns, dense [V_left, V_right]."""
        if (left, right) not in self._joint:
            a, b = self.columns[left], self.columns[right]
            held = (a.codes >= 0) & (b.codes >= 0)
            width = len(b.names)
            pair = a.codes[held].astype(np.int64) * width + b.codes[held]
            counts = np.bincount(pair, minlength=len(a.names) * width)
            self._joint[left, right] = counts.reshape(len(a.names), width).astype(np.int64)
        return self._joint[left, right]


@dataclass(frozen=True)
class AnyOf:
    """Fires where a field holds one of `values`, e.g. token ∈ {" Paris", " Lyon"}."""

    field: str
    values: tuple[str, ...]

    def fires(self, table: TokenTable, rows: NDArray[Any] | None = None) -> NDArray[np.bool_]:
        """Whether the rule fires on each token of the table, or on `rows` of it: bool [N]."""
        column = table.columns.get(self.field)
        if column is None:
            return np.zeros(table.n_tokens if rows is None else len(rows), dtype=bool)
        codes = column.codes if rows is None else column.codes[rows]
        return np.isin(codes, column.wanted(self.values))

    def count(self, table: TokenTable) -> int:
        """How many tokens of the table the rule fires on, from the column's counts."""
        column = table.columns.get(self.field)
        return 0 if column is None else int(column.counts[column.wanted(self.values)].sum())

    def describe(self, width: int = LABEL_WIDTH) -> str:
        """The rule in at most `width` characters; values that do not fit are counted as +n."""
        if self.field.startswith(META):
            head = f"{visible(self.field[len(META) :])}="
            return head + _fit([visible(v) for v in self.values], "|", width - len(head))
        words = list(self.values) if self.field in _BARE else [quoted(v) for v in self.values]
        if self.field == "position":  # read in the order of the text, not of their weight
            words.sort(key=lambda word: int(word.rstrip("+").split("–")[0]))
        wording = _WORDING[self.field]
        return wording.format(_fit(words, " · ", width - len(wording) + 2))

    def to_json(self) -> dict[str, Any]:
        """The rule as a JSON-able dict; `rule_from_json` reads it back."""
        return {"kind": "any_of", "field": self.field, "values": list(self.values)}


@dataclass(frozen=True)
class Both:
    """Fires where two rules fire together, e.g. token ∈ {"def"} and source=python."""

    left: AnyOf
    right: AnyOf

    def fires(self, table: TokenTable, rows: NDArray[Any] | None = None) -> NDArray[np.bool_]:
        """Whether both rules fire on each token of the table, or on `rows` of it: bool [N]."""
        return self.left.fires(table, rows) & self.right.fires(table, rows)

    def count(self, table: TokenTable) -> int:
        """How many tokens of the table both rules fire on, from the joint counts."""
        left, right = table.columns.get(self.left.field), table.columns.get(self.right.field)
        if left is None or right is None:
            return 0
        joint = table.joint(self.left.field, self.right.field)
        return int(
            joint[np.ix_(left.wanted(self.left.values), right.wanted(self.right.values))].sum()
        )

    def describe(self, width: int = LABEL_WIDTH) -> str:
        """Both rules in at most `width` characters, the narrower one last."""
        right = self.right.describe(width // 2)
        return f"{self.left.describe(width - len(right) - 3)} · {right}"

    def to_json(self) -> dict[str, Any]:
        """The rule as a JSON-able dict; `rule_from_json` reads it back."""
        return {"kind": "both", "left": self.left.to_json(), "right": self.right.to_json()}


Rule = AnyOf | Both


def rule_from_json(data: dict[str, Any]) -> Rule:
    """Read a rule back from `to_json`.

    Raises FormatError for a kind of rule this version does not know.
    """
    if data.get("kind") == "any_of":
        return AnyOf(str(data["field"]), tuple(str(v) for v in data["values"]))
    if data.get("kind") == "both":
        left, right = rule_from_json(data["left"]), rule_from_json(data["right"])
        if isinstance(left, AnyOf) and isinstance(right, AnyOf):
            return Both(left, right)
    raise FormatError("unknown label rule", got=repr(data.get("kind")), expected="any_of or both")


def pieces_of(document: StoredDoc) -> list[str]:
    """The text of each token by its offsets; "�" where a token holds only part of a character."""
    starts = [0, *document.ends][: len(document.ends)]
    return [document.text[a:b] or "�" for a, b in zip(starts, document.ends, strict=True)]


@lru_cache(maxsize=200_000)
def word_of(token: str) -> str | None:
    """The token without its spaces, case folded; None where it holds no letter."""
    word = token.strip().casefold()
    return word if any(char.isalpha() for char in word) else None


@lru_cache(maxsize=200_000)
def shape_of(token: str) -> str:
    """The kind of characters a token is made of, one of a dozen words."""
    core = token.strip()
    if not core:
        return "newline" if "\n" in token else "spaces"
    if core.isdigit():
        return "digits"
    if not any(char.isalnum() for char in core):
        return "punctuation"
    if not core.isalpha():
        return "mixed characters"
    if core.isupper() and len(core) > 1:
        return "all capitals"
    if core[0].isupper():
        return "capitalised"
    return "lower-case word start" if token[0].isspace() else "inside a word"


@lru_cache(maxsize=200_000)
def script_of(token: str) -> str | None:
    """The writing system of the token's first letter ("Latin", "Cyrillic", …), or None."""
    for char in token:
        if char.isalpha():
            return unicodedata.name(char, "unknown").split()[0].capitalize()
    return None


def position_of(pos: int) -> str:
    """Where in its document a token stands, counted from 1: exact at first, then by doublings."""
    if pos < 4:
        return str(pos + 1)
    if pos >= 64:
        return "65+"
    low = 1 << (pos.bit_length() - 1)
    return f"{low + 1}–{2 * low}"


def _fit(words: list[str], joint: str, width: int) -> str:
    """Join as many words as fit in `width`, then +n for the rest; one word is always kept, cut."""
    for n in range(len(words), 0, -1):
        rest = f" +{len(words) - n}" if n < len(words) else ""
        text = joint.join(words[:n]) + rest
        if len(text) <= width:
            return text
    if not words:
        return ""
    rest = f" +{len(words) - 1}" if len(words) > 1 else ""
    room = max(width - len(rest) - 2, 1)
    return words[0][:room] + ("…" + '"' if words[0].endswith('"') else "…") + rest
