"""Reading ahead changes nothing but when things are read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from monoscope.errors import DataError, TrainingError
from monoscope.sae import SAE
from monoscope.train import grid, prefetch, train
from monoscope.train.grid import train_many
from monoscope.train.order import Order
from monoscope.train.prefetch import Ahead
from monoscope.train.source import IteratorStream, TensorStream

D, BATCH = 8, 32


@pytest.fixture(autouse=True)
def _no_thread_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(grid, "CALIBRATION_TOKENS", 128)
    monkeypatch.setattr(grid, "SAMPLE_TOKENS", 128)
    yield
    assert not [t for t in threading.enumerate() if t.name == "read ahead"]


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "reads_ahead", lambda device: True)


def data(n: int = 300) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(0)) * 3 + 1


class Watched(TensorStream):
    """Notes which batches were read, and may fail at one."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__(data(), BATCH, seed=0)
        self.read, self._fails_at = 0, fails_at
        self.more = threading.Condition()

    def __next__(self) -> Tensor:
        if self.read == self._fails_at:
            raise DataError("a shard is damaged")
        batch = super().__next__()
        with self.more:
            self.read += 1
            self.more.notify_all()
        return batch

    def reaches(self, n: int) -> bool:
        with self.more:
            return self.more.wait_for(lambda: self.read >= n, timeout=20)


def test_the_same_batches_in_the_same_order() -> None:
    ahead, plain = Ahead(TensorStream(data(), BATCH, 0)), TensorStream(data(), BATCH, 0)
    for _ in range(25):
        assert torch.equal(next(ahead), next(plain))
        assert ahead.state_dict() == plain.state_dict()
    ahead.close()


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_no_more_is_read_than_was_asked_for(depth: int) -> None:
    stream = Watched()
    ahead = Ahead(stream, depth=depth)
    assert stream.read == 0
    next(ahead), next(ahead)
    assert stream.reaches(2 + depth)
    ahead._join()
    assert stream.read == 2 + depth
    ahead.close()


def test_the_place_is_that_of_the_batch_taken() -> None:
    stream = Watched()
    ahead = Ahead(stream)
    for _ in range(3):
        next(ahead)
    assert stream.reaches(5)
    place = ahead.state_dict()
    assert place != stream.state_dict()
    expected = [next(ahead) for _ in range(4)]
    again = Ahead(TensorStream(data(), BATCH, 0))
    again.load_state_dict(place)
    assert all(torch.equal(next(again), batch) for batch in expected)
    ahead.load_state_dict(place)  # a running one can go back too
    assert all(torch.equal(next(ahead), batch) for batch in expected)
    ahead.close(), again.close()


def test_what_is_read_between_does_not_disturb() -> None:
    ahead, plain = Ahead(TensorStream(data(), BATCH, 0)), TensorStream(data(), BATCH, 0)
    for _ in range(3):
        next(ahead), next(plain)
    ahead.rewind()
    assert ahead.stream.state_dict() == plain.state_dict()
    assert torch.equal(next(ahead), next(plain))
    ahead.close()


def test_an_iterator_loses_nothing_to_a_rewind() -> None:
    def parts() -> Iterator[Tensor]:
        return iter(data(320).split(7))

    ahead, plain = Ahead(IteratorStream(parts(), BATCH)), IteratorStream(parts(), BATCH)
    for number, batch in enumerate(plain):
        if number % 3 == 2:
            ahead.rewind()
        assert torch.equal(next(ahead), batch)
        assert ahead.n_ahead == plain.n_ahead
        assert ahead.state_dict() == plain.state_dict()
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(ahead)
    ahead.close()


def test_an_error_comes_where_its_batch_would_have_come() -> None:
    ahead = Ahead(Watched(fails_at=3))
    for _ in range(3):
        next(ahead)
    place = ahead.state_dict()
    for _ in range(2):
        with pytest.raises(DataError, match="a shard is damaged"):
            next(ahead)
    assert ahead.state_dict() == place
    ahead.close()


def test_an_error_of_the_first_batch_leaves_the_place() -> None:
    stream = Watched(fails_at=0)
    ahead = Ahead(stream)
    with pytest.raises(DataError):
        next(ahead)
    assert ahead.state_dict() == TensorStream(data(), BATCH, 0).state_dict()
    ahead.close()


def same(a: SAE, b: SAE) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("of", ["tensor", "iterator"])
def test_runs_are_the_same_with_and_without(
    of: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def source() -> Any:
        return data() if of == "tensor" else iter(data(2000).split(50))

    lengths = (10, 16)  # one ends, and is measured, in the middle of the other's pass
    orders = [Order(d_sae=24, k=3, n_tokens=n * BATCH, lr=5e-3, seed=n) for n in lengths]
    plain = train_many(source(), orders, batch_size=BATCH)
    monkeypatch.setattr(grid, "reads_ahead", lambda device: True)
    for got, wanted in zip(train_many(source(), orders, batch_size=BATCH), plain, strict=True):
        assert not isinstance(got, TrainingError) and not isinstance(wanted, TrainingError)
        assert same(got.sae, wanted.sae)
        for figure in ("fvu", "l0", "dead_fraction", "measured_on_tokens"):
            assert got.metrics[figure] == wanted.metrics[figure]


def test_a_run_that_reads_ahead_is_resumed_bit_for_bit(
    tmp_path: Path, everywhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"d_sae": 24, "k": 3, "n_tokens": 20 * BATCH, "batch_size": BATCH, "lr": 5e-3,
             "settings": {"checkpoint_every_tokens": 4 * BATCH}}  # fmt: skip
    taken = prefetch.Ahead.__next__
    left = [14]

    def dying(self: Ahead) -> Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise MemoryError("killed")
        return taken(self)

    monkeypatch.setattr(prefetch.Ahead, "__next__", dying)
    with pytest.raises(MemoryError):
        train(data(), **asked, out=tmp_path)
    monkeypatch.setattr(prefetch.Ahead, "__next__", taken)
    again = train(data(), **asked, out=tmp_path, resume=True)
    monkeypatch.setattr(grid, "reads_ahead", lambda device: False)
    assert same(again.sae, train(data(), **asked).sae)


def test_an_error_of_the_data_ends_a_run_with_its_name(everywhere: None) -> None:
    def rows() -> Iterator[Tensor]:
        yield data(5000)
        raise DataError("the disk is gone")

    with pytest.raises(DataError, match="the disk is gone"):
        train(rows(), d_sae=24, k=3, n_tokens=100_000, batch_size=BATCH)


def test_ahead_on_a_cpu_is_not_needed() -> None:
    assert not prefetch.reads_ahead(None) and not prefetch.reads_ahead("cpu")
    assert prefetch.reads_ahead("cuda") and prefetch.reads_ahead("cuda:1")
