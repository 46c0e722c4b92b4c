"""What a query's latents are like: counts by kind and metadata, and the spread of three figures."""

from __future__ import annotations

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

# Bins by figure: of log10 for density and max, of the value itself for the score.
_FIGURES: dict[str, tuple[str, float, float, int]] = {
    "density": ("log10(nullif(density, 0))", -7.0, 0.0, 28),
    "max": ("log10(nullif(peak, 0))", -2.0, 4.0, 30),
    "score": ("label_f1", 0.0, 1.0, 20),
}
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
    value, low, high, n = _FIGURES[name]
    place = f"least({n - 1}, greatest(0, floor(({value} - {low}) / {(high - low) / n})))::INT"
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
