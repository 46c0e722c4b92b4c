"""Which tokens an evaluation looks at."""

from __future__ import annotations

import pytest
import torch

from monoscope.errors import DataError
from monoscope.evals import tokens

LENGTHS = {3: 10, 5: 1, 8: 7, 13: 20, 21: 4}


def numbered(n_docs, length, first=0):
    """Documents whose every token is a number of its own."""
    x = torch.arange(first, first + n_docs * length, dtype=torch.float32)
    return list(x[:, None].expand(-1, 2).split(length))


def test_documents_are_whole_and_nested():
    everything = tokens.choose_documents(LENGTHS, None, seed=1)
    assert sorted(everything) == sorted(LENGTHS)
    for n in range(1, 43):
        some = tokens.choose_documents(LENGTHS, n, seed=1)
        assert some == everything[: len(some)]
        held = [LENGTHS[d] for d in some]
        assert sum(held) >= n and sum(held[:-1]) < n
    assert tokens.choose_documents(LENGTHS, 1000, seed=1) == everything


def test_the_order_follows_the_seed_and_not_the_dictionary():
    orders = {tuple(tokens.choose_documents(LENGTHS, None, seed)) for seed in range(20)}
    assert len(orders) > 5
    backwards = dict(reversed(LENGTHS.items()))
    assert tokens.choose_documents(backwards, None, 3) == tokens.choose_documents(LENGTHS, None, 3)


def test_no_held_out_documents():
    with pytest.raises(DataError, match="no held-out tokens"):
        tokens.choose_documents({}, None, 0)


def test_held_out_lengths_and_tiles(make, monkeypatch):
    store = make.store({"train": numbered(2, 5), "held_out": numbered(7, 3, first=100)})
    monkeypatch.setattr(tokens, "TILE", 4)
    held_out = range(2, 9)
    assert tokens.held_out_lengths(store) == dict.fromkeys(held_out, 3)
    tiles = list(tokens.held_out_tiles(store, [3, 8]))
    x, doc = (torch.cat(part) for part in zip(*tiles, strict=True))
    assert x[:, 0].tolist() == [103, 104, 105, 118, 119, 120]
    assert doc.tolist() == [3, 3, 3, 8, 8, 8]


@pytest.mark.parametrize("n", [0, 1, 7, 250, 399, 400, 10_000])
def test_train_sample_has_no_token_twice(make, n):
    store = make.store({"train": numbered(40, 10), "held_out": []})
    tiles = [x[:, 0] for x in tokens.train_tiles(store, n, seed=0)]
    seen = torch.cat(tiles).tolist() if tiles else []
    assert len(set(seen)) == len(seen)
    assert 0.9 * min(n, 400) <= len(seen) <= min(n, 400)
    if n >= 400:
        assert sorted(seen) == list(range(400))


def test_train_sample_spreads_over_shards(make):
    """40 shards of 50 tokens in corpus order: 160 tokens come from at least 16 of them."""
    store = make.store({"train": numbered(200, 10), "held_out": []})
    seen = torch.cat([x[:, 0] for x in tokens.train_tiles(store, 160, seed=0)])
    assert len((seen // 50).unique()) >= 16
    assert len(seen) == 160


def test_a_store_without_train_tokens_gives_none(make):
    assert list(tokens.train_tiles(make.store({"train": [], "held_out": []}), 5, 0)) == []
