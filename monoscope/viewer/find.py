"""From a parsed query to SQL over the catalogue: what holds, in which order, from where on.

What was typed reaches the database as parameters only. Words rank as in `features.queries`: a hit
at the start of a word before one inside, labels before tokens before logits, then by number of hits
and label score, all in one figure, `relevance`, so that pages can be cut by key.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any

from monoscope.errors import ConfigError, nearest
from monoscope.features.annotations import Annotations
from monoscope.viewer.catalogue import integers
from monoscope.viewer.grammar import FIGURES, Query, Term, parse

SORTS = {
    "interest": "interest",
    "relevance": "relevance",
    "latent": "latent",
    "density": "density",
    "fires": "n_active",
    "max": "peak",
    "mean": "mean",
    "score": "label_f1",
    "auc": "label_auc",
    "reads": "reads",
    "writes": "writes",
}
DENSE = 0.1  # the density from which a latent counts as dense
_TIERS = {"token": 2, "logit": 1, "lowers": 0}
_STARTS = "contains(spaced, ' ' || regexp_replace($w{i}, '[^\\pL\\pN]', ' ', 'g'))"
_FLAG = {
    "dead": "n_active = 0",
    "alive": "n_active > 0",
    "dense": f"density >= {DENSE}",
    "labelled": "label IS NOT NULL AND NOT starts_with(label, 'unclear')",
    "unclear": "label IS NULL OR starts_with(label, 'unclear')",
    "human": "label_method = 'human'",
}


@dataclass(frozen=True)
class Box:
    """A rectangle of the map, in its units from 0 to 1."""

    x0: float
    y0: float
    x1: float
    y1: float

    @classmethod
    def parse(cls, text: str) -> Box:
        """From "x0,y0,x1,y1".

        Raises ConfigError for what is not four numbers.
        """
        try:
            numbers = [float(part) for part in text.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) != 4 or not all(math.isfinite(n) for n in numbers):
            raise ConfigError("bad box", got=text[:60], expected="x0,y0,x1,y1, each from 0 to 1")
        a, b, c, d = numbers
        return cls(min(a, c), min(b, d), max(a, c), max(b, d))


@dataclass(frozen=True)
class Search:
    """A question put to the catalogue: SQL with the common tables `found`, and its parameters.

    `found` holds `rows` and `relevance` for every latent that the query names.
    """

    sql: str
    given: dict[str, Any]
    sort: str
    descending: bool
    mark: str = field(repr=False)

    @property
    def order(self) -> str:
        """ORDER BY, whole: the sort's column, unknown values last, then the latent."""
        return f"{_key(self)} {'DESC' if self.descending else 'ASC'}, latent"


def search(
    q: str, notebook: Annotations, *, sort: str = "", descending: bool | None = None,
    box: Box | None = None,
) -> Search:  # fmt: skip
    """Make a question of what was typed.

    sort: one of SORTS; "" for relevance where there are words, else interest.

    Raises ConfigError for a query or an order that makes no sense.
    """
    query = parse(q)
    sort = sort or ("relevance" if query.words else "interest")
    if sort not in SORTS:
        close = nearest(sort, SORTS)
        raise ConfigError(
            "features cannot be sorted like that",
            got=repr(sort[:40]),
            expected=f"one of {', '.join(SORTS)}",
            hint=f"Did you mean {close}?" if close else None,
        )
    made = _Maker(query, notebook)
    if box is not None:
        made.given |= {"x0": box.x0, "x1": box.x1, "y0": box.y0, "y1": box.y1}
        made.conditions.append("x BETWEEN $x0 AND $x1 AND y BETWEEN $y0 AND $y1")
    down = sort != "latent" if descending is None else descending
    told = json.dumps([q, sort, down, None if box is None else vars(box)])
    return Search(made.sql(), made.given, sort, down, hashlib.sha256(told.encode()).hexdigest()[:8])


def after(search: Search, cursor: str) -> tuple[str, dict[str, Any]]:
    """The condition that leaves out what earlier pages held, and its parameters.

    Raises ConfigError for a cursor that is none, or of another question.
    """
    try:
        mark, key, latent = json.loads(base64.urlsafe_b64decode(cursor + "=="))
        good = isinstance(key, int | float) and isinstance(latent, int) and abs(latent) < 2**62
    except (ValueError, TypeError):
        good, mark, key, latent = False, None, None, None
    if not good or mark != search.mark or isinstance(key, bool) or isinstance(latent, bool):
        raise ConfigError(
            "this cursor does not belong to this query",
            got=cursor[:60],
            expected="the next_cursor of a page with the same q, sort, order and box",
        )
    sign = "<" if search.descending else ">"
    condition = f"({_key(search)} {sign} $key OR ({_key(search)} = $key AND latent > $latent))"
    return condition, {"key": float(key), "latent": latent}


def cursor(search: Search, row: dict[str, Any]) -> str:
    """Where the page that ended with `row` (which has its `key`) goes on."""
    told = json.dumps([search.mark, row["key"], row["latent"]]).encode()
    return base64.urlsafe_b64encode(told).decode().rstrip("=")


def key(search: Search) -> str:
    """The column by which pages are cut, as SQL; unknown values come last either way."""
    return _key(search)


def _key(search: Search) -> str:
    last = "-1e308" if search.descending else "1e308"
    return f"coalesce({SORTS[search.sort]}::DOUBLE, {last}::DOUBLE)"


class _Maker:
    """Collects the conditions and the common tables of one query."""

    def __init__(self, query: Query, notebook: Annotations) -> None:
        self.notebook = notebook
        self.given: dict[str, Any] = {}
        self.conditions: list[str] = []
        self.tables: list[str] = []
        self.grades: list[str] = []
        self.joins = ""
        for i, term in enumerate(query.terms):
            self._add(i, term)

    def sql(self) -> str:
        """WITH …, ending in the table `found`."""
        grade = f"least({', '.join(self.grades)})" if self.grades else "0.0"
        where = " AND ".join(f"({c})" for c in self.conditions) or "true"
        score = "coalesce(label_f1, CASE WHEN label_method = 'human' THEN 1.0 END, 0.0)"
        found = (
            f"found AS (SELECT rows.*, {grade}::DOUBLE + {score} AS relevance "
            f"FROM rows {self.joins} WHERE {where})"
        )
        return "WITH " + ", ".join([*self.tables, found])

    def _add(self, i: int, term: Term) -> None:
        if term.kind == "word" and not term.negative:
            self._ranked(i, term)
            return
        condition = self._condition(i, term)
        self.conditions.append(f"NOT coalesce({condition}, false)" if term.negative else condition)

    def _condition(self, i: int, term: Term) -> str:
        if term.kind == "flag":
            return f"({_FLAG[term.name]})"
        if term.kind == "figure":
            self.given[f"v{i}"] = term.number
            return f"{FIGURES[term.name]}::DOUBLE {term.operator} $v{i}"
        if term.kind == "id":
            parts = [f"latent BETWEEN {a} AND {b}" for a, b in term.ranges]
            return f"({' OR '.join(parts)})"
        if term.kind == "meta":
            self.given |= {f"m{i}": term.value, f"v{i}": term.number}
            return (
                f"latent IN (SELECT latent FROM metas WHERE lower(name) = lower($m{i}) "
                f"AND share >= $v{i})"
            )
        if term.kind == "list":
            return f"latent IN ({integers(self.notebook.lists().get(term.value, []))})"
        if term.kind == "note":
            notes = self.notebook.notes().items()
            hits = [latent for latent, text in notes if term.value.lower() in text.lower()]
            return f"latent IN ({integers(hits)})"
        if term.kind == "label":
            self.given[f"w{i}"] = term.value.lower()
            return f"contains(lower(label), $w{i})"
        return self._spoken(i, term)

    def _spoken(self, i: int, term: Term) -> str:
        """token:, logit: and lowers:, and words that must not be found anywhere."""
        self.given[f"w{i}"] = term.value if term.exact else term.value.lower()
        hit = f"text = $w{i}" if term.exact else f"contains(small, $w{i})"
        tier = f"tier = {_TIERS[term.kind]}" if term.kind in _TIERS else "tier > 0"
        spoken = (
            f"latent IN (SELECT latent FROM terms WHERE {tier} AND word IN "
            f"(SELECT word FROM vocabulary WHERE {hit}))"
        )
        if term.kind != "word":
            return spoken
        self.given[f"l{i}"] = term.value.lower()
        return f"({spoken} OR coalesce(contains(lower(label), $l{i}), false))"

    def _ranked(self, i: int, term: Term) -> None:
        """A word that must be found: a table of the latents that have it, graded.

        Grades: 400 at a word's start, else 0; 300 in a label, 200 in tokens, 100 in logits, 0 in
        metadata; up to 50 hits in tokens and logits count.
        """
        self.given[f"w{i}"] = term.value.lower()
        starts = _STARTS.format(i=i)
        hit = f"contains(small, $w{i})"
        if term.exact:
            self.given[f"e{i}"] = term.value
            hit = f"(text = $e{i} OR ($e{i} = trim($e{i}) AND contains($e{i}, ' ') AND {hit}))"
            starts = "true"
        label = "' ' || regexp_replace(lower(label), '[^\\pL\\pN]', ' ', 'g')"
        label_starts = f"contains({label}, ' ' || regexp_replace($w{i}, '[^\\pL\\pN]', ' ', 'g'))"
        self.tables.append(f"""hit{i} AS (
    SELECT latent, max(grade) AS grade FROM (
        SELECT latent, ({starts})::INT * 400 + tier * 100 + least(sum(n), 50) AS grade
        FROM (SELECT word, text, small, spaced FROM vocabulary WHERE {hit})
        JOIN terms USING (word) WHERE tier > 0 GROUP BY latent, tier, ({starts})
        UNION ALL
        SELECT latent, ({label_starts})::INT * 400 + 301 FROM rows
        WHERE contains(lower(label), $w{i})
        UNION ALL
        SELECT latent, 100 * share FROM metas WHERE share >= 0.5 AND contains(lower(name), $w{i})
    ) GROUP BY latent)""")
        self.joins += f" JOIN hit{i} USING (latent)"
        self.grades.append(f"hit{i}.grade")
