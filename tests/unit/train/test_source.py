"""Batches: every row once a pass, positions that can be restored, bad rows named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monoscope.errors import DataError
from monoscope.train.source import (
    IteratorStream,
    TensorStream,
    make_stream,
    peek,
    require_finite,
)


def _rows(n: int) -> Tensor:
    return torch.arange(n, dtype=torch.float32)[:, None].expand(n, 3).contiguous()


def test_each_pass_has_every_row_once_in_its_own_order() -> None:
    stream = TensorStream(_rows(10), 4, seed=3)
    seen = torch.cat([next(stream) for _ in range(5)])[:, 0]
    first, second = seen[:10], seen[10:]
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert first.tolist() != second.tolist()


def test_order_follows_from_the_seed() -> None:
    orders = [
        torch.cat([next(s) for _ in range(3)])
        for s in (TensorStream(_rows(50), 16, seed) for seed in (1, 1, 2))
    ]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


@pytest.mark.parametrize("taken", [0, 1, 3, 8])
def test_position_is_restored(taken: int) -> None:
    stream = TensorStream(_rows(11), 4, seed=0)
    for _ in range(taken):
        next(stream)
    saved = stream.state_dict()
    expected = [next(stream) for _ in range(6)]
    again = TensorStream(_rows(11), 4, seed=0)
    again.load_state_dict(saved)
    assert all(torch.equal(next(again), batch) for batch in expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_the_first_bad_row_is_named(bad: float) -> None:
    x = _rows(20)
    x[13, 1] = x[17, 0] = bad
    with pytest.raises(DataError, match="row 13"):
        TensorStream(x, 4, seed=0)
    with pytest.raises(DataError, match="row 113"):
        require_finite(x, first_row=100)


def test_a_bad_row_of_an_iterator_is_counted_from_its_start() -> None:
    bad = _rows(5)
    bad[2] = float("nan")
    stream = IteratorStream([_rows(7), _rows(3), bad], 4)
    next(stream)
    next(stream)
    with pytest.raises(DataError, match="row 12"):
        next(stream)


def test_too_few_rows_and_wrong_shapes_are_refused() -> None:
    with pytest.raises(DataError, match="fewer activations than one batch"):
        TensorStream(_rows(3), 4, seed=0)
    with pytest.raises(DataError, match="wrong shape"):
        TensorStream(torch.zeros(3), 2, seed=0)
    with pytest.raises(DataError, match="wrong shape"):
        next(IteratorStream([torch.zeros(2, 3, 4)], 2))


def test_an_iterator_is_cut_into_batches_in_order() -> None:
    parts = _rows(23).split([1, 9, 2, 11])
    stream = IteratorStream(iter(parts), 5)
    batches = list(stream)
    assert [b.shape[0] for b in batches] == [5, 5, 5, 5]  # the last three rows fill no batch
    assert torch.equal(torch.cat(batches), _rows(23)[:20])
    with pytest.raises(DataError, match="cannot be resumed"):
        stream.load_state_dict({})


@pytest.mark.parametrize("of", ["tensor", "iterator"])
def test_peek_uses_nothing_up(of: str) -> None:
    def make() -> object:
        return _rows(40) if of == "tensor" else iter(_rows(40).split(7))

    looked, plain = make_stream(make(), 6, 0), make_stream(make(), 6, 0)
    next(looked), next(plain)
    ahead = peek(looked, 3)
    after = [next(looked) for _ in range(4)]
    expected = [next(plain) for _ in range(4)]
    assert all(torch.equal(a, e) for a, e in zip(after, expected, strict=True))
    assert all(torch.equal(a, e) for a, e in zip(ahead, expected[:3], strict=True))


def test_peek_beyond_the_end_gives_what_there_is() -> None:
    stream = IteratorStream(iter(_rows(10).split(5)), 5)
    assert len(peek(stream, 9)) == 2
    assert torch.equal(torch.cat(list(stream)), _rows(10))


def test_a_store_brings_its_own_stream() -> None:
    class Store:
        def stream(self, batch_size: int, seed: int) -> TensorStream:
            return TensorStream(_rows(9), batch_size, seed)

    stream = make_stream(Store(), 2, 5)
    assert isinstance(stream, TensorStream) and (stream.batch_size, stream.seed) == (2, 5)
