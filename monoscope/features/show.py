"""Features at the terminal: a page for one, a table for many, and those that fire on a text.

Everything here returns something rich can render. Corpus text reaches it as `rich.text.Text` made
of visible characters alone: markup in it is not read, and no escape passes through.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from monoscope.features.context import ContextLine, context_line, short
from monoscope.features.feature import Example, Feature, Neighbour, Row
from monoscope.features.lineage import Relation
from monoscope.features.methods import judged, lines
from monoscope.features.text import TextDifference, TextFeatures, TextToken
from monoscope.visible import quoted, visible

Labels = Mapping[int, str | None]

_BLOCKS = "▁▂▃▄▅▆▇█"
_LENS_CAVEAT = "effect on next-token logits; only a hint far from the last layer"
_TITLE_WIDTH = 24
_BAR_WIDTH = 20


def feature_page(feature: Feature, *, n_top: int = 10, n_band: int = 2) -> RenderableType:
    """One feature: label and score, density, histogram, contexts, logit lens and neighbours.

    n_top: strongest contexts shown; n_band: samples shown from each activation band.
    """
    parts: list[RenderableType] = [_header(feature), _figures(feature)]
    top = feature.top[:n_top]
    sampled = sorted({e.band for e in feature.examples if e.band is not None}, reverse=True)
    bands = [example for band in sampled for example in feature.band(band)[:n_band]]
    if top:
        parts += [_heading("strongest contexts"), _contexts(top, feature.max)]
    if bands:
        parts += [_heading("from strong to weak", "drawn from each fifth of the range")]
        parts.append(_contexts(bands, feature.max))
    if feature.top_tokens:
        parts += [_heading("logit lens", _LENS_CAVEAT), _lens(feature)]
    if feature.neighbours:
        parts += [_heading("neighbours"), _neighbours(feature.neighbours)]
    for name, relation in (("part of", feature.part_of), ("splits into", feature.splits_into)):
        if relation is not None:
            note = f"cosine and P(parent | child), in {visible(relation.atlas)}"
            parts += [_heading(name, note), _kin(relation)]
    sources = _sources([*top, *bands])
    if sources:
        parts += [Text(), Text(f"text from {sources}", style="dim")]
    return Group(*parts)


def feature_table(rows: Iterable[Row]) -> RenderableType:
    """Features one a line: latent, label and its held-out F1, density, maximum, tokens."""
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), expand=True, pad_edge=False)
    table.add_column("latent", justify="right", no_wrap=True)
    table.add_column("label", ratio=3, no_wrap=True, overflow="ellipsis")
    for name in ("F1", "density", "max"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("strongest on", ratio=2, no_wrap=True, overflow="ellipsis", style="dim")
    for row in rows:
        score = "human" if row.label_method == "human" else _score(row.label_f1)
        table.add_row(
            str(row.latent),
            label_text(row.label),
            score,
            _percent(row.density),
            short(row.max),
            Text(" ".join(quoted(token) for token in row.tokens)),
        )
    return table


def text_page(
    found: TextFeatures,
    labels: Labels | None = None,
    *,
    by: Literal["sum", "max", "n_tokens"] = "sum",
    n_features: int = 12,
    per_token: int = 3,
    max_tokens: int = 60,
) -> RenderableType:
    """The features of one text: the strongest with the text shaded by each, then token by token.

    labels: by latent. by: what the strongest have most of, as `TextFeatures.ranked` takes it.
    n_features: how many of them are shown; per_token: latents named on each token; max_tokens:
    tokens listed, the rest are counted.
    """
    labels = labels or {}
    if not found.totals:
        return Text("no feature fires on this text", style="dim")
    order = {"sum": "the sum over the text", "max": "the largest value", "n_tokens": "tokens"}[by]
    parts: list[RenderableType] = [_heading("strongest features", f"by {order}")]
    pieces = tuple(token.piece for token in found.tokens)
    for total in found.ranked(by)[:n_features]:
        reach = f"{total.n_tokens} token{'s' if total.n_tokens != 1 else ''}"
        head = _grid("left", "left", "right", stretch=1)
        head.add_row(
            Text(f"#{total.latent}", style="bold"),
            label_text(labels.get(total.latent)),
            Text(f"{reach}, up to {short(total.max)}", style="dim"),
        )
        line = ContextLine(pieces, tuple(found.values(total.latent)), total.peak, total.max)
        parts += [head, Padding(line, (0, 0, 0, 2))]
    parts += [_heading("token by token", f"up to {per_token} features, strongest first")]
    tokens = _grid("left", "left", stretch=1)
    for token in found.tokens[:max_tokens]:
        tokens.add_row(Text(quoted(token.piece)), _active(token, labels, per_token))
    parts.append(tokens)
    if len(found.tokens) > max_tokens:
        parts.append(Text(f"… and {len(found.tokens) - max_tokens} more tokens", style="dim"))
    return Group(*parts)


def differences_page(
    rows: Sequence[TextDifference], labels: Labels | None = None, *, limit: int = 20
) -> RenderableType:
    """What fires more in text A, then what fires more in text B, by the mean value a token.

    rows: as `differences` gives them. limit: shown of either side.
    """
    labels = labels or {}
    more_a = [row for row in rows if row.difference > 0][:limit]
    more_b = [row for row in reversed(rows) if row.difference < 0][:limit]
    parts: list[RenderableType] = []
    for name, side in (("A", more_a), ("B", more_b)):
        parts.append(_heading(f"more in {name}", "mean a token in A · in B"))
        table = _grid("left", "left", "right", "right", stretch=1)
        for row in side:
            table.add_row(
                Text(f"#{row.latent}", style="bold"),
                label_text(labels.get(row.latent)),
                Text(f"{abs(row.difference):+.2f}"),
                Text(f"{row.a:.2f} · {row.b:.2f}", style="dim"),
            )
        parts.append(table if side else Text("nothing", style="dim"))
    return Group(*parts)


def label_text(label: str | None) -> Text:
    """A label, dim where it says that it is unclear or where there is none."""
    if label is None:
        return Text("no label", style="dim")
    return Text(visible(label), style="dim" if label.startswith("unclear") else "")


def sparkline(counts: Sequence[float], width: int) -> str:
    """Counts as `width` block characters at most, empty ends cut away; "" if all are zero."""
    held = [i for i, count in enumerate(counts) if count > 0]
    if not held:
        return ""
    counts = counts[held[0] : held[-1] + 1]
    width = min(width, len(counts))
    edges = [len(counts) * i // width for i in range(width + 1)]
    bars = [sum(counts[a:b]) for a, b in pairwise(edges)]
    top = max(bars)
    return "".join(" " if not bar else _BLOCKS[min(int(8 * bar / top), 7)] for bar in bars)


def _header(feature: Feature) -> RenderableType:
    line = _grid("left", "left", stretch=1)
    line.add_row(Text(f"#{feature.latent}", style="bold"), label_text(feature.label))
    return line


def _figures(feature: Feature) -> RenderableType:
    """How well the label does, then how often and how strongly the latent fires."""
    scored = "label not scored: too few held-out firings"
    if feature.label is None:
        scored = "not labelled"
    elif feature.label_method == "human":
        scored = "labelled by a person"
    elif feature.label_method == "llm":
        scored = "named by a language model"
    elif feature.label_f1 is not None:
        held = (feature.label_rule or {}).get("held_out") or {}
        scored = f"label F1 {_score(feature.label_f1)} · AUC {_score(feature.label_auc)}"
        for one in judged(feature):
            if one.method == feature.label_method and one.sensitivity is not None:
                scored += f" · sensitivity {_score(one.sensitivity)}"
                scored += f" · specificity {_score(one.specificity)}"
        if "mass" in held and feature.label_method == "rule":
            scored += f" · {100 * held['mass']:.0f} % of its activation"
        scored += f" · {held['n_fired']} held-out firings" if "n_fired" in held else ""
    scored += "".join(f"\n{line}" for line in lines(feature))
    bars = sparkline(feature.hist, _BAR_WIDTH)
    fires = f"fires on {_percent(feature.density)} of tokens, up to {short(feature.max)}"
    return Text(f"{scored}\n{fires}{'  ' if bars else ''}{bars}", style="dim")


def _contexts(examples: Sequence[Example], scale: float) -> RenderableType:
    titled = any(_title(example) for example in examples)
    table = _grid("right", "left", "left", stretch=1)
    for example in examples:
        title = Text(_title(example), style="dim", no_wrap=True)
        title.truncate(_TITLE_WIDTH, overflow="ellipsis")
        line = context_line(example, scale=scale)
        table.add_row(Text(short(example.value), style="dim"), line, title if titled else "")
    return table


def _lens(feature: Feature) -> RenderableType:
    table = _grid("left", "left", stretch=1)
    for sign, tokens, logits in (
        ("up", feature.top_tokens, feature.top_logits),
        ("down", feature.bottom_tokens, feature.bottom_logits),
    ):
        line = Text(no_wrap=True, overflow="ellipsis")
        for token, logit in zip(tokens or (), logits or (), strict=True):
            line.append(quoted(token))
            line.append(f" {logit:+.2f}  ", style="dim")
        table.add_row(Text(sign, style="dim"), line)
    return table


def _neighbours(neighbours: Sequence[Neighbour], each: int = 5) -> RenderableType:
    table = _grid("left", "right", "left", "right", stretch=2)
    for kind, name in (("decoder", "same direction"), ("coactivation", "fire together")):
        for i, near in enumerate([n for n in neighbours if n.kind == kind][:each]):
            figure = (
                f"cos {near.cosine:.2f}" if kind == "decoder" else f"Jaccard {near.jaccard:.2f}"
            )
            table.add_row(
                Text(name if i == 0 else "", style="dim"),
                Text(f"#{near.other}"),
                label_text(near.label),
                Text(figure, style="dim"),
            )
    return table


def doubts(cosine: float, agrees: bool, chance: float) -> str:
    """What speaks against two latents being parent and child, each after a dot; "" for nothing."""
    otherwise = "" if agrees else " · fires otherwise"
    return otherwise + (" · no nearer than chance" if cosine <= chance else "")


def _kin(relation: Relation, most: int = 8) -> RenderableType:
    """The parent or the children with how closely they are tied; `most` of them, the rest told."""
    if not relation.kin:
        return Text(f"none, on the {relation.n_tokens:,} tokens read", style="dim")
    table = _grid("right", "left", "right", stretch=1)
    for one in relation.kin[:most]:
        figures = f"cos {one.cosine:.2f} · P {one.parent_given_child:.2f}"
        figures += doubts(one.cosine, one.agrees, relation.chance)
        label = Text("label unknown", style="dim") if relation.trouble else label_text(one.label)
        table.add_row(Text(f"#{one.latent}"), label, Text(figures, style="dim"))
    parts: list[RenderableType] = [table]
    if len(relation.kin) > most:
        parts.append(Text(f"and {len(relation.kin) - most} more", style="dim"))
    if relation.trouble:
        parts.append(Text(visible(relation.trouble), style="dim"))
    return Group(*parts)


def _active(token: TextToken, labels: Labels, per_token: int) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    if not token.kept:
        return line.append("left out by the SAE's mask", style="dim")
    for latent, value in token.active[:per_token]:
        line.append(f"#{latent} ", style="bold")
        line.append(f"{short(value)} ", style="dim")
        label = labels.get(latent)
        line.append_text(label_text(label) if label else Text())
        line.append("  " if label else " ")
    return line


def _grid(*justify: Any, stretch: int) -> Table:
    """Columns side by side without lines; the one at `stretch` takes the room that is left."""
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    for i, side in enumerate(justify):
        table.add_column(
            justify=side, ratio=1 if i == stretch else None, no_wrap=True, overflow="ellipsis"
        )
    return table


def _heading(title: str, note: str = "") -> RenderableType:
    return Group(Text(), Text.assemble((title, "bold"), (f"  {note}" if note else "", "dim")))


def _title(example: Example) -> str:
    return visible(example.meta.get("title") or example.meta.get("source") or "")


def _sources(examples: Iterable[Example]) -> str:
    """The sources and licences of the texts shown, each once."""
    named: list[str] = []
    for example in examples:
        licence = example.meta.get("licence") or example.meta.get("license")
        parts = (example.meta.get("source"), licence)
        said = ", ".join(visible(part) for part in parts if part)
        if said and said not in named:
            named.append(said)
    return " · ".join(named)


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %" if share >= 0.0001 or not share else f"{100 * share:.1g} %"
