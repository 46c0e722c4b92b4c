"""Sites that share a reading get what each would get alone, from as many passes as one needs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import islice

import pytest
import torch
from torch import Tensor

from monoscope.data import reading
from monoscope.data.live import Live, LiveStream
from monoscope.data.reading import Place, Reading
from monoscope.data.shared import share
from monoscope.errors import ConfigError, SiteError
from monoscope.sites import Site
from tests.unit.data.fake_lm import FakeCorpus, SitedLM, make_corpus

SITES = ("resid_post.1", "resid_post.0")
SMALL = {
    "held_out": 0.3, "context_length": 9, "max_doc_tokens": 25, "batch_tokens": 50,
    "buffer_tokens": 60,
}  # fmt: skip


def lives(lm: SitedLM, corpus: FakeCorpus, **settings: object) -> list[Live]:
    return [Live(lm, corpus, site, **{**SMALL, **settings}) for site in SITES]  # type: ignore[arg-type]


def settle(*streams: LiveStream) -> None:
    """Wait for what is being read ahead, so that passes can be counted."""
    for stream in streams:
        if stream._ahead is not None:
            stream._ahead._thread.join()


def taken(streams: list[LiveStream], n: int) -> list[list[Tensor]]:
    """n batches of each stream, the one that is hindmost in the corpus first."""
    got: list[list[Tensor]] = [[] for _ in streams]
    while going := [i for i, batches in enumerate(got) if len(batches) < n]:
        turn = min(going, key=lambda i: (streams[i].reached, len(got[i])))
        got[turn].append(next(streams[turn]))
        settle(*streams)
    return got


def alone(n: int, corpus: FakeCorpus) -> tuple[list[list[Tensor]], list[int]]:
    """n batches of each site read by itself, and how often the model ran for it."""
    batches, passes = [], []
    for i in range(len(SITES)):
        lm = SitedLM()
        stream = lives(lm, corpus)[i].stream(7, seed=3)
        batches += taken([stream], n)
        passes.append(len(lm.shapes))
        stream.close()
    return batches, passes


def test_each_site_gets_its_own_batches_from_the_passes_of_one() -> None:
    """Three times through the corpus; the sites keep other rows, so their blocks drift apart."""
    corpus, lm, n = make_corpus(30), SitedLM(), 120
    expected, passes = alone(n, corpus)
    sources = share(lives(lm, corpus))
    streams = [source.stream(7, seed=3) for source in sources]
    got = taken(streams, n)
    for mine, theirs in zip(got, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    places = [stream.state_dict() for stream in streams]
    assert places[0]["cursor"] != places[1]["cursor"] and places[0]["epoch"] >= 2
    assert len(lm.shapes) == max(passes) > 30
    assert sources[0].reading.dropped == 0
    for stream in streams:
        stream.close()


def test_a_stream_of_a_group_says_what_it_says_alone() -> None:
    corpus = make_corpus(30)
    for one, source in zip(lives(SitedLM(), corpus), share(lives(SitedLM(), corpus)), strict=True):
        mine, theirs = source.stream(7, seed=3), one.stream(7, seed=3)
        assert (source.site, source.asked()) == (one.site, one.asked())
        assert source.asked()["max_doc_tokens"] == 25
        assert mine.provenance() == theirs.provenance() and mine.identity() == theirs.identity()
        next(mine), next(theirs)
        assert mine.state_dict() == theirs.state_dict()
        mine.close(), theirs.close()


def test_one_far_behind_has_its_blocks_read_again_and_loses_nothing() -> None:
    corpus, lm = make_corpus(60), SitedLM()
    (first, second), _ = alone(60, corpus)
    sources = share(lives(lm, corpus))
    ahead, behind = (source.stream(7, seed=3) for source in sources)
    assert all(torch.equal(a, b) for a, b in zip(islice(ahead, 60), first, strict=True))
    settle(ahead)
    assert sources[0].reading.dropped > 0
    kept = sources[0].reading._kept[Site.parse(SITES[1])]
    assert len(kept) == reading.KEPT
    assert all(torch.equal(a, b) for a, b in zip(islice(behind, 60), second, strict=True))
    ahead.close(), behind.close()


def test_nothing_is_captured_for_a_site_that_has_left() -> None:
    lm = SitedLM()
    streams = [source.stream(7, seed=3) for source in share(lives(lm, make_corpus(30)))]
    taken(streams, 3)
    assert SITES in lm.asked
    streams[1].close()
    lm.asked.clear()
    taken(streams[:1], 60)
    assert set(lm.asked) == {SITES[:1]}
    streams[0].close()


def test_who_waits_for_a_block_gets_it_or_its_own_error() -> None:
    """The model fails for the first that asks; the second, which was waiting, asks itself."""
    lm, inside, go_on = SitedLM(), threading.Event(), threading.Event()
    whole: Callable[..., list[Tensor]] = lm.capture_many

    def capture_many(ids: Tensor, mask: Tensor, sites: list[Site]) -> list[Tensor]:
        if not inside.is_set():
            inside.set()
            go_on.wait(10)
            raise ConnectionError("the machine went away")
        return whole(ids, mask, sites)

    lm.capture_many = capture_many  # type: ignore[method-assign]
    source = lives(lm, make_corpus(30))[0]
    sites = [Site.parse(site) for site in SITES]
    shared, got = Reading(source, sites), {}

    def ask(site: Site) -> None:
        try:
            got[site] = shared.read(Place(0, 0), site, lambda: False)
        except ConnectionError as error:
            got[site] = error

    threads = [threading.Thread(target=ask, args=(site,)) for site in sites]
    threads[0].start()
    inside.wait(10)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join()
    assert isinstance(got[sites[0]], ConnectionError)
    assert got[sites[1]].acts.shape[1] == lm.width(sites[1])
    assert shared.captured == 1


def test_who_waits_can_be_told_to_stop() -> None:
    lm, inside, go_on = SitedLM(), threading.Event(), threading.Event()
    whole: Callable[..., list[Tensor]] = lm.capture_many

    def capture_many(ids: Tensor, mask: Tensor, sites: list[Site]) -> list[Tensor]:
        inside.set()
        go_on.wait(10)
        return whole(ids, mask, sites)

    lm.capture_many = capture_many  # type: ignore[method-assign]
    sites = [Site.parse(site) for site in SITES]
    shared = Reading(lives(lm, make_corpus(30))[0], sites)
    busy = threading.Thread(target=shared.read, args=(Place(0, 0), sites[0], lambda: False))
    busy.start()
    inside.wait(10)
    with pytest.raises(reading.NotWantedError):
        shared.read(Place(0, 0), sites[1], lambda: True)
    go_on.set()
    busy.join()


def test_what_cannot_be_read_together_is_refused() -> None:
    lm, corpus = SitedLM(), make_corpus(30)
    first = lives(lm, corpus)[0]
    for other, said in (
        (first, "each site is read once: got resid_post.1, resid_post.1"),
        (lives(SitedLM(), corpus)[1], "those of one model"),
        (lives(lm, make_corpus(31))[1], "read on one corpus"),
        (lives(lm, corpus, context_length=8)[1], "one context_length: got 8 for resid_post.0"),
        (lives(lm, corpus, held_out=0.2)[1], "one held_out: got 0.2"),
        (lives(lm, corpus, max_doc_tokens=24)[1], "one max_doc_tokens"),
        (lives(lm, corpus, batch_tokens=51)[1], "one batch_tokens"),
        (lives(lm, corpus, buffer_tokens=61)[1], "one buffer_tokens"),
    ):
        with pytest.raises(ConfigError, match=said):
            share([first, other])
    with pytest.raises(SiteError, match="no layer 2"):
        Live(lm, corpus, "resid_post.2")
    assert len(share(lives(lm, corpus, sink_ratio=3.0))) == 2
