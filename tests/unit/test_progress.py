"""Progress: rate and time left, never silent for long, and a bar only where a terminal is."""

from __future__ import annotations

import io
import sys

import pytest

from monoscope import progress
from monoscope.progress import Bar


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch, columns: int = 120) -> Terminal:
    """Standard error from here on; set in a test, for pytest sets its own between the phases."""
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    return shown


def test_a_last_step_that_goes_beyond_the_end_leaves_no_time(capsys, clock):
    with Bar("train") as bar:
        bar.at(0, 2000)
        clock[0] += 20.0
        bar.at(2048, 2000)
    assert capsys.readouterr().err == "train: 2,048 of 2,000 tokens, 102/s, 0 s left\n"


def test_plain_progress_has_rate_and_time_left_and_no_more_than_a_line_in_a_while(capsys, clock):
    with Bar("index") as bar:
        for second in range(25):
            clock[0] = 100.0 + second
            bar.at(1000 + 10 * second, 2000)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "index: 1,100 of 2,000 tokens, 10/s, 90 s left",
        "index: 1,200 of 2,000 tokens, 10/s, 80 s left",
    ]


def test_a_task_that_cannot_tell_how_far_it_is_says_that_it_goes_on(capsys, clock):
    with Bar("steer") as bar:
        for second in range(0, 25, 2):
            clock[0] = 100.0 + second
            bar.pulse()
    assert capsys.readouterr().err.splitlines() == ["steer: 10 s so far", "steer: 20 s so far"]


def test_a_pulse_says_nothing_while_there_is_better_to_say(capsys, clock):
    with Bar("index") as bar:
        for second in range(25):
            clock[0] = 100.0 + second
            bar.at(10 * second, 1000)
            bar.pulse()
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 2 and "so far" not in told


@pytest.mark.parametrize("columns", [80, 160])
def test_on_a_terminal_the_bar_has_rate_and_time_left(monkeypatch, columns):
    shown = terminal(monkeypatch, columns)
    with Bar("train") as bar:
        for done in (0, 1_000_000, 2_000_000):
            bar.at(done, 4_000_000, ", fvu 0.144, l0 32.0, dead 5.1%")
            bar.bar.refresh()
    last = shown.getvalue().splitlines()[-2]
    assert "2,000,000 of 4,000,000 tokens" in last and "0:00:0" in last
    assert "dead 5.1%" in last or columns == 80


def test_on_a_terminal_a_task_without_an_end_shows_the_time_since_it_began(monkeypatch):
    shown = terminal(monkeypatch)
    with Bar("steer") as bar:
        bar.pulse()
    assert "steer" in shown.getvalue() and "0 s so far" in shown.getvalue()
    assert "-:--:--" not in shown.getvalue()
