"""What a query's latents are like: counts by kind and metadata, and the spread of three figures."""

from __future__ import annotations

import math
from typing import Any

from monoscope.viewer import schemas as s
from monoscope.viewer.catalogue import Catalogue, integers
from monoscope.viewer.find import Search
from monoscope.viewer.grammar import FLAGS

_STATUS = """
count(*) AS total, count(*) FILTER (n_active > 0) AS alive, count(*) FILTER (n_active = 0) AS dead,
count(*) FILTER (density >= 0.1) AS dense, count(*) FILTER (label_method = 'human') AS human,
count(*) FILTER (label IS NOT NULL AND NOT starts_with(label, 'unclear')) AS labelled,
count(*) FILTER (label IS NULL OR starts_with(label, 'unclear')) AS unclear"""

# What is binned: log10 of density and max, the score itself; over the range of the whole atlas, so
# that the picture keeps its place while a query narrows.
_FIGURES = {
    "density": "log10(nullif(density, 0))",
    "max": "log10(nullif(peak, 0))",
    "score": "label_f1",
}
_BINS = 28
_META = """
SELECT name, count(*) AS n FROM metas SEMI JOIN found USING (latent)
WHERE share >= 0.5 GROUP BY name ORDER BY n DESC, name"""
_MOST_VALUES = 24


def facets(catalogue: Catalogue, search: Search) -> s.Facets:
    """Count over all that a question finds."""
    status = catalogue.ask(f"{search.sql} SELECT {_STATUS} FROM found", search.given)[0]
    return s.Facets(
        total=status["total"],
        status=[s.Facet(name=name, count=status[name], term=name) for name in FLAGS],
        meta=_metas(catalogue, search),
        lists=_lists(catalogue, search),
        figures=[_figure(catalogue, search, name) for name in _FIGURES],
    )


def _metas(catalogue: Catalogue, search: Search) -> dict[str, list[s.Facet]]:
    """By metadata key, the values that hold half of a latent's activation or more."""
    found: dict[str, list[s.Facet]] = {}
    for row in catalogue.ask(f"{search.sql} {_META}", search.given):
        key, _, value = row["name"].partition("=")
        term = f'meta:"{row["name"]}"' if " " in row["name"] else f"meta:{row['name']}"
        values = found.setdefault(key, [])
        if len(values) < _MOST_VALUES:
            values.append(s.Facet(name=value, count=row["n"], term=term))
    return found


def _lists(catalogue: Catalogue, search: Search) -> list[s.Facet]:
    lists = catalogue.atlas.notebook.lists()
    made = []
    for name, latents in lists.items():
        query = f"SELECT count(*) AS n FROM found WHERE latent IN ({integers(latents)})"
        n = catalogue.ask(f"{search.sql} {query}", search.given)[0]["n"]
        term = f'list:"{name}"' if " " in name else f"list:{name}"
        made.append(s.Facet(name=name, count=n, term=term))
    return made


def _figure(catalogue: Catalogue, search: Search, name: str) -> s.FigureFacet:
    value, n = _FIGURES[name], _BINS
    low, high = _range(catalogue, value) if name != "score" else (0.0, 1.0)
    bin_ = f"floor(({value} - {low}) / {(high - low) / n})"
    place = f"CASE WHEN {value} IS NOT NULL THEN least({n - 1}, greatest(0, {bin_}))::INT END"
    rows: list[dict[str, Any]] = catalogue.ask(
        f"{search.sql} SELECT {place} AS bin, count(*) AS n FROM found GROUP BY bin", search.given
    )
    counts, unknown = [0] * n, 0
    for row in rows:
        if row["bin"] is None:
            unknown = row["n"]
        else:
            counts[row["bin"]] = row["n"]
    edges = [low + (high - low) * i / n for i in range(n + 1)]
    return s.FigureFacet(
        name=name,
        edges=edges if name == "score" else [10**edge for edge in edges],
        counts=counts,
        unknown=unknown,
    )


def _range(catalogue: Catalogue, value: str) -> tuple[float, float]:
    """The least and greatest value over all latents, outward to quarters; 0 to 1 if none."""
    found = catalogue.ask(f"SELECT min({value}) AS low, max({value}) AS high FROM rows")[0]
    if found["low"] is None:
        return 0.0, 1.0
    low, high = math.floor(4 * found["low"]) / 4, math.ceil(4 * found["high"]) / 4
    return low, max(high, low + 0.25)
