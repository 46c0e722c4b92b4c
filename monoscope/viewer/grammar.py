"""The search box's grammar: words, and filters such as `density<1e-3 label:"of Paris" -dead`.

    query  := term*            every term must hold
    term   := ["-"] (flag | figure | field | text)
    flag   := dead | alive | dense | labelled | unclear | human
    figure := (density | max | mean | score | auc | fires | reads | writes) compare number
    compare := "<" | "<=" | ">" | ">=" | "="
    field  := (label | token | logit | lowers | meta | id | list | note) ":" value
    text   := word | "words in quotes"

In quotes, `token:`, `logit:` and `lowers:` want exactly that token; bare, any that holds it.
What begins like a filter and is none is an error and never taken as a word. The exported page has
the same grammar and words in `static/disk/grammar.js`; `tests/viewer/queries.py` holds both to it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from monoscope.errors import ConfigError, nearest

FIGURES = {
    "density": "density",
    "max": "peak",
    "mean": "mean",
    "score": "label_f1",
    "auc": "label_auc",
    "fires": "n_active",
    "reads": "reads",
    "writes": "writes",
}
FIELDS = ("label", "token", "logit", "lowers", "meta", "id", "list", "note")
FLAGS = ("dead", "alive", "dense", "labelled", "unclear", "human")
LEAST_SHARE = 0.1  # of a latent's activation: metadata values below it are not kept for searching
MOST_TERMS = 32
MOST_IDS = 10_000
_OPERATORS = "<=, >=, <, > or ="
_COMPARE = re.compile(r"([A-Za-z_]+)(<=|>=|<|>|=)(.*)", re.DOTALL)
_LOOSE = re.compile(r"(?:<=|>=|<|>|=).*", re.DOTALL)
_TURNED = re.compile(rf"[^\"]*[<>=](?:{'|'.join(FIGURES)})(?:[<>=].*)?", re.DOTALL | re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NAMED = re.compile(r"([A-Za-z_]+):(.*)", re.DOTALL)
_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
_SHARE = re.compile(r"([^=<>]+=[^<>]+?)(?:(>=?)([^<>]*))?")


@dataclass(frozen=True)
class Term:
    """One condition. kind: "word", "flag", "figure" or a field's name; exact: it was in quotes."""

    kind: str
    value: str = ""
    exact: bool = False
    negative: bool = False
    name: str = ""
    operator: str = ""
    number: float = 0.0
    ranges: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Query:
    """What was typed, taken apart."""

    terms: tuple[Term, ...]

    @property
    def words(self) -> tuple[Term, ...]:
        """The words and phrases that must be found, by which results are ranked."""
        return tuple(t for t in self.terms if t.kind == "word" and not t.negative)


def parse(text: str) -> Query:
    """Take a query apart.

    Raises ConfigError, naming what was expected, for a quote that is not closed, an unknown field,
    or a value that is none.
    """
    pieces = tuple(_pieces(text))
    for name, piece in pairwise(pieces):
        if name.lstrip("-").lower() in FIGURES and _LOOSE.fullmatch(piece):
            raise ConfigError(
                "a comparison is torn apart",
                got=_shown(f"{name} {piece}"),
                expected=f"no spaces, as in {name.lstrip('-').lower()}>0.01",
            )
    terms = tuple(map(_term, pieces))
    if len(terms) > MOST_TERMS:
        raise ConfigError(
            "too many terms in the query", got=len(terms), expected=f"at most {MOST_TERMS}"
        )
    return Query(terms)


def _pieces(text: str) -> Iterator[str]:
    """The terms as typed: cut at spaces that are not between double quotes."""
    piece, quoted = "", False
    for char in text:
        if char == '"':
            quoted = not quoted
        if char.isspace() and not quoted:
            if piece:
                yield piece
            piece = ""
        else:
            piece += char
    if quoted:
        raise ConfigError(
            "a quote in the query is not closed", got=_shown(piece), expected='another "'
        )
    if piece:
        yield piece


def _term(piece: str) -> Term:
    negative = len(piece) > 1 and piece.startswith("-")
    body = piece[1:] if negative else piece
    if body.startswith('"'):
        return _word(body, negative)
    if body.lower() in FLAGS:
        return Term("flag", name=body.lower(), negative=negative)
    named = _NAMED.fullmatch(body)
    if named and (named[1].lower() in FIELDS or _meant(named[1], (*FIELDS, *FIGURES))):
        return _field(named[1].lower(), named[2], piece, negative)
    compared = _COMPARE.fullmatch(body)
    if compared:
        return _figure(compared, piece, negative)
    if _TURNED.fullmatch(body):
        raise ConfigError(
            "a comparison begins with its figure",
            got=_shown(piece),
            expected="as in density>0.01",
            hint="For both ends write it twice: density>0.001 density<0.01.",
        )
    return _word(body, negative)


def _word(body: str, negative: bool) -> Term:
    value, exact = _unquoted(body)
    if not value:
        raise ConfigError("an empty word in the query", got=_shown(body), expected="a word")
    return Term("word", value=value, exact=exact, negative=negative)


def _figure(compared: re.Match[str], piece: str, negative: bool) -> Term:
    name, operator, given = compared[1].lower(), compared[2], compared[3]
    if name not in FIGURES:
        raise _unknown(name, piece, FIGURES)
    value = _number(given)
    if not math.isfinite(value):
        raise ConfigError(
            f"{name} is compared with no number", got=_shown(piece), expected=f"as in {name}>0.01"
        )
    return Term("figure", name=name, operator=operator, number=value, negative=negative)


def _number(given: str) -> float:
    """A decimal number, or one with % after it; NaN for anything else."""
    bare = given.removesuffix("%")
    value = float(bare) if _NUMBER.fullmatch(bare) else math.nan
    return value / 100 if given.endswith("%") else value


def _field(name: str, given: str, piece: str, negative: bool) -> Term:
    if name not in FIELDS:
        raise (
            ConfigError(
                f"{name} is a figure", got=_shown(piece), expected=f"{name} {_OPERATORS} a number"
            )
            if name in FIGURES
            else _unknown(name, piece, (*FIELDS, *FIGURES))
        )
    value, exact = _unquoted(given)
    if not value:
        raise ConfigError(
            f"{name}: is followed by nothing", got=_shown(piece), expected=_example(name)
        )
    if name == "id":
        return Term("id", value=value, negative=negative, ranges=_ranges(value, piece))
    if name == "meta":
        return _meta(value, piece, negative)
    return Term(name, value=value, exact=exact, negative=negative)


def _ranges(value: str, piece: str) -> tuple[tuple[int, int], ...]:
    found = [_RANGE.fullmatch(part) for part in value.split(",")]
    if not all(found) or len(found) > MOST_IDS:
        raise ConfigError("id: names no latents", got=_shown(piece), expected=_example("id"))
    return tuple((int(m[1]), int(m[2] or m[1])) for m in found if m is not None)


def _meta(value: str, piece: str, negative: bool) -> Term:
    """`lang=es` wants half of a latent's activation there; `lang=es>0.8` says how much."""
    found = _SHARE.fullmatch(value)
    if found is None:
        raise ConfigError("meta: names no value", got=_shown(piece), expected=_example("meta"))
    share = 0.5
    if found[3] is not None:
        share = _number(found[3])
        if not LEAST_SHARE <= share <= 1:
            raise ConfigError(
                "meta: is compared with no share",
                got=_shown(piece),
                expected=f"a share from {LEAST_SHARE} to 1, as in meta:lang=es>0.8",
            )
    return Term("meta", value=found[1].strip(), number=share, negative=negative)


def _unquoted(text: str) -> tuple[str, bool]:
    quoted = len(text) > 1 and text.startswith('"') and text.endswith('"')
    return (text[1:-1], True) if quoted else (text.replace('"', ""), False)


def _meant(name: str, names: tuple[str, ...]) -> bool:
    """Whether `name` before a colon is a slip for a field; `http://…` and `10:30` are words."""
    return name.lower() in names or nearest(name.lower(), names) is not None


def _unknown(name: str, piece: str, names: object) -> ConfigError:
    known = list(names)  # type: ignore[call-overload]
    close = nearest(name, known)
    return ConfigError(
        "the query names something unknown",
        got=_shown(piece),
        expected=f"one of {', '.join(known)}",
        hint=f"Did you mean {close}? Put words with signs in quotes."
        if close
        else "Put words with signs in quotes.",
    )


def _example(name: str) -> str:
    examples = {
        "id": "id:123, id:1,2,3 or id:10-20",
        "meta": "as in meta:lang=es or meta:lang=es>0.8",
        "logit": 'as in logit:" Paris"',
    }
    return examples.get(name, f'as in {name}:paris or {name}:"in Paris"')


def _shown(piece: str) -> str:
    return piece if len(piece) <= 60 else piece[:59] + "…"
