"""Examples for the search box, drawn from the atlas itself, so that each finds something."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from monoscope.viewer.catalogue import Catalogue, integers
from monoscope.viewer.grammar import FLAGS

_MOST = 4  # what _found can come to
_LOOKED_AT = 60  # labelled features, the most interesting first
_QUOTED = re.compile(r'" ?([^\W\d_]{3,24})"')
_PLAIN = re.compile(r"[^\W\d_]{4,24}")
_LIMITS = ("1e-5", "1e-4", "1e-3", "1e-2", "1e-1")
_ROWS = """
SELECT latent, label, label_method, label_f1 FROM rows
WHERE label IS NOT NULL AND NOT starts_with(label, 'unclear') AND n_active > 0 AND {among}
ORDER BY interest DESC, latent LIMIT {n}"""
_TERMS = """
SELECT tier, text FROM terms JOIN vocabulary USING (word)
WHERE latent = $latent AND tier > 0 ORDER BY tier, n DESC, text"""


class Examples(BaseModel):
    """Terms of the search box that find something; null where the atlas has nothing to go by.

    word, score and logit are of one feature, so all three together find it.
    """

    word: str | None = None
    score: str | None = None
    logit: str | None = None
    token: str | None = None
    label: str | None = None
    density: str | None = None
    meta: str | None = None


def examples(catalogue: Catalogue, among: Sequence[int] | None = None) -> Examples:
    """Examples from the most interesting features, or from `among` alone."""
    within = "true" if among is None else f"latent IN ({integers(among)})"
    best = Examples(density=_density(catalogue, within), meta=_meta(catalogue, within))
    for row in catalogue.ask(_ROWS.format(among=within, n=_LOOKED_AT)):
        told = best.model_copy(update=_of(catalogue, row))
        if told.word and (best.word is None or _found(told) > _found(best)):
            best = told
        if _found(best) == _MOST:
            break
    return best


def _of(catalogue: Catalogue, row: dict[str, Any]) -> dict[str, str | None]:
    label = row["label"]
    pattern = _PLAIN if row["label_method"] in ("human", "llm") else _QUOTED
    word = next((w.lower() for w in pattern.findall(label) if w.lower() not in FLAGS), None)
    tokens: dict[int, list[str]] = {1: [], 2: []}
    for term in catalogue.ask(_TERMS, {"latent": row["latent"]}):
        if re.fullmatch(r" ?[^\W\d_]{2,24}", term["text"]):
            tokens[term["tier"]].append(term["text"])
    raised = sorted(tokens[1], key=lambda t: (t[0] != " ", t.strip().lower() != word, t))
    f1 = row["label_f1"]
    return {
        "word": word,
        "label": f"label:{word}" if word else None,
        "score": f"score>{math.ceil(10 * f1 - 1) / 10:g}" if f1 and f1 > 0.1 else None,
        "logit": f'logit:"{raised[0]}"' if raised else None,
        "token": f'"{tokens[2][0]}"' if tokens[2] else None,
    }


def _found(told: Examples) -> int:
    """How good an example a feature is: what it has, and whether it raises a whole word."""
    whole = told.logit is not None and told.logit.startswith('logit:" ')
    return whole + sum(value is not None for value in (told.score, told.logit, told.token))


def _density(catalogue: Catalogue, within: str) -> str | None:
    """The smallest power of ten below which at least one latent in twenty lies."""
    rows = catalogue.ask(
        f"SELECT quantile_cont(density, 0.05) AS least FROM rows WHERE n_active > 0 AND {within}"
    )
    least = rows[0]["least"]
    fitting = (limit for limit in _LIMITS if least is not None and least < float(limit))
    return next((f"density<{limit}" for limit in fitting), None)


def _meta(catalogue: Catalogue, within: str) -> str | None:
    rows = catalogue.ask(
        f"SELECT name, max(share) AS share FROM metas WHERE share >= 0.5 AND {within} "
        "AND name NOT LIKE '%\"%' AND length(name) <= 40 "
        "GROUP BY name ORDER BY contains(name, ' '), count(*) DESC, name LIMIT 1"
    )
    if not rows:
        return None
    text = rows[0]["name"] + (">0.8" if rows[0]["share"] >= 0.8 else "")
    return f'meta:"{text}"' if re.search(r"\s", text) else f"meta:{text}"
