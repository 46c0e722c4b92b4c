"""The target-L0 controller on plants whose answer is known, and what it says at the end."""

from __future__ import annotations

import math

import pytest

from monoscope.train.controller import FURTHEST, Control


def _run(
    target: float, steps: int, *, start: float, elasticity: float, lag: float, floor: float = 0.0
) -> tuple[float, Control]:
    """L0 after `steps`, where log L0 follows log start − elasticity·log factor with a lag."""
    control, log_l0 = Control(), math.log(start)
    for _ in range(steps):
        goal = math.log(start) - elasticity * math.log(control.factor)
        log_l0 += (goal - log_l0) / (lag * steps)
        control = control.after(max(math.exp(log_l0), floor), target, 1 / steps)
    return max(math.exp(log_l0), floor), control


@pytest.mark.parametrize("start", [4, 32, 64, 400])
@pytest.mark.parametrize("elasticity", [0.4, 1.0, 2.0])
@pytest.mark.parametrize("lag", [0.01, 0.05])
@pytest.mark.parametrize("steps", [150, 2000])
def test_it_reaches_the_target(start: float, elasticity: float, lag: float, steps: int) -> None:
    l0, _ = _run(32, steps, start=start, elasticity=elasticity, lag=lag)
    assert l0 == pytest.approx(32, rel=0.1)


def test_it_leaves_a_run_at_its_target_alone() -> None:
    control = Control()
    for _ in range(100):
        control = control.after(32.0, 32.0, 0.01)
    assert control.factor == 1.0


def test_it_does_not_run_away_where_the_target_cannot_be_reached() -> None:
    l0, control = _run(8, 2000, start=64, elasticity=1.0, lag=0.01, floor=20)
    assert l0 == 20
    assert math.log(control.factor) <= FURTHEST + 1
    silent = Control()
    for _ in range(500):
        silent = silent.after(0.0, 8, 1 / 500)
    assert 0 < silent.factor < 1 and math.isfinite(silent.factor)
