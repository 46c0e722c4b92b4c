"""Default and steered texts on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from monoscope.steer.show import NARROW, side_by_side

SAMPLE = {
    "default": "the cat sat on the mat and so on and so on, as cats do when it rains outside",
    "steered": "GARDEN GARDEN\nROSES \x1b[2J ROSES IN THE GARDEN AND MORE ROSES [bold]BEHIND",
    "relative_norm": 0.516,
    "kl": 1.234,
}


def shown(samples, width):
    screen = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    screen.print(side_by_side(samples, width))
    return screen.file.getvalue()


@pytest.mark.parametrize("width", [NARROW, 80, 120])
def test_the_texts_stand_side_by_side(width):
    lines = shown([SAMPLE], width).splitlines()
    assert max(map(len, lines)) <= width
    assert any("the cat" in line and "GARDEN" in line for line in lines)
    assert any("default" in line and "steered" in line for line in lines)
    assert "0.52" in "".join(lines) and "1.23" in "".join(lines)


def test_on_a_narrow_terminal_one_stands_above_the_other():
    lines = shown([SAMPLE], NARROW - 1).splitlines()
    assert not any("cat" in line and "GARDEN" in line for line in lines)
    assert [line.split()[0] for line in lines if line[0] != " "] == [
        "default", "steered", "‖Δ‖/‖x‖", "KL",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [40, 100])
def test_what_the_model_writes_is_text_and_nothing_else(width):
    out = shown([SAMPLE], width)
    assert "\x1b" not in out and "[bold]" in "".join(out.split())


@pytest.mark.parametrize("width", [40, 100])
def test_prompts_are_shown_where_they_are_given(width):
    out = shown([SAMPLE | {"prompt": "Once"}, SAMPLE | {"prompt": "Twice"}], width)
    assert "Once" in out and "Twice" in out
    assert "prompt" not in shown([SAMPLE], width)
