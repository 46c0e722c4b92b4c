"""Batches: every row once a pass, positions that can be restored, bad rows named."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from monoscope.errors import DataError, MismatchError
from monoscope.train import source, train
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
    with pytest.raises(DataError, match="row 12"):
        next(IteratorStream([_rows(7), _rows(3), bad], 4))


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


def test_the_end_of_an_iterator_is_seen_before_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "LOOKAHEAD_TOKENS", 12)
    stream = IteratorStream(iter(_rows(43).split(4)), 4)
    ahead = []
    for _ in stream:
        ahead.append(stream.n_ahead)
    assert ahead == [None] * 7 + [8, 4, 0]  # ten batches; three rows are left over


def test_an_iterator_is_read_no_further_than_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "LOOKAHEAD_TOKENS", 8)
    read = []

    def rows() -> Iterator[Tensor]:
        for part in _rows(100).split(4):
            read.append(part)
            yield part

    stream = IteratorStream(rows(), 4)
    next(stream)
    assert len(read) == 3


@pytest.mark.parametrize("taken", [0, 1, 4])
def test_an_iterator_that_begins_anew_is_resumed(taken: int) -> None:
    stream = IteratorStream(iter(_rows(40).split(7)), 6)
    for _ in range(taken):
        next(stream)
    saved = json.loads(json.dumps(stream.state_dict()))
    again = IteratorStream(iter(_rows(40).split(5)), 6)
    again.load_state_dict(saved)
    assert torch.equal(torch.cat(list(again)), torch.cat(list(stream)))


def test_an_iterator_with_other_rows_is_not_resumed() -> None:
    stream = IteratorStream(iter(_rows(40).split(7)), 6)
    next(stream), next(stream)
    saved = stream.state_dict()
    for other in (_rows(40) + 1, _rows(11)):
        with pytest.raises(MismatchError, match="does not give the rows it gave before"):
            IteratorStream(iter(other.split(7)), 6).load_state_dict(saved)
    next(stream)
    with pytest.raises(MismatchError, match="cannot go back"):
        stream.load_state_dict(saved)


@pytest.mark.parametrize("change", ["seed", "rows", "values"])
def test_a_tensor_that_is_another_is_not_resumed(change: str) -> None:
    saved = TensorStream(_rows(20), 4, seed=0).state_dict()
    x = _rows(21) if change == "rows" else _rows(20) + (change == "values")
    with pytest.raises(MismatchError, match="the data to resume with have another"):
        TensorStream(x, 4, seed=int(change == "seed")).load_state_dict(saved)


def test_mixed_dtypes_are_read_as_float32_and_mixed_widths_are_refused() -> None:
    parts = [_rows(4), _rows(4).to(torch.bfloat16), _rows(4).double()]
    for given in (iter(parts), parts):
        batch = next(make_stream(given, 12, 0))
        assert batch.dtype == torch.float32
        assert sorted(batch[:, 0].tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    with pytest.raises(DataError, match="change their width: got 4 at row 4; expected 3"):
        next(IteratorStream([_rows(4), torch.zeros(4, 4)], 8))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.zeros(9, 3, dtype=torch.int64), "wrong dtype: got torch.int64"),
        ([torch.zeros(9, 3), "text"], "cannot train on this: got str"),
        (7, "cannot train on this: got int"),
        ([], "fewer activations than one batch: got 0 rows"),
    ],
)
def test_what_is_no_activations_is_refused(given: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        make_stream(given, 2, 0)


def test_arrays_and_lists_are_tensors() -> None:
    for given in (_rows(9).numpy(), list(_rows(9).split(2))):
        stream = make_stream(given, 9, 0)
        assert isinstance(stream, TensorStream)
        assert sorted(next(stream)[:, 0].tolist()) == list(range(9))


def test_an_iterator_of_less_than_a_batch_is_refused() -> None:
    with pytest.raises(DataError, match="fewer activations than one batch: got 5 rows"):
        peek(IteratorStream(iter(_rows(5).split(2)), 6), 3)


def test_batches_of_mixed_dtypes_train_as_if_all_were_float32() -> None:
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    parts = [*x.split(8)]
    kinds = [torch.float64, torch.float32, torch.bfloat16, torch.float16] * 2
    mixed = [part.to(kind) for part, kind in zip(parts, kinds, strict=True)]
    plain = [part.float() for part in mixed]

    def trained(source: object) -> dict[str, torch.Tensor]:
        sizes = {"d_sae": 12, "k": 3, "n_tokens": 48, "batch_size": 12}
        return train(source, **sizes).sae.state_dict()  # type: ignore[arg-type]

    for make in (iter, list):
        found, expected = trained(make(mixed)), trained(make(plain))
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    double = torch.randn(64, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found, expected = trained(double), trained(double.float())
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_what_float32_cannot_hold_is_named_and_never_becomes_infinite() -> None:
    x = torch.zeros(70_000, 2, dtype=torch.float64)
    x[69_000, 1] = -1e300
    for given in (x, [x[:9], x[9:]], iter([x[:9], x[9:]])):
        with pytest.raises(DataError, match="too large for float32: got row 69000"):
            peek(make_stream(given, 8, 0), 1 + 70_000 // 8)
    x[69_000, 1] = float("nan")
    with pytest.raises(DataError, match="hold NaN or Inf: got row 69000"):
        make_stream(x, 8, 0)


def test_activations_without_values_are_refused() -> None:
    for given in (torch.zeros(9, 3, device="meta"), [torch.zeros(9, 3, device="meta")]):
        with pytest.raises(DataError, match="on the meta device"):
            make_stream(given, 2, 0)
