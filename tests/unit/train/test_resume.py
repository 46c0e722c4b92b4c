"""A run is taken up only on its own data, and what it has done is kept whatever breaks it off."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from monoscope.data.harvest import collect
from monoscope.data.live import Live
from monoscope.data.store import ActivationStore
from monoscope.errors import DataError, FormatError, MismatchError, TrainingError
from monoscope.ops import cpu_select
from monoscope.sae import SAE
from monoscope.train import fixed, grid, train
from monoscope.train import folder as train_folder
from monoscope.train import source as train_source
from monoscope.train.events import read_events
from monoscope.train.grid import Run, train_many
from monoscope.train.order import Order
from monoscope.train.source import IteratorStream, TensorStream
from tests.unit.data.fake_lm import FakeLM, make_corpus

D, BATCH, STEPS = 5, 16, 20
HOW: dict[str, Any] = {
    "d_sae": 12, "k": 2, "n_tokens": STEPS * BATCH, "batch_size": BATCH, "lr": 5e-3,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.setattr(grid, "CALIBRATION_TOKENS", 64)
    monkeypatch.setattr(grid, "SAMPLE_TOKENS", 64)


class Stop(Exception):
    """What breaks a run off; nothing that monoscope knows."""


def data(n: int = 300) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(0)) * 3 + 1


class Breaking:
    """Data whose stream raises instead of giving a certain batch, counted from the first step."""

    def __init__(self, source: Any, at: int | None, error: Exception) -> None:
        self.source, self.at, self.error = source, at, error

    def stream(self, batch_size: int, seed: int) -> Any:
        stream = grid.make_stream(self.source, batch_size, seed)
        outer, plain, taken = self, type(stream), [-4]  # four are looked at for the first weights

        class Broken(plain):  # type: ignore[misc, valid-type]
            def __next__(self) -> Tensor:
                taken[0] += 1
                if taken[0] - 1 == outer.at:
                    raise outer.error
                return super().__next__()  # type: ignore[no-any-return]

        stream.__class__ = Broken
        return stream


def harvested(out: Path, lm: FakeLM | None = None, site: str = "resid_post.0", words: int = 40,
              n_tokens: int = 500) -> ActivationStore:  # fmt: skip
    return collect(lm or FakeLM(), make_corpus(words), site, n_tokens, out, context_length=16)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ActivationStore]:
    """A store and others that have as many rows but are of something else."""
    out = tmp_path_factory.mktemp("stores")
    identity = {"model": "fake", "weights": "w1", "tokenizer": "t0"}
    return {
        "same": harvested(out / "same"),
        "again": harvested(out / "again"),
        "weights": harvested(out / "weights", FakeLM(identity=identity)),
        "site": harvested(out / "site", site="resid_post.1"),
        "corpus": harvested(out / "corpus", words=41),
        "shards": harvested(out / "shards", FakeLM(dtype=torch.bfloat16)),
    }


def same(a: SAE, b: SAE) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(one, two) for one, two in pairs)


def begun(out: Path, source: Any) -> None:
    """A run that broke off after eleven steps."""
    with pytest.raises(Stop):
        train(Breaking(source, 11, Stop()), out=out, **HOW)


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("other", ["weights", "site", "corpus", "shards"])
def test_another_store_is_refused_by_name(
    other: str, finished: bool, stores: dict[str, ActivationStore], tmp_path: Path
) -> None:
    if finished:
        train(stores["same"], out=tmp_path, **HOW)
    else:
        begun(tmp_path, stores["same"])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(MismatchError, match=rf"on other data \(another [a-z, ]*{other}"):
        train(stores[other], out=tmp_path, resume=True, **HOW)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_the_same_store_elsewhere_is_the_same(
    stores: dict[str, ActivationStore], tmp_path: Path
) -> None:
    begun(tmp_path, stores["same"])
    resumed = train(stores["again"], out=tmp_path, resume=True, **HOW)
    assert same(resumed.sae, train(stores["same"], **HOW).sae)


def test_data_of_another_kind_or_with_other_values_are_refused(
    stores: dict[str, ActivationStore], tmp_path: Path
) -> None:
    begun(tmp_path, data())
    for other, said in (
        (stores["same"], r"\(another kind\): got kind store; expected kind tensor"),
        (iter(data().split(50)), r"\(another kind\): got kind iterator"),
        (data() + 1, r"\(another sample\)"),
        (data(301), r"\(another n_rows, sample\): got n_rows 301"),
    ):
        with pytest.raises(MismatchError, match=said):
            train(other, out=tmp_path, resume=True, **HOW)


def test_another_model_that_reads_is_refused(tmp_path: Path) -> None:
    train(Live(FakeLM(), make_corpus(40), "resid_post.0", context_length=16), out=tmp_path, **HOW)
    other = FakeLM(identity={"model": "fake", "weights": "w1", "tokenizer": "t0"})
    with pytest.raises(MismatchError, match=r"\(another weights\): got weights w1"):
        train(Live(other, make_corpus(40), "resid_post.0", context_length=16), out=tmp_path,
              resume=True, **HOW)  # fmt: skip


def forget_data(folder: Path) -> None:
    """Make a run one of a version that did not write down what it was trained on."""
    for path in (*folder.glob("run.json"), *folder.glob("checkpoint-*/state.json")):
        told = json.loads(path.read_text())
        told["config"]["data"].pop("source")
        for name in ("kind", "model", "weights", "tokenizer", "site", "corpus", "shards"):
            told.get("stream", {}).pop(name, None)
        path.write_text(json.dumps(told))


def test_a_run_that_does_not_say_its_data_is_resumed_and_told(
    stores: dict[str, ActivationStore], tmp_path: Path
) -> None:
    begun(tmp_path, stores["same"])
    forget_data(tmp_path)
    notes: list[str] = []
    resumed = train(stores["same"], out=tmp_path, resume=True,
                    progress=lambda p: notes.extend(p.notes), **HOW)  # fmt: skip
    assert same(resumed.sae, train(stores["same"], **HOW).sae)
    assert any("does not say which data" in note for note in notes)


def test_a_finished_one_is_known_by_what_its_sae_remembers(
    stores: dict[str, ActivationStore], tmp_path: Path
) -> None:
    made = train(stores["same"], out=tmp_path, **HOW)
    forget_data(tmp_path)
    assert same(train(stores["again"], out=tmp_path, resume=True, **HOW).sae, made.sae)
    for other in ("weights", "site", "corpus"):
        with pytest.raises(MismatchError, match=other):
            train(stores[other], out=tmp_path, resume=True, **HOW)


@pytest.mark.parametrize("spoilt", [b"", b'{"config": {"sae": 1', b"[]", b'{"config": null}'])
def test_a_damaged_note_is_made_anew_from_a_checkpoint(spoilt: bytes, tmp_path: Path) -> None:
    begun(tmp_path, data())
    (tmp_path / "run.json").write_bytes(spoilt)
    with pytest.raises(MismatchError, match="another lr"):
        train(data(), out=tmp_path, resume=True, **{**HOW, "lr": 1e-3})
    (tmp_path / "run.json").write_bytes(spoilt)
    notes: list[str] = []
    resumed = train(data(), out=tmp_path, resume=True,
                    progress=lambda p: notes.extend(p.notes), **HOW)  # fmt: skip
    assert any("run.json is damaged" in n and "checkpoint-000000011" in n for n in notes)
    assert same(resumed.sae, train(data(), **HOW).sae)


def test_a_damaged_note_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    begun(tmp_path / "a", data())
    for path in (tmp_path / "a").glob("checkpoint-*/state.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    train(data(), out=tmp_path / "b", **HOW)
    for name, said in (("a", "No whole checkpoint.*another --out"), ("b", "SAE beside it")):
        (tmp_path / name / "run.json").write_bytes(b"{")
        with pytest.raises(FormatError, match=f"run.json is damaged.*{said}"):
            train(data(), out=tmp_path / name, resume=True, **HOW)


def rows(bad: int | None = None, error: Exception | None = None) -> Iterator[Tensor]:
    """Blocks of an iterator, one of which holds NaN, or an error."""
    for number, block in enumerate(data(STEPS * BATCH + 200).split(40)):
        if number == bad and error is not None:
            raise error
        yield block * float("nan") if number == bad else block


@pytest.mark.parametrize("kind", ["iterator", "NaN", "ends"])
def test_an_iterator_that_breaks_leaves_what_was_trained(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_source, "LOOKAHEAD_TOKENS", BATCH)
    source, error = {
        "iterator": (rows(5, Stop("the disk went away")), Stop),
        "NaN": (rows(5), DataError),
        "ends": (Breaking(data(), 11, StopIteration()), TrainingError),
    }[kind]
    with pytest.raises(error) as caught:
        train(source, out=tmp_path, **HOW)
    (kept,) = tmp_path.glob("checkpoint-*")
    said = [str(caught.value), *getattr(caught.value, "__notes__", ())]
    assert any(f"kept in {kept}" in line for line in said), said
    stopped = read_events(tmp_path / "events.jsonl")[-1]
    assert stopped["note"] == "stopped" and str(kept) in stopped["message"]
    assert stopped["step"] == int(kept.name[-9:]) > 5
    good = data() if kind == "ends" else rows()
    whole = train(data() if kind == "ends" else rows(), **HOW)
    assert same(train(good, out=tmp_path, resume=True, **HOW).sae, whole.sae)


def test_a_damaged_shard_leaves_what_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is met in the middle of a batch, half of which comes from the shard before it."""
    store = collect(FakeLM(), make_corpus(60), "resid_post.0", 700, tmp_path / "store",
                    context_length=16, shard_tokens=60)  # fmt: skip
    small = {"max_bytes": 2 * 60 * D * 4}

    class Windows:
        provenance = staticmethod(store.provenance)

        def stream(self, batch_size: int, seed: int) -> Any:
            return store.stream(batch_size, seed, **small)

    monkeypatch.setattr(grid, "SAMPLE_TOKENS", BATCH)
    before, reads = store.read, [0]

    def read(shard: Any) -> Any:
        reads[0] += 1
        if reads[0] > 3:
            raise FormatError("a shard is damaged")
        return before(shard)

    monkeypatch.setattr(store, "read", read)
    out = tmp_path / "run"
    with pytest.raises(FormatError, match=r"a shard is damaged\. What was trained is kept in"):
        train(Windows(), out=out, **HOW)
    (kept,) = out.glob("checkpoint-*")
    assert kept.name == "checkpoint-000000012"  # 201 rows came before it: twelve batches and a half
    monkeypatch.setattr(store, "read", before)
    resumed = train(Windows(), out=out, resume=True, **HOW)
    assert same(resumed.sae, train(Windows(), **HOW).sae)


def test_an_error_in_one_step_saves_the_others_and_not_the_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = [
        Order(d_sae=n, k=2, n_tokens=STEPS * BATCH, out=tmp_path / str(n)) for n in (8, 9, 10)
    ]
    before = fixed.step

    def failing(state: Any, *args: Any) -> Any:
        if state.sae.d_sae == 9 and state.step == 7:
            with torch.no_grad():
                state.sae.W_enc.zero_()  # half a step
            raise MemoryError("out of memory")
        return before(state, *args)

    monkeypatch.setattr(fixed, "step", failing)
    with pytest.raises(MemoryError) as caught:
        train_many(data(), orders, batch_size=BATCH)
    assert "and 1 more; resume goes on" in caught.value.__notes__[0]
    kept = {n: [p.name[-1] for p in (tmp_path / n).glob("checkpoint-*")] for n in ("8", "9", "10")}
    assert kept == {"8": ["8"], "9": [], "10": ["8"]}
    monkeypatch.setattr(fixed, "step", before)
    plain = [Order(d_sae=n, k=2, n_tokens=STEPS * BATCH) for n in (8, 9, 10)]
    for one, two in zip(
        train_many(data(), orders, batch_size=BATCH, resume=True),
        train_many(data(), plain, batch_size=BATCH), strict=True,
    ):  # fmt: skip
        assert isinstance(one, Run) and isinstance(two, Run) and same(one.sae, two.sae)


def test_an_error_at_the_end_of_one_loses_no_step_of_any(tmp_path: Path) -> None:
    """The data break when the first SAE, all of whose steps are done, is measured on them."""

    def orders(out: Path | None) -> list[Order]:
        return [
            Order(d_sae=8, k=2, n_tokens=n * BATCH, out=None if out is None else out / str(n))
            for n in (6, 12)
        ]

    with pytest.raises(Stop) as caught:
        train_many(Breaking(data(), 7, Stop()), orders(tmp_path), batch_size=BATCH)
    assert "and 1 more" in caught.value.__notes__[0]
    kept = sorted(p.parent.name + p.name[-2:] for p in tmp_path.glob("*/checkpoint-*"))
    assert kept == ["1206", "606"]
    for one, two in zip(
        train_many(data(), orders(tmp_path), batch_size=BATCH, resume=True),
        train_many(data(), orders(None), batch_size=BATCH), strict=True,
    ):  # fmt: skip
        assert isinstance(one, Run) and isinstance(two, Run) and same(one.sae, two.sae)
        assert one.metrics["fvu"] == two.metrics["fvu"]


def test_weights_that_were_folded_are_never_saved_as_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError("no space left")

    often = {"settings": {"checkpoint_every_tokens": 7 * BATCH}}
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space left"):
        patch.setattr(train_folder, "save_sae", full)
        train(data(), out=tmp_path, **HOW, **often)
    assert sorted(p.name[-2:] for p in tmp_path.glob("checkpoint-*")) == ["07", "14"]
    assert same(train(data(), out=tmp_path, resume=True, **HOW).sae, train(data(), **HOW).sae)


def test_rows_that_were_not_proved_are_counted_over_the_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted beside it, in steps only: starting and measuring select too."""
    monkeypatch.setattr(cpu_select, "ROOM", 2)  # a token that fires more often is not proved
    counted, stepping = [0], [False]
    select, step = cpu_select.Bf16Encoder._finish, fixed.step

    def selecting(self: Any, *args: Any) -> Any:
        already = self.fallbacks
        codes = select(self, *args)
        counted[0] += stepping[0] * (self.fallbacks - already)
        return codes

    def taking(*args: Any) -> Any:
        stepping[0] = True
        done = step(*args)
        stepping[0] = False
        return done

    monkeypatch.setattr(cpu_select.Bf16Encoder, "_finish", selecting)
    monkeypatch.setattr(fixed, "step", taking)
    whole = train(data(), **HOW)
    assert whole.metrics["fallbacks"] == counted[0] > STEPS
    begun(tmp_path, data())
    resumed = train(data(), out=tmp_path, resume=True, **HOW)
    assert resumed.metrics["fallbacks"] == whole.metrics["fallbacks"]
    assert read_events(tmp_path / "events.jsonl")[-1]["fallbacks"] == whole.metrics["fallbacks"]


def test_a_checkpoint_that_did_not_count_them_is_resumed(tmp_path: Path) -> None:
    begun(tmp_path, data())
    (path,) = tmp_path.glob("checkpoint-*/state.json")
    told = json.loads(path.read_text())
    del told["counters"]["fallbacks"]
    path.write_text(json.dumps(told))
    resumed = train(data(), out=tmp_path, resume=True, **HOW)
    assert same(resumed.sae, train(data(), **HOW).sae)


def test_one_that_is_ahead_keeps_the_place_it_was_saved_at(tmp_path: Path) -> None:
    """Broken off while the hindmost catches up, the other's checkpoint stays as it is."""
    ahead, behind = (
        Order(d_sae=n, k=2, n_tokens=STEPS * BATCH, out=tmp_path / str(n)) for n in (8, 9)
    )
    for order, at in ((ahead, 15), (behind, 5)):
        with pytest.raises(Stop):
            train_many(Breaking(data(), at, Stop()), [order], batch_size=BATCH)
    place = json.loads((tmp_path / "8" / "checkpoint-000000015" / "state.json").read_text())
    with pytest.raises(Stop):
        train_many(Breaking(data(), 3, Stop()), [ahead, behind], batch_size=BATCH, resume=True)
    again = json.loads((tmp_path / "8" / "checkpoint-000000015" / "state.json").read_text())
    assert again == place
    assert (tmp_path / "9" / "checkpoint-000000008").is_dir()
    (alone,) = train_many(data(), [ahead], batch_size=BATCH, resume=True)
    assert isinstance(alone, Run)
    assert same(alone.sae, train(data(), d_sae=8, k=2, n_tokens=STEPS * BATCH,
                                 batch_size=BATCH).sae)  # fmt: skip


def test_before_the_first_step_there_is_nothing_to_keep(tmp_path: Path) -> None:
    with pytest.raises(Stop) as caught:
        train(Breaking(data(), 0, Stop()), out=tmp_path, **HOW)
    assert not list(tmp_path.glob("checkpoint-*"))
    assert not getattr(caught.value, "__notes__", [])


def test_what_cannot_be_saved_does_not_hide_why_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(train_folder, "save_checkpoint", full)
    with caplog.at_level(logging.WARNING), pytest.raises(Stop):
        train(Breaking(data(), 11, Stop()), out=tmp_path, **HOW)
    assert "could not be saved: no space left" in caplog.text


def test_streams_say_what_they_are() -> None:
    assert TensorStream(data(), BATCH, 0).identity() == TensorStream(data(), 8, 1).identity()
    assert IteratorStream(islice(rows(), 3), BATCH).identity() == {"kind": "iterator"}
