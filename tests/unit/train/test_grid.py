"""SAEs that share a pass end as each would alone; the data are read once; troubles stay apart."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from monoscope.errors import ConfigError, DataError, MismatchError, OutputError, TrainingError
from monoscope.files import LOCK
from monoscope.locks import folder_lock
from monoscope.sae import SAE
from monoscope.train import fixed, grid, source, train
from monoscope.train.events import read_events, read_figures
from monoscope.train.grid import Run, train_many
from monoscope.train.loop import Progress
from monoscope.train.order import Order
from monoscope.train.source import TensorStream

D, BATCH = 8, 32


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.setattr(grid, "CALIBRATION_TOKENS", 128)
    monkeypatch.setattr(grid, "SAMPLE_TOKENS", 128)


def data(n: int = 300) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(0)) * 3 + 1


class Counted:
    """A store that counts the batches it was asked for."""

    def __init__(self) -> None:
        self.given = 0

    def stream(self, batch_size: int, seed: int) -> TensorStream:
        outer = self

        class Stream(TensorStream):
            def __next__(self) -> Tensor:
                outer.given += 1
                return super().__next__()

        return Stream(data(), batch_size, seed)


def order(out: Path | None = None, **settings: Any) -> Order:
    asked: dict[str, Any] = {"d_sae": 24, "k": 3, "n_tokens": 20 * BATCH, "lr": 5e-3}
    return Order(**{**asked, **settings}, out=out)


def same(a: SAE, b: SAE) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(one, two) for one, two in pairs)


def test_each_is_what_it_would_be_alone_and_the_data_are_read_once() -> None:
    asked = [
        {"d_sae": 24, "k": 3},
        {"d_sae": 40, "k": 2, "seed": 7},
        {"recipe": "templeton", "k": None, "n_tokens": 12 * BATCH},
        {"recipe": "topk", "seed": 7},
    ]
    store = Counted()
    together = train_many(store, [order(**how) for how in asked], batch_size=BATCH, data_seed=3)
    # twenty for training, four looked at for the first weights, four where some of them end
    assert store.given == 20 + 4 + 4 * 2
    for how, made in zip(asked, together, strict=True):
        settings = {"d_sae": 24, "k": 3, "n_tokens": 20 * BATCH, "lr": 5e-3, **how}
        alone = train(data(), batch_size=BATCH, data_seed=3, **settings)  # type: ignore[arg-type]
        assert isinstance(made, Run)
        assert same(made.sae, alone.sae)
        timed = ("tokens_per_s", "tokens_per_step_second")
        assert {k: v for k, v in made.metrics.items() if k not in timed} == {
            k: v for k, v in alone.metrics.items() if k not in timed
        }


def test_the_order_of_the_data_is_a_seed_of_its_own() -> None:
    made = [
        train(data(), d_sae=24, k=3, n_tokens=6 * BATCH, batch_size=BATCH, seed=1, data_seed=s).sae
        for s in (1, 2, None)
    ]
    assert not same(made[0], made[1])
    assert same(made[0], made[2])


def test_one_that_fails_leaves_the_others_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = train(data(), d_sae=24, k=3, n_tokens=20 * BATCH, batch_size=BATCH, lr=5e-3)
    before: Callable[..., Any] = fixed.step

    def overflowing(state: Any, *args: Any) -> Any:
        if state.sae.d_sae == 40 and state.step == 5:
            with torch.no_grad():
                state.sae.b_dec[0] = float("inf")
        return before(state, *args)

    monkeypatch.setattr(fixed, "step", overflowing)
    asked = [order(tmp_path / "bad", d_sae=40), order(tmp_path / "fine")]
    bad, fine = train_many(data(), asked, batch_size=BATCH)
    assert isinstance(bad, TrainingError) and isinstance(fine, Run)
    assert same(fine.sae, good.sae)
    assert not (tmp_path / "bad" / "sae.json").exists()


def test_not_a_number_stops_with_the_last_good_checkpoint_and_a_diagnosis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One weight becomes infinite after step 13, as an overflow would make it."""
    before: Callable[..., Any] = fixed.step

    def overflowing(state: Any, *args: Any) -> Any:
        done = before(state, *args)
        if state.step == 13:
            with torch.no_grad():
                state.sae.W_enc[3, 2] = float("inf")
        return done

    monkeypatch.setattr(fixed, "step", overflowing)
    often = {"checkpoint_every_tokens": 4 * BATCH}
    with pytest.raises(TrainingError, match=r"not finite.*at step 1[45] .*learning rate.*000012"):
        train(data(), d_sae=24, k=3, n_tokens=640, batch_size=BATCH, lr=5e-3, out=tmp_path,
              settings=often)  # fmt: skip
    kept = sorted(p.name for p in tmp_path.glob("checkpoint-*"))
    assert kept == ["checkpoint-000000008", "checkpoint-000000012"]
    stopped = read_events(tmp_path / "events.jsonl")[-1]
    assert stopped["note"] == "stopped" and "learning rate" in stopped["message"]
    monkeypatch.setattr(fixed, "step", before)
    again = train(data(), d_sae=24, k=3, n_tokens=640, batch_size=BATCH, lr=5e-3, out=tmp_path,
                  settings=often, resume=True)  # fmt: skip
    whole = train(data(), d_sae=24, k=3, n_tokens=640, batch_size=BATCH, lr=5e-3, settings=often)
    assert same(again.sae, whole.sae)


def test_spoilt_weights_are_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step whose own loss is fine may be the one that spoils them."""
    before: Callable[..., Any] = fixed.step

    def spoiling(state: Any, *args: Any) -> Any:
        done = before(state, *args)
        if state.step == 8:
            with torch.no_grad():
                state.sae.b_dec[0] = float("nan")
        return done

    monkeypatch.setattr(fixed, "step", spoiling)
    with pytest.raises(TrainingError, match="checkpoint-000000004"):
        train(data(), d_sae=24, k=3, n_tokens=640, batch_size=BATCH, out=tmp_path,
              settings={"checkpoint_every_tokens": 4 * BATCH})  # fmt: skip


def test_data_that_end_early_end_the_schedule_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "LOOKAHEAD_TOKENS", 6 * BATCH)
    notes: list[str] = []

    def note(p: Progress) -> None:
        notes.extend(p.notes)

    x = data(20 * BATCH + 5)
    run = train(iter(x.split(50)), d_sae=24, k=3, n_tokens=100 * BATCH, batch_size=BATCH,
                out=tmp_path, progress=note)  # fmt: skip
    assert run.metrics["n_tokens"] == 20 * BATCH
    assert any("data end after 640 of the 3,200 tokens" in told for told in notes)
    last = read_figures(tmp_path / "events.jsonl")[-1]
    assert last["step"] == 20 and last["lr"] == pytest.approx(0.0, abs=1e-12)
    whole = train(x[: 20 * BATCH], d_sae=24, k=3, n_tokens=20 * BATCH, batch_size=BATCH)
    assert whole.metrics["n_tokens"] == run.metrics["n_tokens"]


def test_an_iterator_without_a_number_of_tokens_is_asked_about() -> None:
    with pytest.raises(ConfigError, match="n_tokens is needed"):
        train(iter(data().split(50)), d_sae=24, k=3, batch_size=BATCH)


def test_two_runs_never_write_one_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="share a folder"):
        train_many(data(), [order(tmp_path / "a"), order(tmp_path / "." / "a", seed=1)])
    with folder_lock(tmp_path, "train"), pytest.raises(OutputError, match="another process"):
        train(data(), d_sae=24, k=3, n_tokens=64, batch_size=BATCH, out=tmp_path)
    train(data(), d_sae=24, k=3, n_tokens=64, batch_size=BATCH, out=tmp_path)
    assert not (tmp_path / LOCK).exists()


def test_a_changed_configuration_is_named_whole(tmp_path: Path) -> None:
    (made,) = train_many(data(), [order(tmp_path)], batch_size=BATCH)
    assert isinstance(made, Run)
    with pytest.raises(MismatchError, match="another d_sae and another lr") as caught:
        train_many(data(), [order(tmp_path, d_sae=25, lr=1e-3)], batch_size=BATCH, resume=True)
    assert "d_sae 25" in str(caught.value) and "d_sae 24" in str(caught.value)
    with pytest.raises(MismatchError, match="another seed"):
        train_many(data(), [order(tmp_path)], batch_size=BATCH, resume=True, data_seed=9)
    with pytest.raises(OutputError, match=r"already holds a run.*--resume"):
        train_many(data(), [order(tmp_path)], batch_size=BATCH)


def test_too_little_data_is_named() -> None:
    with pytest.raises(DataError, match="fewer activations than one batch"):
        train(data(20), d_sae=24, k=3, n_tokens=640, batch_size=BATCH)
    with pytest.raises(DataError, match="fewer activations than one batch: got 20 rows"):
        train(iter([data(20)]), d_sae=24, k=3, n_tokens=640, batch_size=BATCH)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_for_the_step_and_saves_it(
    number: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The signal comes in the middle of the 11th step's work."""

    class Interrupting(Counted):
        def stream(self, batch_size: int, seed: int) -> TensorStream:
            stream = super().stream(batch_size, seed)
            stream.armed = False  # type: ignore[attr-defined]

            class Late(type(stream)):  # type: ignore[misc]
                def __next__(self) -> Tensor:
                    x = super().__next__()
                    if self.epoch == 1 and self.cursor > 40 and not self.armed:
                        self.armed = True
                        os.kill(os.getpid(), number)
                    return x

            stream.__class__ = Late
            return stream

    asked = [order(tmp_path / "a"), order(tmp_path / "b", seed=4)]
    # a shell starts background jobs deaf to Ctrl-C; the handler is what a foreground one has
    outside = signal.signal(number, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(number, outside))
    heard = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        train_many(Interrupting(), asked, batch_size=BATCH)
    assert signal.getsignal(number) is heard
    for name in "ab":
        (saved,) = (tmp_path / name).glob("checkpoint-*")
        assert saved.name == "checkpoint-000000011"
        assert json.loads((tmp_path / name / "run.json").read_text())["status"] == "running"
    resumed = train_many(Counted(), asked, batch_size=BATCH, resume=True)
    whole = train_many(Counted(), [order(), order(seed=4)], batch_size=BATCH)
    for one, two in zip(resumed, whole, strict=True):
        assert isinstance(one, Run) and isinstance(two, Run)
        assert same(one.sae, two.sae)
