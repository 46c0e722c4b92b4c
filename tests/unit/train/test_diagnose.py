"""Each finding where its cause is really there, and silence where it is not."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from monoscope.errors import TrainingError
from monoscope.train import grid, job, loop, train
from monoscope.train.diagnose import WINDOW, Look, Watch
from monoscope.train.loop import Pass, Progress
from monoscope.train.mixing import Mixing
from monoscope.train.order import Order
from monoscope.train.source import TensorStream

D, BATCH, STEPS = 12, 32, 40


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.setattr(grid, "CALIBRATION_TOKENS", 64)
    monkeypatch.setattr(grid, "SAMPLE_TOKENS", 512)
    for module in (job, loop):
        monkeypatch.setattr(module, "EVENT_STEPS", 2)


def world(n: int = 2000) -> Tensor:
    """Sparse sums of 32 directions, and a little noise."""
    draw = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(32, D, generator=draw), dim=1)
    chosen = (torch.rand(n, 32, generator=draw) < 0.08) * torch.rand(n, 32, generator=draw)
    return 3 * chosen @ directions + 0.02 * torch.randn(n, D, generator=draw) + 0.1


def notes(source: Any, **settings: Any) -> list[str]:
    told: list[str] = []

    def listen(p: Progress) -> None:
        told.extend(p.notes)

    asked: dict[str, Any] = {"d_sae": 32, "n_tokens": STEPS * BATCH, "batch_size": BATCH, "seed": 1}
    asked |= {"recipe": "topk", "k": 3, "lr": 5e-3}
    train(source, **{**asked, **settings}, progress=listen)
    return told


def starting(told: list[str], with_: str) -> list[str]:
    return [note for note in told if note.startswith(with_)]


def test_a_run_in_order_has_nothing_to_tell() -> None:
    assert notes(world()) == []


def test_a_learning_rate_too_high_is_told_and_a_good_one_is_not() -> None:
    told = starting(notes(world(), lr=0.7), "learning rate too high")
    assert told and "at lr 0.7; try --lr 0.2" in told[0]


def test_a_penalty_that_costs_error_is_no_learning_rate() -> None:
    """Here fvu rises from the start to that of the mean, because the penalty asks for it."""
    told = notes(world(), recipe="bricken", k=None, settings={"sparsity_coefficient": 20.0})
    assert starting(told, "learning rate") == []


def test_a_run_that_diverges_is_stopped() -> None:
    settings = {"sparsity_coefficient": 0.0, "grad_clip": 1e6, "warmup_fraction": 1.0}
    with pytest.raises(TrainingError, match=r"has diverged: its fvu rose from 0\.\d+ to .*--lr"):
        notes(world(), recipe="templeton", k=None, lr=1.0, n_tokens=80 * BATCH, settings=settings)


@pytest.mark.parametrize(("coefficient", "dominates"), [(1 / 32, True), (1e-4, False)])
def test_auxk_that_outweighs_the_reconstruction(coefficient: float, dominates: bool) -> None:
    """Most of 256 latents are dead at k 1, so that the auxiliary term is there all the time."""
    told = notes(
        world(), d_sae=256, k=1,
        settings={"auxk_coefficient": coefficient, "dead_after_tokens": BATCH},
    )  # fmt: skip
    assert bool(starting(told, "AuxK dominates")) == dominates


@pytest.mark.parametrize(("bandwidth", "still"), [(1e-9, True), (0.5, False)])
def test_thresholds_that_no_value_comes_near(bandwidth: float, still: bool) -> None:
    told = notes(world(), recipe="jumprelu", k=None, settings={"bandwidth": bandwidth})
    assert bool(starting(told, "threshold not moving")) == still


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_source_that_is_not_shuffled(shuffled: bool) -> None:
    """Documents of 64 tokens around a middle of their own, laid end to end."""
    middles = 3 * torch.randn(40, D, generator=torch.Generator().manual_seed(2))
    x = middles.repeat_interleave(64, 0) + torch.randn(2560, D)
    if shuffled:
        x = x[torch.randperm(2560, generator=torch.Generator().manual_seed(3))]
    told = starting(notes(iter(x.split(50))), "buffer too small to shuffle")
    assert bool(told) != shuffled
    if told:
        assert "one of 32 is worth 1 independent" in told[0]


def test_alike_is_one_for_independent_rows_and_the_cluster_size_for_clusters() -> None:
    """The design effect of rows that come in fours: 4."""
    draw = torch.Generator().manual_seed(5)
    for times in (1, 4):
        mixing = Mixing()
        assert mixing.alike() is None
        for _ in range(16):
            mixing.see(torch.randn(256 // times, 64, generator=draw).repeat_interleave(times, 0))
        alike = mixing.alike()
        assert alike is not None and alike == pytest.approx(times, rel=0.1)


class Slow(TensorStream):
    """A stream that takes its time, on a clock of the test's."""

    origin = "the model"

    def __init__(self, now: list[float], seconds: float) -> None:
        super().__init__(world(), BATCH, 0)
        self.now, self.seconds = now, seconds

    def __next__(self) -> Tensor:
        self.now[0] += self.seconds
        return super().__next__()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock of the test's, on which every step takes one second."""
    clock = [0.0]

    class Clocked(Pass):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, clock=lambda: clock[0])

        def _give(self, *args: Any) -> None:
            clock[0] += 1.0
            super()._give(*args)

    monkeypatch.setattr(grid, "Pass", Clocked)
    return clock


def slow(now: list[float], seconds: float) -> Any:
    return type("Source", (), {"stream": lambda self, size, seed: Slow(now, seconds)})()


@pytest.mark.parametrize(("seconds", "told"), [(5.0, True), (0.1, False)])
def test_waiting_for_the_model(seconds: float, told: bool, now: list[float]) -> None:
    """A step takes one second, a batch as long as is said: five of six seconds are 83 %."""
    found = notes(slow(now, seconds))
    expected = ["the model is the bottleneck (83% of the time)"] if told else []
    assert found == expected


def test_passes_that_take_turns_wait_together(now: list[float]) -> None:
    """One waits for the model that both read: five of seven seconds, not five of six or none."""
    order = Order(d_sae=24, k=3, n_tokens=40 * BATCH)
    told: list[tuple[str, ...]] = []
    with (
        grid.Plan(slow(now, 5.0), [order], batch_size=BATCH) as one,
        grid.Plan(slow(now, 0.0), [order], batch_size=BATCH) as other,
    ):
        grid.train_plans([one, other], progress=lambda p: told.append(p.notes))
    found = [note for notes in told for note in notes]
    shares = [re.search(r"the model is the bottleneck \((\d+)%", note) for note in found]
    assert [round(int(share[1]), -1) for share in shares if share] == [70, 70]


def test_a_finding_is_told_once_and_again_when_it_comes_back() -> None:
    watch = Watch()
    told = []
    state = type("S", (), {"sae": type("A", (), {"threshold": torch.zeros(())})()})()
    config = type("C", (), {"lr": 1e-3, "batch_size": 8})()
    shares = itertools.chain([0.9] * 2 * WINDOW, [0.1] * 2 * WINDOW, [0.9] * 2 * WINDOW)
    for step, share in enumerate(shares):
        look = Look(step, step, 1.0, 0.5, 3.0, 0.0, 1e-3, {"auxk": share})
        around = type("R", (), {"waiting": None, "alike": None})()
        told += [note.kind for note in watch.see(look, state, config, around)]
    assert told == ["auxk", "auxk"]


def ragged(fault: Tensor) -> Iterator[Tensor]:
    """Good batches, with a bad one after 30 of them."""
    good = world(70 * BATCH).split(BATCH)
    yield from (*good[:30], fault, *good[30:])


@pytest.mark.parametrize("recipe", ["topk", "bricken"])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (torch.zeros(BATCH, D), r"activations (are|of a batch are) all alike.*spread of 0"),
        (world(BATCH) * 1e22, r"activations are too large .* norm of .*e\+2. .*step 31"),
    ],
)
def test_a_batch_that_breaks_the_loss_is_named_and_not_the_rate(
    fault: Tensor, message: str, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "EVENT_STEPS", 1)
    with pytest.raises(TrainingError, match=message) as caught:
        notes(ragged(fault), recipe=recipe, k=3 if recipe == "topk" else None)
    assert "rate" not in str(caught.value) and "\n" not in str(caught.value)
