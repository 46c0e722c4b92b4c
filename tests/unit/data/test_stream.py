"""The shuffled stream: every row of an epoch once, the same walk for the same seed."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch

from monoscope.data.manifest import ShardInfo
from monoscope.data.shards import Shard
from monoscope.data.stream import Stream
from monoscope.errors import ConfigError, DataError, MismatchError

D = 3


@dataclass
class Rows:
    """A store whose row r is (r, 1000 + r, -r), over shards of given sizes."""

    sizes: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    d_in: int = D
    reads: int = 0
    hashes: str = "abcdef"

    def shards(self, split):
        assert split == "train"
        return [
            ShardInfo(
                file=f"{i}", docs_file="", split=split, n_tokens=n, n_docs=1, bytes=0,
                sha256=self.hashes[i % 6], docs_bytes=0, docs_sha256="",
            )
            for i, n in enumerate(self.sizes)
        ]  # fmt: skip

    def __post_init__(self):
        r = torch.arange(sum(self.sizes), dtype=torch.float32)
        self.parts = torch.stack([r, 1000 + r, -r], 1).to(self.dtype).split(list(self.sizes))

    def read(self, shard):
        self.reads += 1
        none = torch.empty(0)
        return Shard(self.parts[int(shard.file)], none, none, none)

    @property
    def row_bytes(self):
        return D * self.dtype.itemsize


def rows_of(x):
    assert torch.equal(x[:, 1], x[:, 0] + 1000)
    assert torch.equal(x[:, 2], -x[:, 0])
    return x[:, 0].int().tolist()


def take(stream, n):
    return [next(stream) for _ in range(n)]


SIZES = (7, 1, 13, 4, 9, 2)  # 36 rows


@pytest.mark.parametrize("batch_size", [1, 5, 36, 11])
@pytest.mark.parametrize("window_rows", [1, 10, 14, 36, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_row_of_an_epoch_comes_exactly_once(batch_size, window_rows, dtype):
    source = Rows(SIZES, dtype)
    stream = Stream(source, batch_size, seed=4, max_bytes=window_rows * source.row_bytes)
    assert stream.n_rows == 36
    n_batches = -(-36 * 5 // batch_size)
    seen = []
    for x in take(stream, n_batches):
        assert x.dtype == torch.float32
        assert x.shape == (batch_size, D)
        seen += rows_of(x)
    assert stream.epoch == len(seen) // 36
    epochs = [seen[i : i + 36] for i in range(0, 36 * 5, 36)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(36))
    assert len({tuple(epoch) for epoch in epochs}) == 5


@pytest.mark.parametrize("window_rows", [14, 36])
def test_the_seed_alone_decides_the_walk(window_rows):
    def walk(seed):
        source = Rows(SIZES)
        stream = Stream(source, 7, seed, max_bytes=window_rows * source.row_bytes)
        return [row for x in take(stream, 15) for row in rows_of(x)]

    assert walk(0) == walk(0)
    assert walk(0) != walk(1)


@pytest.mark.parametrize("window_rows", [1, 14, 36])
@pytest.mark.parametrize("before", range(0, 18))
def test_resuming_anywhere_continues_bit_for_bit(window_rows, before):
    source = Rows(SIZES)
    memory = window_rows * source.row_bytes
    whole = Stream(source, 5, 2, max_bytes=memory)
    take(whole, before)
    state = json.loads(json.dumps(whole.state_dict()))
    resumed = Stream(source, 5, 2, max_bytes=memory)
    take(resumed, 3)  # a stream that is already under way can be sent elsewhere too
    resumed.load_state_dict(state)
    assert resumed.epoch == whole.epoch
    for a, b in zip(take(whole, 20), take(resumed, 20), strict=True):
        assert torch.equal(a, b)
    assert whole.state_dict() == resumed.state_dict()


def test_a_state_of_another_walk_is_refused():
    source = Rows(SIZES)
    state = Stream(source, 5, 2).state_dict()
    with pytest.raises(MismatchError, match="seed"):
        Stream(source, 5, 3).load_state_dict(state)
    with pytest.raises(MismatchError, match="max_bytes"):
        Stream(source, 5, 2, max_bytes=10).load_state_dict(state)
    with pytest.raises(MismatchError, match="n_rows"):
        Stream(Rows((40,)), 5, 2).load_state_dict(state)


def test_other_rows_are_refused_by_name_and_untold_ones_believed():
    source, about = Rows(SIZES), {"weights": "w0", "site": "resid_post.3"}
    state = json.loads(json.dumps(Stream(source, 5, 2, about=about).state_dict()))
    Stream(source, 5, 2, about=about).load_state_dict(state)
    for name in about:
        other = Stream(source, 5, 2, about={**about, name: "other"})
        with pytest.raises(MismatchError, match=f"another {name}: got other"):
            other.load_state_dict(state)
    shuffled = Rows(SIZES)
    shuffled.hashes = "fedcba"
    other = Stream(shuffled, 5, 2, about=about)
    with pytest.raises(MismatchError, match="another shards"):
        other.load_state_dict(state)
    assert Stream(source, 9, 7).identity() == Stream(source, 5, 2, max_bytes=9).identity()
    old = {name: state[name] for name in state if name not in other.identity()}
    other.load_state_dict(old)
    with pytest.raises(MismatchError, match="seed"):
        Stream(source, 5, 3, about=about).load_state_dict(old)


def test_a_shard_that_cannot_be_read_leaves_the_place_as_it_was(monkeypatch):
    source = Rows(SIZES)
    memory = 14 * source.row_bytes
    stream, whole = Stream(source, 5, 2, max_bytes=memory), Stream(source, 5, 2, max_bytes=memory)
    read, failed = source.read, 0
    for _ in range(30):
        before = stream.state_dict()
        with monkeypatch.context() as patch:
            patch.setattr(source, "read", lambda shard: (_ for _ in ()).throw(DataError("damaged")))
            try:
                x = next(stream)
            except DataError:
                failed += 1
                assert stream.state_dict() == before
                patch.setattr(source, "read", read)
                x = next(stream)
        assert torch.equal(x, next(whole))
    assert failed > 5


def test_windows_stay_within_the_memory_limit():
    source = Rows(SIZES)
    stream = Stream(source, 5, 0, max_bytes=14 * source.row_bytes)
    for _ in range(30):
        next(stream)
        assert stream._rows.shape[0] <= 14
    wide = Stream(source, 5, 0, max_bytes=1)  # a shard is never split
    take(wide, 30)
    assert wide._rows.shape[0] == max(SIZES)


def test_a_store_that_fits_is_read_once_and_shuffled_across_shards():
    source = Rows((50, 50))
    stream = Stream(source, 100, 0)
    first = rows_of(next(stream))
    take(stream, 5)
    assert source.reads == 2
    from_first_shard = sum(row < 50 for row in first[:50])
    assert 10 < from_first_shard < 40
    assert first != sorted(first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batches_share_no_memory_with_the_store(dtype):
    source = Rows((20,), dtype)
    stream = Stream(source, 10, 0)
    expected = [x.clone() for x in take(Stream(source, 10, 0), 6)]
    for x in expected:
        got = next(stream)
        assert torch.equal(got, x)
        got.zero_()


def test_too_few_rows_are_named_with_both_numbers():
    with pytest.raises(DataError, match="got 36 tokens; expected at least batch_size = 37"):
        Stream(Rows(SIZES), 37, 0)
    assert next(Stream(Rows(SIZES), 36, 0)).shape == (36, D)


@pytest.mark.parametrize("change", [{"batch_size": 0}, {"seed": -1}, {"max_bytes": 0}])
def test_numbers_out_of_range_are_named(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        Stream(Rows(SIZES), **({"batch_size": 5, "seed": 0} | change))
