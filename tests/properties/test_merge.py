"""merge(statistics of a, statistics of b) == statistics of a and b, wherever the data is cut."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monoscope.errors import MismatchError
from monoscope.features import metadata
from monoscope.features.coactivation import PairSample
from monoscope.features.sample_kernels import EMPTY, N_TOP
from monoscope.features.statistics import Statistics, merge
from tests.unit.features import brute
from tests.unit.features.test_collect import slots

L = 6


@pytest.fixture(scope="module", autouse=True)
def few_values() -> Iterator[None]:
    """Metadata keys are dropped beyond five values, so that some worlds drop one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metadata, "MAX_VALUES", 5)
        yield


@st.composite
def worlds(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, dict[str, str]]]:
    """Codes z [N, L] of documents, with ties, values over many octaves, and metadata."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    lengths = rng.integers(1, draw(st.integers(2, 30)), draw(st.integers(1, 40)))
    doc = np.repeat(np.sort(rng.choice(200, len(lengths), replace=False)), lengths)
    pos = np.concatenate([np.sort(rng.choice(50, n, replace=False)) for n in lengths])
    shape = (len(doc), L)
    z = 2.0 ** rng.uniform(-14, draw(st.sampled_from([-12, 0, 16])), shape)
    if draw(st.booleans()):
        z = np.round(z, 1)  # many ties, many zeros
    z *= rng.random(shape) < draw(st.sampled_from([0.05, 0.4, 1.0]))
    n_values = draw(st.sampled_from([2, 100]))
    meta = {int(d): {"lang": f"l{d % n_values}", "kind": f"k{d % 3}"} for d in np.unique(doc)}
    for d in list(meta)[::2]:
        del meta[d]["kind"]
    return z.astype(np.float32), doc, pos, meta


def gathered(world: tuple, cuts: list[int], lo: int, hi: int, sampled: bool) -> Statistics:
    """Statistics of rows lo … hi-1, fed in blocks that end at `cuts`."""
    z, doc, pos, meta = world
    statistics = Statistics(L, seed=3)
    if sampled:
        statistics.pairs = PairSample(L, max_entries=40, max_pairs=10**6)
    bounds = sorted({lo, hi, *(c for c in cuts if lo < c < hi)})
    for a, b in pairwise(bounds):
        rows, columns = np.nonzero(z[a:b])
        offsets = np.concatenate([[0], np.bincount(rows, minlength=b - a).cumsum()])
        statistics.update(
            columns.astype(np.int32), z[a:b][rows, columns], offsets, doc[a:b],
            pos[a:b].astype(np.int32), meta,
        )  # fmt: skip
    return statistics


def assert_same(a: Statistics, b: Statistics) -> None:
    assert (a.n_tokens, a.n_documents, a.n_entries) == (b.n_tokens, b.n_documents, b.n_entries)
    for name in ("count", "peak", "hist"):
        np.testing.assert_array_equal(getattr(a.moments, name), getattr(b.moments, name))
    for name in ("total", "squares"):
        np.testing.assert_allclose(getattr(a.moments, name), getattr(b.moments, name), rtol=1e-12)
    for mine, theirs in (
        (a.samples.top(), b.samples.top()),
        (a.samples.bands(a.moments.peak), b.samples.bands(b.moments.peak)),
    ):
        for name in vars(mine):
            np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name), name)
    for latent in range(L):
        assert slots(a.samples, latent) == slots(b.samples, latent)
    assert_same_meta(a, b)
    np.testing.assert_array_equal(a.pairs.count, b.pairs.count)
    assert a.pairs.n_tokens == b.pairs.n_tokens
    left, right = np.triu_indices(L, 1)
    np.testing.assert_array_equal(a.pairs.pairs(left, right), b.pairs.pairs(left, right))


def assert_same_meta(a: Statistics, b: Statistics) -> None:
    mine, theirs = dict(a.meta.names(10**6)), dict(b.meta.names(10**6))
    assert set(mine) == set(theirs)
    for name, column in mine.items():
        np.testing.assert_allclose(a.meta.mass[:, column], b.meta.mass[:, theirs[name]], rtol=1e-12)
        np.testing.assert_array_equal(a.meta.count[:, column], b.meta.count[:, theirs[name]])
        assert a.meta.tokens[column] == b.meta.tokens[theirs[name]]


@given(worlds(), st.data(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_parts_cut_between_documents_merge_into_the_whole(
    world: tuple, data: st.DataObject, sampled: bool
) -> None:
    doc = world[1]
    starts = np.flatnonzero(np.diff(doc)) + 1
    cuts = data.draw(st.lists(st.sampled_from(starts.tolist() or [0]), max_size=6))
    split = data.draw(st.sampled_from([0, *starts.tolist(), len(doc)]))
    whole = gathered(world, [], 0, len(doc), sampled)
    assert_same(gathered(world, cuts, 0, len(doc), sampled), whole)
    a = gathered(world, cuts, 0, split, sampled)
    b = gathered(world, cuts, split, len(doc), sampled)
    assert_same(merge(a, b), whole)
    assert_same(merge(b, a), whole)


@given(worlds())
@settings(max_examples=20, deadline=None)
def test_the_whole_is_what_brute_force_says(world: tuple) -> None:
    z, doc, pos, _ = world
    whole = gathered(world, [], 0, len(doc), sampled=False)
    top = whole.samples.top()
    for latent in range(L):
        tokens = brute.active(z, doc, pos, latent, seed=3)
        assert slots(whole.samples, latent) == brute.kept(tokens)
        mine = top.latent == latent
        found = list(zip(top.doc[mine].tolist(), top.pos[mine].tolist(), strict=True))
        assert found == [t.key for t in brute.top(tokens)]
    fires = (z > 0).astype(int)
    left, right = np.triu_indices(L, 1)
    np.testing.assert_array_equal(whole.pairs.pairs(left, right), (fires.T @ fires)[left, right])


def test_merging_leaves_its_parts_alone() -> None:
    rng = np.random.default_rng(0)
    z = rng.random((30, L)).astype(np.float32)
    world = (z, np.arange(30), np.zeros(30), {d: {"lang": "en"} for d in range(30)})
    a, b = gathered(world, [], 0, 15, False), gathered(world, [], 15, 30, False)
    merge(a, b)
    assert_same(a, gathered(world, [], 0, 15, False))
    assert_same(b, gathered(world, [], 15, 30, False))
    assert (merge(a, b).samples.doc[:, :N_TOP] != EMPTY).all()


@pytest.mark.parametrize("other", [Statistics(L, seed=1), Statistics(L + 1, seed=3)])
def test_states_that_do_not_belong_together_are_refused(other: Statistics) -> None:
    with pytest.raises(MismatchError, match="different latents or seeds"):
        merge(Statistics(L, seed=3), other)


def test_exact_and_sampled_pairs_do_not_merge() -> None:
    with pytest.raises(MismatchError, match="different kinds"):
        merge(Statistics(L, expected_l0=10), Statistics(L, expected_l0=1000))
