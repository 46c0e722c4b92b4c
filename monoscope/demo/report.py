"""report.html: the demo's results as one page that needs neither network nor script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from monoscope.features.feature import Example, Feature
from monoscope.features.visible import visible

FIGURES = {
    "fvu": ("FVU", ".3f"),
    "l0": ("L0", ".1f"),
    "cosine": ("cosine", ".3f"),
    "delta_ce": ("ΔCE", "+.3f"),
    "kl": ("KL", ".3f"),
    "loss_recovered_zero": ("recovered, zero", ".3f"),
    "loss_recovered_mean": ("recovered, mean", ".3f"),
}
"""Columns of the table of figures: key of a Result -> title, format."""

_W, _H, _PAD = 460, 180, 36  # of a plot, in SVG units
_CONTEXTS = 6

_STYLE = """
:root { color-scheme: light dark; --fg: #1d1d1f; --dim: #66666b; --bg: #ffffff; --line: #d8d8dc;
  --ink: #b85c00; --shade: 0.75; }
@media (prefers-color-scheme: dark) { :root { --fg: #ececee; --dim: #9a9aa0; --bg: #17171a;
  --line: #3a3a40; --ink: #ff9d3d; --shade: 0.5; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--fg); background: var(--bg);
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; } small, .dim { color: var(--dim); }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
.n td:not(:first-child), .n th:not(:first-child) { text-align: right; white-space: nowrap; }
.wide { overflow-x: auto; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; flex: 1 1 18rem; }
svg { width: 100%; height: auto; } svg text { font: 11px system-ui, sans-serif; fill: var(--dim); }
.axis { stroke: var(--line); fill: none; } .bar { fill: var(--ink); }
.curve { stroke: var(--ink); fill: none; stroke-width: 1.6; }
.context { margin: .15rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
mark { color: inherit; border-radius: 2px;
  background: rgb(236 131 0 / calc(var(--a) * var(--shade))); }
"""


def render_report(
    summary: Mapping[str, Any],
    *,
    events: Sequence[Mapping[str, Any]],
    densities: Sequence[float],
    features: Sequence[Feature],
    attributions: Sequence[str],
) -> str:
    """The page. events: training log; densities: of every alive latent; features: samples."""
    title = f"monoscope: {summary['model'].get('model', '')} at {summary['site']}"
    body = [
        f"<h1>{_text(title)}</h1>",
        _overview(summary),
        "<h2>On held-out documents</h2>",
        _figures(summary["eval"]),
        "<h2>Training</h2>",
        '<div class="plots">',
        curve("loss", [(e["n_tokens"], e["loss"]) for e in events]),
        curve("L0", [(e["n_tokens"], e["l0"]) for e in events]),
        histogram("features by density (share of tokens on which one fires)", densities),
        "</div>",
        "<h2>Features</h2>",
        *(_feature(feature) for feature in features),
        "<h2>Steering</h2>",
        _steering(summary["steer"]),
        "<h2>Wall time</h2>",
        _times(summary),
        "<h2>Licences and attributions</h2>",
        *(f"<p><small>{_text(line)}</small></p>" for line in attributions),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def figure_rows(result: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Formatted figures of the SAE and of each baseline; – where one was not measured."""
    rows = [("this SAE", result), *result["baselines"].items()]
    return [(name, [_figure(row.get(key), key) for key in FIGURES]) for name, row in rows]


def _figure(value: float | None, key: str) -> str:
    return "–" if value is None else format(value, FIGURES[key][1])


def _text(text: object) -> str:
    """Any text made safe for the page: escaped, control characters drawn."""
    return escape(visible(str(text)))


def _overview(summary: Mapping[str, Any]) -> str:
    got, run, atlas = summary["collect"], summary["train"], summary["index"]
    return (
        f"<p>{got['n_tokens']:,} tokens of {got['n_documents']:,} documents; trained on "
        f"{run['n_tokens']:,} tokens; {atlas['n_alive']:,} of {atlas['n_features']:,} features "
        f"alive on {atlas['n_tokens']:,} tokens.</p>"
    )


def _figures(result: Mapping[str, Any]) -> str:
    head = "".join(f"<th>{_text(title)}</th>" for title, _ in FIGURES.values())
    rows = "".join(
        f"<tr><td>{_text(name)}</td>{''.join(f'<td>{_text(cell)}</td>' for cell in cells)}</tr>"
        for name, cells in figure_rows(result)
    )
    methods = "; ".join(f"{name}: {row['method']}" for name, row in result["baselines"].items())
    dead = f"{100 * result['dead_fraction']:.1f} % of features silent in "
    return (
        f'<div class="wide"><table class="n"><tr><th></th>{head}</tr>{rows}</table></div>'
        f"<p><small>{dead}{result['dead_window_tokens']:,} tokens. FVU: unexplained share of the "
        "variance. ΔCE, KL: nats per token lost by splicing the reconstruction into the model. "
        f"Baselines: {_text(methods)}.</small></p>"
    )


def curve(title: str, points: Sequence[tuple[float, float]]) -> str:
    """Points (tokens, value) as an SVG line with its ends of both axes written out."""
    points = [(x, y) for x, y in points if math.isfinite(y)]
    if not points:
        return _plot(title, '<text x="50%" y="50%">no data</text>')
    right = max(x for x, _ in points) or 1
    low, high = min(y for _, y in points), max(y for _, y in points)
    span = (high - low) or 1.0
    wide, tall = (_W - 2 * _PAD) / right, (_H - 2 * _PAD) / span
    path = " ".join(f"{_PAD + x * wide:.1f},{_H - _PAD - (y - low) * tall:.1f}" for x, y in points)
    ends = _label(4, _PAD - 8, f"{high:.3g}") + _label(4, _H - _PAD + 4, f"{low:.3g}")
    ends += _label(_W - _PAD, _H - 12, f"{right:,.0f} tokens", anchor="end")
    return _plot(title, f'<polyline class="curve" points="{path}"/>{ends}')


def histogram(title: str, densities: Sequence[float], per_decade: int = 4) -> str:
    """Densities counted in equal steps of log10, as SVG bars; those of 0 have no place."""
    steps = [math.floor(per_decade * math.log10(d)) for d in densities if d > 0]
    if not steps:
        return _plot(title, '<text x="50%" y="50%">no data</text>')
    first, last = min(steps), max(steps) + 1
    counts = [steps.count(step) for step in range(first, last)]
    width = (_W - 2 * _PAD) / len(counts)
    top = max(counts)
    bars = ""
    for i, count in enumerate(counts):
        tall = count / top * (_H - 2 * _PAD)
        x, y = _PAD + i * width, _H - _PAD - tall
        box = f'x="{x:.1f}" y="{y:.1f}" width="{max(width - 1, 0.5):.1f}" height="{tall:.1f}"'
        bars += f'<rect class="bar" {box}/>'
    ends = _label(_PAD, _H - 12, f"{10 ** (first / per_decade):.1g}")
    ends += _label(_W - _PAD, _H - 12, f"{10 ** (last / per_decade):.1g}", anchor="end")
    return _plot(title, bars + ends + _label(4, _PAD - 8, f"{top:,}"))


def _plot(title: str, inner: str) -> str:
    axis = f'<path class="axis" d="M{_PAD} {_PAD}V{_H - _PAD}H{_W - _PAD}"/>'
    return (
        f"<figure><figcaption>{_text(title)}</figcaption>"
        f'<svg viewBox="0 0 {_W} {_H}" role="img" aria-label="{_text(title)}">{axis}{inner}</svg>'
        "</figure>"
    )


def _label(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{_text(text)}</text>'


def _feature(feature: Feature) -> str:
    score = "" if feature.label_f1 is None else f" · label F1 {feature.label_f1:.2f}"
    lens = ", ".join(f'"{token}"' for token in (feature.top_tokens or [])[:6])
    lines = "".join(context(example, feature.max) for example in feature.top[:_CONTEXTS])
    return (
        f"<h3>#{feature.latent} {_text(feature.label or 'no label')}</h3>"
        f'<p class="dim">fires on {100 * feature.density:.3g} % of tokens{score}'
        f"{' · raises ' + _text(lens) if lens else ''}</p>{lines}"
    )


def context(example: Example, scale: float) -> str:
    """An example's text, each token shaded by its activation's share of `scale`."""
    parts = []
    for piece, value in zip(example.pieces, example.values, strict=True):
        share = min(max(value / scale, 0.0), 1.0) if scale > 0 else 0.0
        text = _text(piece)
        parts.append(f'<mark style="--a:{share:.2f}">{text}</mark>' if share >= 0.05 else text)
    return f'<p class="context">{"".join(parts)}</p>'


def _steering(steer: Mapping[str, Any]) -> str:
    writer = steer["writer"]
    if writer is None:
        return "<p>No feature has a label good enough to try.</p>"
    rows = "".join(
        f"<tr>{''.join(f'<td>{_text(s[key])}</td>' for key in ('prompt', 'default', 'steered'))}"
        f"<td>{s['relative_norm']:.2f}</td><td>{s['kl']:.2f}</td></tr>"
        for s in steer["samples"]
    )
    beaten = "" if writer["score"] > 0 else " No feature tried wrote better than its controls."
    return (
        f"<p>Feature #{writer['latent']}, {_text(steer['label'] or 'no label')}, added at "
        f"{writer['times_norm']:g} × the median norm; the best writer of "
        f"{steer['n_candidates']} features tried.{beaten}</p>"
        "<table><tr><th>prompt</th><th>default</th><th>steered</th><th>‖Δ‖/‖x‖</th><th>KL</th></tr>"
        f"{rows}</table>"
    )


def _times(summary: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{_text(name)}</td><td>{seconds:.1f} s</td></tr>"
        for name, seconds in summary["seconds"].items()
    )
    return f'<table class="n">{rows}</table>'
