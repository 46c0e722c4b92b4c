"""What the demo shows in the terminal when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from monoscope.demo.report import FIGURES, figure_rows, time_rows
from monoscope.features.context import context_line
from monoscope.features.feature import Feature
from monoscope.features.show import label_text
from monoscope.steer.show import side_by_side
from monoscope.visible import visible


def show(
    console: Console,
    summary: dict[str, Any],
    features: Sequence[Feature],
    attributions: Sequence[str],
) -> None:
    """Print figures beside baselines, times, features, the steered sample and what to type next."""
    _figures(console, summary["eval"])
    _times(console, summary)
    _features(console, features)
    _steered(console, summary["steer"])
    _next(console, summary, features)
    _heading(console, "Licences of the model and the texts shown")
    for line in attributions:
        console.print(Text(line, style="dim"))


def _heading(console: Console, text: str) -> None:
    console.print()
    console.print(Text(text, style="bold"))


def _figures(console: Console, result: dict[str, Any]) -> None:
    _heading(console, "On held-out documents")
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for title, _ in FIGURES.values():
        table.add_column(title, justify="right")
    for name, cells in figure_rows(result):
        table.add_row(name, *cells)
    console.print(table)
    dead = f"{100 * result['dead_fraction']:.1f} % dead in {result['dead_window_tokens']:,} tokens"
    console.print(Text(f"{dead}; baselines at the same L0", style="dim"))


def _times(console: Console, summary: dict[str, Any]) -> None:
    _heading(console, "Wall time by stage")
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name, seconds, remark in time_rows(summary):
        table.add_row(name, seconds, Text(remark, style="dim"))
    console.print(table)


def _features(console: Console, features: Sequence[Feature]) -> None:
    _heading(console, f"The {len(features)} most interesting features")
    for feature in features:
        line = Text(f"#{feature.latent} ", style="bold") + label_text(feature.label)
        if feature.label_f1 is not None:
            line.append(f"  F1 {feature.label_f1:.2f}", style="dim")
        console.print(line, no_wrap=True, overflow="ellipsis")
        for example in feature.top[:2]:
            console.print(Padding(context_line(example, scale=feature.max), (0, 2, 0, 4)))


def _steered(console: Console, steer: dict[str, Any]) -> None:
    if steer["writer"] is None:
        _heading(console, "Steering: no feature promises anything to try")
        return
    writer = steer["writer"]
    about = f"#{writer['latent']} {visible(steer['label'] or '')}"
    _heading(console, f"Steered with {about}, {writer['times_norm']:g} × the median norm")
    console.print(f"It promises {visible(steer['promise'])}.", markup=False, highlight=False)
    if writer["score"] <= 0:
        console.print("No feature tried wrote better than its controls; this is the best of them.")
    console.print(side_by_side(steer["samples"], console.width))


def _next(console: Console, summary: dict[str, Any], features: Sequence[Feature]) -> None:
    out = summary["out"]
    _heading(console, f"Report: {summary['report']}")
    console.print("Try next:")
    lines = [f"monoscope features {out}/atlas --search paris"]
    if features:
        lines.append(f"monoscope features {out}/atlas --id {features[0].latent}")
    if summary["steer"]["writer"] is not None:
        writer = summary["steer"]["writer"]
        edit = f"{writer['latent']}=add:{writer['times_norm']:g}norm"
        about = f"--model {summary['model_argument']} --edit {edit}"
        lines.append(f'monoscope steer {out}/sae {about} --prompt "Let me tell you about"')
    for line in lines:
        console.print(Text("  " + line), soft_wrap=True)
