"""How far a task is: a bar with rate and time left on a terminal, else lines now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LINE_SECONDS = 10.0  # between plain lines, where there is no terminal to draw a bar on


class Bar:
    """Progress of one task in tokens, with rate and time left: a bar on a terminal, else lines.

    As a context manager; `at` takes what `progress=` of the rooms is called with.
    transient: the bar goes when the task ends.
    """

    def __init__(self, task: str, unit: str = "tokens", *, transient: bool = False) -> None:
        self.task, self.started, self.said = task, time.monotonic(), time.monotonic()
        self.began = self.started
        self.unit, self.transient = unit, transient
        self.first: int | None = None
        self.bar: Progress | None = None
        self.id: TaskID | None = None
        self.tokens_per_s: float | None = None

    def __enter__(self) -> Bar:
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(20), _TimeLeft(), _Said())
            self.bar = Progress(*columns, console=Console(stderr=True), transient=self.transient)
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
            left = f", {max(total - done, 0) / rate:,.0f} s left" if rate > 0 else ""
            self.note(f"{self.task}: {said}{left}")

    def pulse(self) -> None:
        """Say that the task goes on, where no line has told anything for a while.

        For tasks that cannot tell how far they are; called now and then, from any thread.
        """
        now = time.monotonic()
        if self.bar is None and now - self.said >= LINE_SECONDS:
            self.said = now
            self.note(f"{self.task}: {now - self.began:,.0f} s so far")

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


class _TimeLeft(TimeRemainingColumn):
    """Time left; of a task that does not know its end, the time since it began."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text(f"{task.elapsed or 0:.0f} s so far", style="progress.elapsed")
        return super().render(task)


class _Said(ProgressColumn):
    """Count, rate and figures on one line: what a narrow terminal cuts, rather than time left."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["said"], no_wrap=True, overflow="ellipsis")
