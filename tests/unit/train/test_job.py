"""When a run is saved: by the clock unless tokens are named, and never at the cost of its steps."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from monoscope.train import job, train
from monoscope.train.folder import RunFolder

BATCH, STEPS = 16, 12


class Clock:
    """Seconds that pass only when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def saves(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """A clock by which a step takes 10 s and a checkpoint `cost`; `at` gets the steps of those."""
    clock = Clock()
    told: dict[str, list[float]] = {"at": [], "cost": [0.0]}
    monkeypatch.setattr(job, "time", clock)
    take, checkpoint = job.Stepper.take, RunFolder.checkpoint

    def slow_take(stepper: job.Stepper, x: torch.Tensor) -> object:
        clock.now += 10
        return take(stepper, x)

    def seen(folder: RunFolder, state: object, stream: object) -> None:
        told["at"].append(state.step)  # type: ignore[attr-defined]
        clock.now += told["cost"][0]
        checkpoint(folder, state, stream)  # type: ignore[arg-type]

    monkeypatch.setattr(job.Stepper, "take", slow_take)
    monkeypatch.setattr(RunFolder, "checkpoint", seen)
    return told


def trained(out: Path | None, **settings: int) -> torch.Tensor:
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    run = train(
        x, d_sae=8, k=2, n_tokens=STEPS * BATCH, batch_size=BATCH, out=out, settings=settings
    )
    return run.sae.W_dec.detach()


def test_a_run_is_saved_every_minute(saves: dict[str, list[float]], tmp_path: Path) -> None:
    often = trained(tmp_path / "by-the-clock")
    assert saves["at"] == [6, 12] or saves["at"] == [6]
    assert torch.equal(often, trained(None))


def test_saving_takes_a_twentieth_at_most(saves: dict[str, list[float]], tmp_path: Path) -> None:
    saves["cost"] = [2.5]  # worth 50 s of steps: less than the minute
    trained(tmp_path / "a")
    assert saves["at"][0] == 6 and all(b - a >= 6 for a, b in pairwise(saves["at"]))
    saves["at"], saves["cost"] = [], [5.0]  # worth 100 s, so not again before the end
    trained(tmp_path / "b")
    assert saves["at"] == [6]


@pytest.mark.parametrize(("every", "at"), [(0, []), (4 * BATCH, [4, 8]), (5 * BATCH, [5, 10])])
def test_tokens_go_before_the_clock(
    every: int, at: list[int], saves: dict[str, list[float]], tmp_path: Path
) -> None:
    trained(tmp_path / "run", checkpoint_every_tokens=every)
    assert saves["at"] == at


def test_the_pace_of_saving_may_change_between_sessions(tmp_path: Path) -> None:
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    how = {"d_sae": 8, "k": 2, "n_tokens": STEPS * BATCH, "batch_size": BATCH}
    train(x, out=tmp_path / "run", **how)  # type: ignore[arg-type]
    often = {"checkpoint_every_tokens": BATCH}
    train(x, out=tmp_path / "run", resume=True, settings=often, **how)  # type: ignore[arg-type]
