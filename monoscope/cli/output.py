"""What a command prints: its answer, as a table or as one JSON object, on stdout."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from monoscope.progress import Bar as Bar


@contextlib.contextmanager
def quiet_stdout(as_json: bool) -> Iterator[None]:
    """With --json, whatever a library prints goes to stderr: stdout is for the one object."""
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def notes() -> Iterator[None]:
    """monoscope's own warnings as a line each on stderr; those of libraries stay as they are."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def line(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
            if category.__module__.partition(".")[0] == "monoscope":
                print(f"monoscope: note: {visible_line(str(message))}", file=sys.stderr)
            else:
                show(message, category, *where, **more)

        warnings.showwarning = line
        yield


def print_json(values: Mapping[str, Any]) -> None:
    """One JSON object on one line; a number that is not finite is null."""
    print(json.dumps(_finite(values), ensure_ascii=False, allow_nan=False))


def print_table(values: Mapping[str, Any]) -> None:
    """Name and value, one a line; values with names of their own below theirs, indented."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, value in _rows(values):
        table.add_row(Text(name, style="dim"), Text(visible_line(value)))
    console().print(table)


def _rows(values: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        nested = isinstance(value, Mapping) and bool(value)
        yield "  " * depth + str(name), "" if nested else _shown(value)
        if nested:
            yield from _rows(value, depth + 1)


def console() -> Console:
    """Standard output, as rich writes to it: no markup, no guessing at what text means."""
    return Console(markup=False, highlight=False, emoji=False, soft_wrap=False)


def visible_line(text: str) -> str:
    """`text` on one line, without control characters that a terminal would act on."""
    return "".join(c if c.isprintable() else " " for c in text)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(_finite(value), ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value
