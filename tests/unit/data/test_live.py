"""A model that reads while training goes on gives what a harvest would have stored."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from monoscope.data.corpus import Document
from monoscope.data.live import Live
from monoscope.errors import ConfigError, CorpusError, DataError, MismatchError
from monoscope.sae import SAE
from monoscope.sites import Site
from monoscope.train import grid, train
from tests.unit.data.fake_lm import FakeCorpus, FakeLM, by_hand, make_corpus

SITE = "resid_post.0"
SMALL = {
    "held_out": 0.3, "context_length": 9, "max_doc_tokens": 25, "batch_tokens": 50,
    "buffer_tokens": 60,
}  # fmt: skip


def live(corpus: FakeCorpus, lm: FakeLM | None = None, **settings: object) -> Live:
    return Live(lm or FakeLM(), corpus, SITE, **{**SMALL, **settings})  # type: ignore[arg-type]


def expected_rows(corpus: FakeCorpus, max_norm: float) -> Tensor:
    """The train rows of a pass, each document worked out by itself."""
    rows = by_hand(FakeLM(), corpus, len(corpus.documents), 8, 25, 0.3)
    kept = [
        x for (doc, _), x in rows.rows.items()
        if rows.split[doc] == "train" and float(x.norm()) <= max_norm
    ]  # fmt: skip
    return torch.stack(kept)


def in_order(rows: Tensor) -> Tensor:
    return torch.tensor(sorted(rows.tolist()))


def test_a_pass_gives_every_row_that_is_not_held_out_once() -> None:
    corpus = make_corpus(30)
    source = live(corpus)
    stream = source.stream(1, seed=3)
    max_norm = stream.provenance()["mask_policy"]["max_norm"]
    expected = expected_rows(corpus, max_norm)
    two = torch.cat(list(islice(stream, 2 * len(expected))))
    first, second = two[: len(expected)], two[len(expected) :]
    for epoch in (first, second):
        torch.testing.assert_close(in_order(epoch), in_order(expected), rtol=0, atol=1e-6)
    assert not torch.equal(first, second)
    stream.close()


def test_batches_reach_over_blocks_and_have_no_row_twice() -> None:
    corpus = make_corpus(30)
    fine, coarse = live(corpus).stream(1, seed=3), live(corpus).stream(7, seed=3)
    n = 70
    assert torch.equal(torch.cat(list(islice(coarse, n // 7))), torch.cat(list(islice(fine, n))))
    fine.close(), coarse.close()


@pytest.mark.parametrize("taken", [0, 1, 9, 40])
def test_a_place_is_restored_bit_for_bit(taken: int) -> None:
    corpus = make_corpus(30)
    stream = live(corpus).stream(8, seed=1)
    for _ in range(taken):
        next(stream)
    saved = json.loads(json.dumps(stream.state_dict()))
    expected = list(islice(stream, 30))
    for again in (live(corpus).stream(8, seed=1), stream):  # anew, and back in the same stream
        again.load_state_dict(saved)
        assert all(torch.equal(a, b) for a, b in zip(islice(again, 30), expected, strict=False))
        again.close()


@pytest.mark.parametrize("change", ["seed", "corpus", "buffer_tokens", "model"])
def test_a_place_in_another_walk_is_refused(change: str) -> None:
    saved = live(make_corpus(30)).stream(8, seed=1).state_dict()
    lm = FakeLM(identity={"model": "b"}) if change == "model" else FakeLM()
    corpus = make_corpus(31 if change == "corpus" else 30)
    other = live(corpus, lm, buffer_tokens=61 if change == "buffer_tokens" else 60)
    with pytest.raises(MismatchError, match=f"another {change}"):
        other.stream(8, seed=2 if change == "seed" else 1).load_state_dict(saved)


def test_the_next_block_is_captured_while_this_one_is_given() -> None:
    """The consumer never asks for it: the capture happens in another thread, one block ahead."""
    lm = FakeLM()
    inside: list[str] = []
    before = lm.capture_many

    def capture_many(ids: Tensor, mask: Tensor, sites: Sequence[Site]) -> list[Tensor]:
        inside.append(threading.current_thread().name)
        return before(ids, mask, sites)

    lm.capture_many = capture_many  # type: ignore[method-assign]
    stream = live(make_corpus(60), lm).stream(4, seed=0)
    next(stream)
    assert stream._ahead is not None
    stream._ahead._thread.join()
    seen = len(inside)
    assert {name == "MainThread" for name in inside} == {True, False}
    next(stream)
    assert len(inside) == seen, "one block ahead and no more"
    stream.close()


def test_an_error_of_the_model_reaches_who_waits_for_it() -> None:
    lm = FakeLM()
    stream = live(make_corpus(60), lm).stream(4, seed=0)
    next(stream)
    assert stream._ahead is not None
    stream._ahead._thread.join()
    lm.fail_after = len(lm.shapes)
    with pytest.raises(ConnectionError):
        list(islice(stream, 100))


def test_an_error_in_the_middle_of_a_batch_leaves_the_place_as_it_was() -> None:
    lm, failed = FakeLM(), 0
    stream, whole = live(make_corpus(60), lm).stream(7, seed=0), live(make_corpus(60)).stream(7, 0)
    for _ in range(100):
        before = stream.state_dict()
        if stream._ahead is not None:
            stream._ahead._thread.join()
        lm.fail_after = 0
        try:
            x = next(stream)
        except ConnectionError:
            failed += 1
            assert stream.state_dict() == before
            lm.fail_after = None
            x = next(stream)
        assert torch.equal(x, next(whole))
    assert failed > 2
    stream.close(), whole.close()


def test_close_ends_the_thread() -> None:
    stream = live(make_corpus(60)).stream(4, seed=0)
    next(stream)
    ahead = stream._ahead
    assert ahead is not None
    stream.close()
    assert not ahead._thread.is_alive()


def test_what_cannot_be_read_is_refused() -> None:
    for name, value in (("held_out", 1.0), ("context_length", 999), ("buffer_tokens", 0)):
        with pytest.raises(ConfigError, match=name):
            live(make_corpus(3), **{name: value})
    with pytest.raises(ConfigError, match="batch_size"):
        live(make_corpus(3)).stream(0, 0)
    with pytest.raises(CorpusError, match="no token that could be kept"):
        next(live(FakeCorpus([])).stream(2, 0))
    with pytest.raises(CorpusError, match="no token that can be kept"):
        next(live(FakeCorpus([Document("<eos> <eos>", {})]), held_out=0.0).stream(2, 0))
    lm = FakeLM()
    lm.at = lambda site, ids, x: x * torch.nan  # type: ignore[method-assign]
    with pytest.raises(DataError, match="NaN or Inf"):
        next(live(make_corpus(9), lm).stream(2, 0))


def test_an_sae_is_trained_straight_from_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "CALIBRATION_TOKENS", 64)
    monkeypatch.setattr(grid, "SAMPLE_TOKENS", 64)
    corpus, threads = make_corpus(60), threading.active_count()
    one = train(live(corpus), d_sae=12, k=2, n_tokens=320, batch_size=16, out=tmp_path / "a")
    two = train(live(corpus), d_sae=12, k=2, n_tokens=320, batch_size=16)
    assert isinstance(one.sae, SAE)
    assert all(
        torch.equal(a, b)
        for a, b in zip(one.sae.state_dict().values(), two.sae.state_dict().values(), strict=True)
    )
    known = one.sae.provenance
    assert known["model"] == FakeLM().identity and known["site"] == SITE
    assert known["norm_stats"]["mean_norm"] > 0 and known["context_length"] == 9
    assert threading.active_count() == threads
