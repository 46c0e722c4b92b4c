"""Default and steered texts side by side on a terminal, one above the other where it is narrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from monoscope.visible import visible

NARROW = 60  # columns: below, half of them would hold a few words
_TEXTS = ("prompt", "default", "steered")
_FIGURES = {"relative_norm": "‖Δ‖/‖x‖", "kl": "KL"}


def side_by_side(samples: Sequence[Mapping[str, Any]], width: int) -> Table:
    """A row for each sample: its texts, ‖Δ‖/‖x‖ and KL in nats a token.

    samples: objects with default, steered, relative_norm, kl, and prompt where it is to be shown.
    width: of the terminal, in columns; below `NARROW` the cells of a row stand under each other.
    """
    names = [name for name in _TEXTS if any(name in sample for sample in samples)]
    if width < NARROW:
        return _stacked(samples, names)
    table = Table(expand=True, show_lines=True)
    for name in names:
        table.add_column(name, ratio=2 if name == "prompt" else 4)
    for title in _FIGURES.values():
        table.add_column(title, justify="right", no_wrap=True)
    for sample in samples:
        table.add_row(*_texts(sample, names), *_figures(sample))
    return table


def _stacked(samples: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for sample in samples:
        cells = (*_texts(sample, names), *map(Text, _figures(sample)))
        for title, cell in zip((*names, *_FIGURES.values()), cells, strict=True):
            table.add_row(Text(title, style="dim"), cell)
    return table


def _texts(sample: Mapping[str, Any], names: Sequence[str]) -> list[Text]:
    return [Text(visible(str(sample[name]))) for name in names]


def _figures(sample: Mapping[str, Any]) -> list[str]:
    return [f"{sample[name]:.2f}" for name in _FIGURES]
