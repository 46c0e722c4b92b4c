"""The runs of a sweep and the law through them as SVG: FVU against L0, d_sae and tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monoscope.page import text
from monoscope.sweep.scaling import LEVEL, Law

_W, _H = 320, 250  # of a panel, in SVG units
_HEAD = 24  # above a row of panels, for its site
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 62, 30, 34  # around its axes
_POINTS = 33  # of a curve
_INKS = ("#c06000", "#3b7dd8", "#2f9e6e", "#a06bc9", "#c94f6d", "#8a8a8f")
STYLE = """
.panel text { font: 11px system-ui, sans-serif; fill: #66666b; }
.panel .title { font-weight: 600; } .panel .grid { stroke: #d8d8dc; stroke-width: .6; }
.panel .law { fill: none; stroke-width: 1.6; } .panel .band { opacity: .16; stroke: none; }
.panel circle { stroke: #fff; stroke-width: .8; }
@media (prefers-color-scheme: dark) { .panel text { fill: #9a9aa0; }
  .panel .grid { stroke: #3a3a40; } .panel circle { stroke: #17171a; } }
"""
Group = tuple[str, list[tuple[float, float]], Callable[[NDArray[np.float64]], Any] | None]


def panels(rows: Sequence[Mapping[str, Any]], law: Law | None) -> list[str]:
    """One SVG for each axis that the sweep has: L0 by d_sae, d_sae by L0, and tokens by d_sae.

    rows: finished runs. The first two show those with the most tokens, the third those with the
    middle L0. Curves are the law, shades the interval of its bootstrap.
    """
    named = len({row["recipe"] for row in rows}) > 1
    most = max(row["n_tokens"] for row in rows)
    longest = [row for row in rows if row["n_tokens"] > 0.9 * most]
    made = [
        _panel("FVU against L0", "L0", _by_size(longest, "l0", law, named)),
        _panel("FVU against d_sae", "d_sae", _by_k(longest, law, named)),
    ]
    asked = sorted({row["k"] for row in rows if row["k"] is not None})
    if len(longest) < len(rows) and asked:
        middle = [row for row in rows if row["k"] == asked[len(asked) // 2]]
        title = f"FVU against tokens, at L0 {asked[len(asked) // 2]:g}"
        made.append(_panel(title, "tokens", _by_size(middle, "n_tokens", law, named)))
    return made


def standalone(drawn: Mapping[str, Sequence[str]]) -> str:
    """The panels of each site in a row as an SVG file; the site above its row, if it is named."""
    beside, tall = "", 0
    for site, row in drawn.items():
        if site:
            tall += _HEAD
            beside += (
                f'<g class="panel"><text class="title" x="{_LEFT}" y="{tall - 4}">{text(site)}'
                "</text></g>"
            )
        down = f' y="{tall}"' if tall else ""
        beside += "".join(
            panel.replace("<svg ", f'<svg x="{at * _W}"{down} width="{_W}" height="{_H}" ', 1)
            for at, panel in enumerate(row)
        )
        tall += _H
    wide = _W * max(len(row) for row in drawn.values())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {tall}" '
        f'role="img" aria-label="FVU of a sweep"><style>{STYLE}</style>{beside}</svg>\n'
    )


def _by_size(
    rows: Sequence[Mapping[str, Any]], across: str, law: Law | None, named: bool
) -> list[Group]:
    """Groups of one recipe and d_sae."""
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["recipe"] if named else "", row["d_sae"]), []).append(row)
    made: list[Group] = []
    for (recipe, size), held in groups.items():
        l0 = float(np.exp(np.mean([np.log(row["l0"]) for row in held])))
        tokens = max(row["n_tokens"] for row in held)

        def at(x: Any, size: int = size, l0: float = l0, tokens: int = tokens) -> Any:
            return (size, x, tokens) if across == "l0" else (size, l0, x)

        points = [(float(row[across]), float(row["fvu"])) for row in held]
        made.append((f"{recipe} {size:,}".strip(), points, _curve(law, at)))
    return made


def _by_k(rows: Sequence[Mapping[str, Any]], law: Law | None, named: bool) -> list[Group]:
    """Groups of one recipe and k."""
    groups: dict[tuple[str, Any], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["recipe"] if named else "", row["k"]), []).append(row)
    made: list[Group] = []
    for (recipe, k), held in groups.items():
        l0 = float(np.exp(np.mean([np.log(row["l0"]) for row in held])))
        tokens = max(row["n_tokens"] for row in held)

        def at(x: Any, l0: float = l0, tokens: int = tokens) -> Any:
            return (x, l0, tokens)

        points = [(float(row["d_sae"]), float(row["fvu"])) for row in held]
        label = "L0 any" if k is None else f"L0 {k:g}"
        made.append((f"{recipe} {label}".strip(), points, _curve(law, at)))
    return made


def _curve(law: Law | None, at: Callable[[Any], Any]) -> Any:
    """The law along an axis: x -> (low, middle, high) of LEVEL."""
    if law is None:
        return None

    def values(x: NDArray[np.float64]) -> tuple[Any, Any, Any]:
        middle = law.predict(*at(x))
        draws = law.predictions(*at(x))
        if not len(draws):
            return middle, middle, middle
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        return low, middle, high

    return values


def _panel(title: str, across: str, groups: list[Group]) -> str:
    """Points and curves on two logarithmic axes."""
    xs = [x for _, points, _ in groups for x, _ in points]
    ys = [
        y for _, points, curve in groups for y in (*(y for _, y in points), *_reach(points, curve))
    ]
    left, right = _widened(min(xs), max(xs))
    low, high = _widened(min(ys), max(ys))

    def place(x: Any, y: Any) -> tuple[Any, Any]:
        wide = (_W - _LEFT - _RIGHT) / np.log(right / left)
        tall = (_H - _TOP - _BOTTOM) / np.log(high / low)
        return _LEFT + np.log(x / left) * wide, _H - _BOTTOM - np.log(y / low) * tall

    inner = f'<text class="title" x="{_LEFT}" y="16">{text(title)}</text>'
    for value in _ticks(left, right, sorted(set(xs)) if len(set(xs)) <= 4 else None):
        x, _ = place(value, low)
        said = _rounded(value) if across == "tokens" else _short(value)
        inner += _line(x, _TOP, x, _H - _BOTTOM) + _said(x, _H - _BOTTOM + 14, said, 1)
    for value in _ticks(low, high, None):
        _, y = place(left, value)
        inner += _line(_LEFT, y, _W - _RIGHT, y) + _said(_LEFT - 5, y + 4, f"{value:g}", 2)
    inner += _said(_W - _RIGHT, _H - 5, across, 2)
    for number, (name, points, curve) in enumerate(groups):
        inner += _drawn(points, curve, place, _INKS[number % len(_INKS)], name)
    inner += _names([(*place(*max(points)), name) for name, points, _ in groups])
    label = text(title)
    return (
        f'<svg class="panel" viewBox="0 0 {_W} {_H}" role="img" aria-label="{label}">{inner}</svg>'
    )


def _drawn(points: Any, curve: Any, place: Any, ink: str, name: str) -> str:
    drawn = ""
    if curve is not None and len({x for x, _ in points}) > 1:
        x = np.geomspace(min(x for x, _ in points), max(x for x, _ in points), _POINTS)
        low, middle, high = curve(x)
        around = [*zip(*place(x, low), strict=True), *list(zip(*place(x, high), strict=True))[::-1]]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in around)
        drawn += f'<polygon class="band" style="fill:{ink}" points="{path}"/>'
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(*place(x, middle), strict=True))
        drawn += f'<polyline class="law" style="stroke:{ink}" points="{path}"/>'
    for point in points:
        a, b = place(*point)
        drawn += f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.6" style="fill:{ink}">'
        drawn += f"<title>{text(name)}: {point[0]:,.4g}, FVU {point[1]:.4g}</title></circle>"
    return drawn


def _widened(low: float, high: float) -> tuple[float, float]:
    """A range with a little room on a logarithmic axis."""
    room = max((high / low) ** 0.06, 1.02)
    return low / room, high * room


def _ticks(low: float, high: float, given: list[float] | None) -> list[float]:
    """The values themselves where they are few, else 1, 2, 5 (or finer) times powers of ten."""
    if given is not None:
        return given
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    found: list[float] = []
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
        found = [m * 10.0**p for p in powers for m in steps if low <= m * 10.0**p <= high]
        if len(found) >= 3:
            break
    return found


def _short(value: float) -> str:
    return (
        f"{value / 1e6:g}M" if value >= 1e6 else f"{value:,.3g}" if value < 1e3 else f"{value:,.0f}"
    )


def _rounded(value: float) -> str:
    """A number of tokens, which is whole batches: what was asked for is near enough."""
    near = float(f"{value:.2g}")
    return f"{near / 1e6:g}M" if near >= 1e6 else f"{near / 1e3:g}k"


def _reach(points: Any, curve: Any) -> list[float]:
    """The lowest and highest value of a group's band, if it has one."""
    if curve is None:
        return []
    low, _, high = curve(np.array([min(x for x, _ in points), max(x for x, _ in points)]))
    return [float(np.min(low)), float(np.max(high))]


def _names(ends: list[tuple[float, float, str]]) -> str:
    """Each group's name at the end of its points, from the lowest up, none upon another."""
    drawn, free = "", float(_H - _BOTTOM - 2)
    for number in sorted(range(len(ends)), key=lambda number: -ends[number][1]):
        x, y, name = ends[number]
        y = min(y, free)
        free = y - 12
        ink = _INKS[number % len(_INKS)]
        drawn += f'<text x="{x + 8:.1f}" y="{y + 4:.1f}" style="fill:{ink}">{text(name)}</text>'
    return drawn


def _line(x: float, y: float, to_x: float, to_y: float) -> str:
    return f'<path class="grid" d="M{x:.1f} {y:.1f}L{to_x:.1f} {to_y:.1f}"/>'


def _said(x: float, y: float, said: str, anchor: int) -> str:
    where = ("start", "middle", "end")[anchor]
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{where}">{text(said)}</text>'
