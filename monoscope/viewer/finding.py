"""Features found in the search box's grammar and order, for the command line and Python."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from monoscope.errors import ConfigError
from monoscope.features.atlas import Atlas
from monoscope.features.feature import Row
from monoscope.viewer import find
from monoscope.viewer.catalogue import Catalogue, integers
from monoscope.viewer.grammar import Term, parse

ORDERS = ("", "asc", "desc")
_TIERS = {3: "label", 2: "token", 1: "logit"}
_ALIASES = {"label_score": "score"}  # as `Atlas.list` has it
Match = tuple[str, str] | tuple[None, None]
_AT_ONCE = 1000  # latents whose tokens are asked for in one question
_SHOWN_TOKENS = 5
_LISTED = (
    "latent", "label", "label_method", "label_f1", "label_auc", "n_active", "density", "hist",
    "interest",
)  # fmt: skip
_TOKENS = """
SELECT latent, token FROM examples WHERE kind = 'top' AND latent IN ({ids})
GROUP BY latent, token ORDER BY latent, count(*) DESC, min(rank)"""
_HITS = """
SELECT latent, tier, text, small, spaced, n FROM (
    SELECT latent, tier, text, small, spaced, n
    FROM terms JOIN vocabulary USING (word) WHERE tier > 0
    UNION ALL
    SELECT latent, 3, label, lower(label),
        ' ' || regexp_replace(lower(label), '[^\\pL\\pN]', ' ', 'g'), 1
    FROM rows WHERE label IS NOT NULL
) WHERE latent IN ({ids}) AND ({hit})"""


def find_features(
    atlas: Atlas,
    q: str = "",
    *,
    sort: str = "",
    order: str = "",
    box: str = "",
    limit: int | None = 50,
) -> list[Row]:
    """The features that the viewer's search box finds for q, in the order its table has them.

    q: words and filters, such as `paris density<1e-3 -dead`; empty finds every latent. sort: ""
    (relevance where there are words, else interest), latent, density, fires, max, mean, score, auc,
    reads or writes. order: "" for the sort's own. box: "x0,y0,x1,y1" on the map, from 0 to 1.
    limit: at most so many; None for all.

    Raises ConfigError for a query, an order or a box that makes no sense.
    """
    if order not in ORDERS:
        raise ConfigError("bad order", got=repr(order)[:40], expected="asc or desc")
    search = find.search(
        q,
        atlas.notebook,
        sort=_ALIASES.get(sort, sort),
        descending=order == "desc" if order else None,
        box=find.Box.parse(box) if box else None,
    )
    catalogue = Catalogue(atlas)
    most = "" if limit is None else f"LIMIT {int(limit)}"
    found = catalogue.ask(
        f"{search.sql}, picked AS (SELECT * FROM found ORDER BY {search.order} {most}) "
        "SELECT picked.*, hist FROM picked JOIN (SELECT latent, hist FROM features) "
        f"USING (latent) ORDER BY {search.order}",
        search.given,
    )
    tokens, matched = _described(catalogue, [row["latent"] for row in found], parse(q).words)
    return [
        Row(
            **{name: row[name] for name in _LISTED},
            max=row["peak"],
            tokens=tokens.get(row["latent"], [])[:_SHOWN_TOKENS],
            match=matched.get(row["latent"], (None, None))[0],
            matched=matched.get(row["latent"], (None, None))[1],
        )
        for row in found
    ]


def _described(
    catalogue: Catalogue, latents: Sequence[int], words: Sequence[Term]
) -> tuple[dict[int, list[str]], dict[int, Match]]:
    """By latent: the tokens it is strongest on, and where its worst found word was found."""
    tokens: dict[int, list[str]] = {}
    matched: dict[int, Match] = {}
    sought = [(word.value.lower(), word.exact) for word in words]
    hit = " OR ".join(f"contains(small, $w{i})" for i in range(len(sought)))
    given = {f"w{i}": word for i, (word, _) in enumerate(sought)}
    for first in range(0, len(latents), _AT_ONCE):
        ids = integers(latents[first : first + _AT_ONCE])
        for row in catalogue.ask(_TOKENS.format(ids=ids)):
            tokens.setdefault(row["latent"], []).append(row["token"])
        if not sought:
            continue
        hits: dict[int, list[dict[str, Any]]] = {}
        for row in catalogue.ask(_HITS.format(ids=ids, hit=hit), given):
            hits.setdefault(row["latent"], []).append(row)
        matched |= {latent: _matched(rows, sought) for latent, rows in hits.items()}
    return tokens, matched


def _matched(hits: Iterable[dict[str, Any]], sought: Sequence[tuple[str, bool]]) -> Match:
    """What a latent's hits are in, and their text, of the word that is found least well."""
    best: dict[str, tuple[Any, ...]] = {}
    for hit in hits:
        for word, exact in sought:
            if word in hit["small"]:
                starts = exact or f" {word}" in hit["spaced"]
                grade = (starts, hit["tier"], hit["n"], hit["text"])
                best[word] = max(best.get(word, grade), grade)
    if len(best) < len({word for word, _ in sought}):
        return None, None  # one of them is in the metadata
    _, tier, _, text = min(best.values())
    return _TIERS[tier], text
