"""The comparison of SAEs as one HTML page: table, Pareto plots, densities, probes, slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monoscope import page
from monoscope.evals import compare
from monoscope.evals.compare import Row

_BASES = {"sae": "SAE latents", "random": "random SAE", "neurons": "neurons", "pca": "PCA"}


def render(rows: Sequence[Row]) -> str:
    """The page; each SAE's baselines stand under it, and intervals beside its main figures."""
    body = ["<h1>monoscope: SAEs compared</h1>", _overview(rows), "<h2>Trade-offs</h2>"]
    body += ['<div class="plots">', *(_front(rows, *pair) for pair in compare.FRONTS), "</div>"]
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
    """A scatter of the SAEs that have both figures, with the front; nothing without any."""
    x, y = compare.column(across), compare.column(up)
    held = {
        r.name: (r.figures[across], r.figures[up])
        for r in rows
        if r.figures[across] is not None and r.figures[up] is not None
    }
    points = {name: (float(a or 0), float(b or 0)) for name, (a, b) in held.items()}
    if not points:
        return ""
    flat = list(points.values())
    best = compare.front(flat, (x.less is not False, y.less is not False))
    marks = {name: [point] for name, point in points.items()}
    title = f"{y.title} against {x.title}"
    return page.scatter(title, marks, across=x.title, up=y.title, front=[flat[i] for i in best])


def _details(row: Row) -> list[str]:
    families = row.families
    parts = [_intervals(families["core"]), '<div class="plots">', _density(families), "</div>"]
    parts += [_probing(families), _slices(families), *_skipped(families)]
    return [part for part in parts if part]


def _intervals(core: Mapping[str, Any]) -> str:
    """The figures of reconstruction and splicing with their 95 % intervals."""
    names = ("fvu", "l0", "cosine", "shrinkage", "delta_ce", "kl", "loss_recovered_zero")
    lines = []
    for name in names:
        if core.get(name) is None:
            continue
        held = (core.get("ci") or {}).get(name)
        shown = f"{held[0]:.4g} to {held[1]:.4g}" if held else "–"
        lines.append([name, f"{core[name]:.4g}", shown])
    counts = f"{core['n_tokens']:,} tokens, {core['n_documents']:,} documents held out"
    return f'<p class="dim">{page.text(counts)}</p>' + page.table(
        ["figure", "value", "95 % interval"], lines
    )


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


def _probing(families: Mapping[str, Any]) -> str:
    means = (families.get("probing") or {}).get("mean")
    if not means:
        return ""
    ks = list(means["sae"])
    lines = [
        [title, *(_with_interval(means[basis][k]["auc"]) for k in ks)]
        for basis, title in _BASES.items()
    ]
    dense = _with_interval(means["dense"]["auc"])
    n = means["dense"]["auc"]["n"]
    note = f"AUC over {n} tasks, interval over tasks. Dense probe on all of x: {dense}."
    table = page.table(["sparse probing", *(f"k = {k}" for k in ks)], lines)
    return f"{table}<p><small>{page.text(note)}</small></p>"


def _slices(families: Mapping[str, Any]) -> str:
    held = families.get("slices") or {}
    lines = []
    for key, values in held.items():
        for value, methods in values.items():
            if "sae" in methods:
                figures = [methods[m]["fvu"] if m in methods else None for m in _BASES]
                cells = ["–" if f is None else f"{f:.3f}" for f in figures]
                lines.append([f"{key} {value}", f"{methods['sae']['n_tokens']:,}", *cells])
    return page.table(["FVU by slice", "tokens", *_BASES.values()], lines) if lines else ""


def _skipped(families: Mapping[str, Any]) -> list[str]:
    said = [
        f"{name}: not measured, {figures['skipped']}"
        for name, figures in families.items()
        if isinstance(figures, Mapping) and "skipped" in figures
    ]
    return [f'<p class="dim">{page.text(line)}</p>' for line in said]


def _with_interval(figure: Mapping[str, Any]) -> str:
    if figure["mean"] is None:
        return "–"
    ci = figure.get("ci")
    return f"{figure['mean']:.3f}" + (f" ({ci[0]:.3f}–{ci[1]:.3f})" if ci else "")
