"""The comparison of SAEs as one HTML page, or as Markdown: table, Pareto plots, every score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monoscope import page
from monoscope.evals import compare
from monoscope.evals.compare import Row
from monoscope.evals.tables import tables


def render(rows: Sequence[Row]) -> str:
    """The page; each SAE's baselines stand beside it, and intervals behind the figures."""
    body = ["<h1>monoscope: SAEs compared</h1>", _overview(rows)]
    fronts = [front for pair in compare.FRONTS if (front := _front(rows, *pair))]
    if fronts:
        body += ["<h2>Trade-offs</h2>", '<div class="plots">', *fronts, "</div>"]
    for row in rows:
        body += [f"<h2>{page.text(row.name)}</h2>", *_details(row)]
    return page.document("monoscope: SAEs compared", [part for part in body if part])


def _overview(rows: Sequence[Row]) -> str:
    every = [r for row in rows for r in (row, *compare.baseline_rows(row.families))]
    columns = compare.shown(every)
    keep = [compare.COLUMNS.index(c) for c in columns]
    lines = []
    for row in rows:
        lines.append([row.name, *(row.cells()[i] for i in keep)])
        for baseline in compare.baseline_rows(row.families):
            lines.append([f"  {baseline.name} (baseline)", *(baseline.cells()[i] for i in keep)])
    return page.table(["", *(c.title for c in columns)], lines)


def _front(rows: Sequence[Row], across: str, up: str) -> str:
    """A scatter of the SAEs that have both figures, with the front; nothing for a lone one."""
    x, y = compare.column(across), compare.column(up)
    held = {
        r.name: (r.figures[across], r.figures[up])
        for r in rows
        if r.figures[across] is not None and r.figures[up] is not None
    }
    points = {name: (float(a or 0), float(b or 0)) for name, (a, b) in held.items()}
    if len(points) < 2:
        return ""
    flat = list(points.values())
    best = compare.front(flat, (x.less is not False, y.less is not False))
    marks = {name: [point] for name, point in points.items()}
    title = f"{y.title} against {x.title}"
    return page.scatter(title, marks, across=x.title, up=y.title, front=[flat[i] for i in best])


def _details(row: Row) -> list[str]:
    families = row.families
    parts = ['<div class="plots">', _density(families), "</div>"]
    for table in tables(families):
        parts += [f"<h3>{page.text(table.title)}</h3>"]
        parts += [f'<p class="dim">{page.text(table.note)}</p>'] if table.note else []
        parts.append(page.table(table.head, table.rows, wrap=True))
    return [part for part in (*parts, *_skipped(families)) if part]


def markdown(rows: Sequence[Row]) -> str:
    """The same tables as Markdown, for a page of documentation."""
    parts = []
    for row in rows:
        parts += [f"## {row.name}\n", *(table.markdown() for table in tables(row.families))]
    return "\n".join(parts)


def _density(families: Mapping[str, Any]) -> str:
    held = families.get("density")
    if not held:
        return ""
    counts = held["density_histogram"]
    if not counts["counts"]:
        return ""
    return page.bars(
        "latents by density (share of tokens on which one fires)",
        counts["counts"],
        left=f"{10 ** counts['first']:.1g}",
        right=f"{10 ** (counts['first'] + len(counts['counts']) / counts['per_decade']):.1g}",
    ) + page.bars(
        "tokens by L0", held["l0_histogram"], left="0", right=str(len(held["l0_histogram"]) - 1)
    )


def _skipped(families: Mapping[str, Any]) -> list[str]:
    said = [
        f"{name}: not measured, {figures['skipped']}"
        for name, figures in families.items()
        if isinstance(figures, Mapping) and "skipped" in figures
    ]
    return [f'<p class="dim">{page.text(line)}</p>' for line in said]
