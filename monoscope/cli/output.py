"""What a command prints: its answer on stdout, how far it is on stderr."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

LINE_SECONDS = 10.0  # between plain lines, where there is no terminal to draw a bar on


class Bar:
    """Progress of one task in tokens, with rate and time left: a bar on a terminal, else lines.

    As a context manager; `at` takes what `progress=` of the rooms is called with.
    """

    def __init__(self, task: str, unit: str = "tokens") -> None:
        self.task, self.started, self.said = task, time.monotonic(), time.monotonic()
        self.unit = unit
        self.first: int | None = None
        self.bar: Progress | None = None
        self.id: TaskID | None = None
        self.tokens_per_s: float | None = None

    def __enter__(self) -> Bar:
        if sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[said]}"),
            )
            console = Console(stderr=True)
            self.bar = Progress(*columns, TimeRemainingColumn(), console=console)
            self.bar.start()
            self.id = self.bar.add_task(self.task, total=None, said="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def at(self, done: int, total: int, extra: str = "") -> None:
        """`done` of `total` tokens; what was done before the first call is not in the rate."""
        now = time.monotonic()
        if self.first is None:
            self.first, self.started = (done, now) if done < total else (0, self.started)
        rate = (done - self.first) / max(now - self.started, 1e-9)
        said = f"{done:,} of {total:,} {self.unit}, {rate:,.0f}/s{extra}"
        if self.bar is not None and self.id is not None:
            self.bar.update(self.id, completed=done, total=total, said=said)
        elif now - self.said >= LINE_SECONDS:
            self.said = now
            left = f", {(total - done) / rate:,.0f} s left" if rate > 0 else ""
            self.note(f"{self.task}: {said}{left}")

    def trained(self, p: Any) -> None:
        """From monoscope.train.loop.Progress; what it has to tell stands on lines of its own."""
        of = f"{p.name}: " if self.task == "sweep" else ""
        for note in p.notes:
            self.note(of + note)
        figures = f"fvu {p.fvu:.3f}, l0 {p.l0:.1f}, dead {p.dead_fraction:.1%}"
        self.at(p.n_tokens, p.total, f", {of}{figures}")

    def harvested(self, p: Any) -> None:
        """From monoscope.data.harvest.HarvestProgress; keeps this run's own rate."""
        self.tokens_per_s = None if p.phase == "reused" else p.tokens_per_s
        if p.message:
            self.note(p.message)
        self.at(min(p.n_tokens, p.total), p.total)

    def note(self, line: str) -> None:
        """One line on stderr, above the bar."""
        if self.bar is not None:
            self.bar.console.print(Text(line))
        else:
            print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def quiet_stdout(as_json: bool) -> Iterator[None]:
    """With --json, whatever a library prints goes to stderr: stdout is for the one object."""
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        yield


def print_json(values: Mapping[str, Any]) -> None:
    """One JSON object on one line; a number that is not finite is null."""
    print(json.dumps(_finite(values), ensure_ascii=False, allow_nan=False))


def print_table(values: Mapping[str, Any]) -> None:
    """Name and value, one a line; nested values as JSON."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, value in values.items():
        table.add_row(Text(name, style="dim"), Text(visible_line(_shown(value))))
    console().print(table)


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
