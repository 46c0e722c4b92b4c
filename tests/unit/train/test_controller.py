"""The target-L0 controller on plants whose answer is known, and what it says at the end."""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from monoscope.train import train
from monoscope.train.controller import FURTHEST, MEMORY, Control, outcome


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


def _outcome(l0: float, factor: float = 2.0, rho: float | None = None) -> dict[str, Any]:
    memory = {MEMORY: {"integral": 0.0, "log_l0": math.log(40.0), "factor": factor}}
    config = SimpleNamespace(target_l0=32, rho=rho, sparsity_coefficient=0.05)
    return outcome(SimpleNamespace(memory=memory), config, l0)  # type: ignore[arg-type]


@pytest.mark.parametrize("l0", [28.81, 32.0, 35.19])
def test_a_tenth_of_the_target_is_reached(l0: float) -> None:
    assert _outcome(l0) == {"l0": 32, "coefficient": pytest.approx(0.1), "reached": True}


@pytest.mark.parametrize("l0", [28.7, 35.3, 0.0, 512.0])
def test_what_was_not_reached_is_told_with_what_to_do(l0: float) -> None:
    told = _outcome(l0)
    assert told["reached"] is False and told["l0"] == 32
    for part in ("target_l0 32 was not reached", f"l0 is {l0:.4g} at", "coefficient of 0.1;",
                 "train on more tokens", "--set sparsity_coefficient="):  # fmt: skip
        assert part in told["advice"]


def test_units_that_are_never_off_are_judged_by_their_sum() -> None:
    """Their L0 is d_sae; what is steered, and remembered, is the sum of the last steps: 40."""
    told = _outcome(32.0, rho=0.05)
    assert not told["reached"] and "l0 is 40 at" in told["advice"]


def test_a_run_that_misses_its_target_says_so(caplog: pytest.LogCaptureFixture) -> None:
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    how: dict[str, Any] = {"recipe": "templeton", "d_sae": 16, "batch_size": 16, "n_tokens": 64}
    with caplog.at_level(logging.WARNING, logger="monoscope"):
        metrics = train(x, target_l0=15, **how).metrics
        assert not metrics["target"]["reached"]
        assert [r.getMessage() for r in caplog.records].count(
            f"SAE 0: {metrics['target']['advice']}"
        ) == 1
        notes: list[str] = []
        train(x, target_l0=15, progress=lambda p: notes.extend(p.notes), **how)
    assert [note for note in notes if "was not reached" in note] == [metrics["target"]["advice"]]
