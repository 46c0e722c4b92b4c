"""One self-contained HTML page: no script, no network, plots as SVG, all text escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from monoscope.visible import visible

_W, _H, _PAD = 460, 180, 36  # of a plot, in SVG units
_MARKS = 6  # kinds of points that a scatter tells apart
_RIGHT = 0.6  # share of a scatter's width from which names stand to the left of their points

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
.n td:first-child, .n th:first-child { min-width: 8.5rem; overflow-wrap: break-word; }
.n.w td, .n.w th { white-space: normal !important; overflow-wrap: normal; }
.n.w span { white-space: nowrap; }
.wide { overflow-x: auto; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; flex: 1 1 24rem;
  min-width: 0; } .even figure { max-width: 29.5rem; }
svg { width: 100%; height: auto; } svg text { font: 11px system-ui, sans-serif; fill: var(--dim); }
.axis { stroke: var(--line); fill: none; } .bar { fill: var(--ink); }
.dot { stroke: var(--bg); } .d0 { fill: var(--ink); } .d1 { fill: #3b7dd8; }
.d2 { fill: #2f9e6e; } .d3 { fill: #a06bc9; } .d4 { fill: #8a8a8f; } .d5 { fill: #c94f6d; }
.curve { stroke: var(--ink); fill: none; stroke-width: 1.6; }
.context { margin: .35rem 0; padding-left: 1rem; text-indent: -1rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.said { margin: .2rem 0; overflow-wrap: anywhere; }
mark { color: inherit; border-radius: 2px;
  background: rgb(236 131 0 / calc(var(--a) * var(--shade))); }
"""


def document(title: str, body: Iterable[str]) -> str:
    """The page around its parts, which are HTML already; the title is text."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def text(value: object) -> str:
    """Any text made safe for the page: escaped, control characters drawn."""
    return escape(visible(str(value)))


def table(head: Sequence[object], rows: Iterable[Sequence[object]], *, wrap: bool = False) -> str:
    """A table of text cells: the first column to the left, figures to the right.

    wrap: cells may break at their spaces, though not inside brackets at their end, for tables that
    would be wider than the page.
    """
    kind = "n w" if wrap else "n"
    rows = [[_whole(text(cell)) if wrap else text(cell) for cell in row] for row in rows]
    top = "".join(f"<th>{text(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table class="{kind}"><tr>{top}</tr>{body}</table></div>'


def _whole(cell: str) -> str:
    """HTML whose brackets at the end, an interval, stay on one line."""
    start, bracket, rest = cell.partition(" (")
    return f"{start} <span>({rest}</span>" if bracket and rest.endswith(")") else cell


def curve(title: str, points: Sequence[tuple[float, float]]) -> str:
    """Points (tokens, value) as an SVG line with its ends of both axes written out."""
    points = [(x, y) for x, y in points if math.isfinite(y)]
    if not points:
        return plot(title, '<text x="50%" y="50%">no data</text>')
    right = max(x for x, _ in points) or 1
    low, high = min(y for _, y in points), max(y for _, y in points)
    if low == high:  # one line, halfway up, with its value once
        points = [(x, 0.5) for x, _ in points]
        ends = _label(4, _H / 2 + 4, f"{high:.3g}")
        low, span = 0.0, 1.0
    else:
        ends = _label(4, _PAD - 8, f"{high:.3g}") + _label(4, _H - _PAD + 4, f"{low:.3g}")
        span = high - low
    wide, tall = (_W - 2 * _PAD) / right, (_H - 2 * _PAD) / span
    path = " ".join(f"{_PAD + x * wide:.1f},{_H - _PAD - (y - low) * tall:.1f}" for x, y in points)
    ends += _label(_W - _PAD, _H - 12, f"{right:,.0f} tokens", anchor="end")
    return plot(title, f'<polyline class="curve" points="{path}"/>{ends}')


def histogram(title: str, densities: Sequence[float], per_decade: int = 4) -> str:
    """Densities counted in equal steps of log10, as SVG bars; those of 0 have no place."""
    steps = [math.floor(per_decade * math.log10(d)) for d in densities if d > 0]
    if not steps:
        return plot(title, '<text x="50%" y="50%">no data</text>')
    first, last = min(steps), max(steps) + 1
    counts = [steps.count(step) for step in range(first, last)]
    ends = f"{10 ** (first / per_decade):.1g}", f"{10 ** (last / per_decade):.1g}"
    return bars(title, counts, left=ends[0], right=ends[1])


def bars(title: str, counts: Sequence[int], *, left: str, right: str) -> str:
    """Counts as SVG bars, with what stands at the left and right end and the tallest count."""
    if not any(counts):
        return plot(title, '<text x="50%" y="50%">no data</text>')
    width = (_W - 2 * _PAD) / len(counts)
    top = max(counts)
    drawn = ""
    for i, count in enumerate(counts):
        tall = count / top * (_H - 2 * _PAD)
        x, y = _PAD + i * width, _H - _PAD - tall
        box = f'x="{x:.1f}" y="{y:.1f}" width="{max(width - 1, 0.5):.1f}" height="{tall:.1f}"'
        drawn += f'<rect class="bar" {box}/>'
    ends = _label(_PAD, _H - 12, left) + _label(_W - _PAD, _H - 12, right, anchor="end")
    return plot(title, drawn + ends + _label(4, _PAD - 8, f"{top:,}"))


def plot(title: str, inner: str) -> str:
    axis = f'<path class="axis" d="M{_PAD} {_PAD}V{_H - _PAD}H{_W - _PAD}"/>'
    return (
        f"<figure><figcaption>{text(title)}</figcaption>"
        f'<svg viewBox="0 0 {_W} {_H}" role="img" aria-label="{text(title)}">{axis}{inner}</svg>'
        "</figure>"
    )


def _label(x: float, y: float, said: str, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{text(said)}</text>'


def scatter(
    title: str,
    points: Mapping[str, Sequence[tuple[float, float]]],
    *,
    across: str,
    up: str,
    front: Sequence[tuple[float, float]] = (),
) -> str:
    """Named points (x, y) as SVG, each kind with its own mark, and a line through `front`.

    Axes run from the least to the largest value, which are written at their ends.
    """
    flat = [p for held in points.values() for p in held if all(map(math.isfinite, p))]
    if not flat:
        return plot(title, '<text x="50%" y="50%">no data</text>')
    xs, ys = [x for x, _ in flat], [y for _, y in flat]
    left, low = min(xs), min(ys)
    wide = (_W - 2 * _PAD) / ((max(xs) - left) or 1.0)
    tall = (_H - 2 * _PAD) / ((max(ys) - low) or 1.0)

    def place(point: tuple[float, float]) -> tuple[float, float]:
        return _PAD + (point[0] - left) * wide, _H - _PAD - (point[1] - low) * tall

    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, front))
    inner = f'<polyline class="curve" points="{line}"/>' if len(front) > 1 else ""
    for kind, (name, held) in enumerate(points.items()):
        for x, y in (place(p) for p in held if all(map(math.isfinite, p))):
            where = f'cx="{x:.1f}" cy="{y:.1f}" r="4"'
            inner += f'<circle class="dot d{kind % _MARKS}" {where}><title>{text(name)}</title>'
            late = x > _PAD + _RIGHT * (_W - 2 * _PAD)  # a name that would run out of the plot
            at, anchor = (x - 6, "end") if late else (x + 6, "start")
            inner += f"</circle>{_label(round(at, 1), round(y - 4, 1), name, anchor)}"
    inner += _label(4, _PAD - 22, f"{up}: {max(ys):.3g}") + _label(4, _H - _PAD + 4, f"{low:.3g}")
    inner += _label(_PAD, _H - 12, f"{left:.3g}")
    inner += _label(_W - _PAD, _H - 12, f"{across}: {max(xs):.3g}", anchor="end")
    return plot(title, inner)
