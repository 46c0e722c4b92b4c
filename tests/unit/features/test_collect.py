"""The streaming pass against brute force over dense codes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from monoscope.errors import DataError
from monoscope.features import collect
from monoscope.features.collect import collect_statistics
from monoscope.features.sample_kernels import (
    BIN_SLOTS,
    EMPTY,
    FLOOR,
    N_TOP,
    RANDOM,
    REACH,
    RING,
    RING_BINS,
)
from monoscope.features.samples import N_BANDS, PER_BAND, Samples, band_of
from monoscope.features.statistics import Statistics
from monoscope.ops.codes import SparseCodes
from tests.unit.features import brute
from tests.unit.features.atlas_world import FakeSAE, FakeStore, make_store

SEED = 11


@pytest.fixture(scope="module")
def store() -> FakeStore:
    return make_store(n_docs=90)


@pytest.fixture(scope="module")
def sae() -> FakeSAE:
    return FakeSAE(d_in=12, d_sae=29, k=4)


@pytest.fixture(scope="module")
def dense(store: FakeStore, sae: FakeSAE) -> np.ndarray:
    return sae.encode(store.rows.acts).to_dense().numpy()


@pytest.fixture(scope="module")
def statistics(store: FakeStore, sae: FakeSAE) -> Statistics:
    return collect_statistics(sae, store, seed=SEED, batch_size=100).statistics


def slots(samples: Samples, latent: int) -> dict[str, set[tuple[int, int]]]:
    """What a latent's slots hold, named as `brute.kept` names it."""
    out: dict[str, set[tuple[int, int]]] = {}
    for s in range(RING, samples.doc.shape[1]):
        if samples.doc[latent, s] == EMPTY:
            continue
        place = (s - RING) % BIN_SLOTS
        kind = "low" if place == 0 else "high" if place == 1 else "random"
        b = brute.quarter(samples.value[latent, s])
        name = f"{b}/{kind}" if s < FLOOR else "floor"
        key = (int(samples.doc[latent, s]), int(samples.pos[latent, s]))
        assert key not in out.setdefault(name, set())
        out[name].add(key)
    return out


def test_every_token_is_read_and_encoded_once(store: FakeStore, sae: FakeSAE) -> None:
    store.reads = sae.encoded = 0
    run = collect_statistics(sae, store, seed=SEED)
    assert store.reads == len(store.shards("train")) == 3
    assert sae.encoded == store.n_tokens() == run.statistics.n_tokens
    assert run.statistics.n_documents == len(np.unique(store.rows.doc))


def test_counts_and_extremes(statistics: Statistics, dense: np.ndarray) -> None:
    moments = statistics.moments
    np.testing.assert_array_equal(moments.count, (dense > 0).sum(0))
    np.testing.assert_array_equal(moments.peak, dense.max(0))
    np.testing.assert_allclose(moments.total, dense.astype(np.float64).sum(0), rtol=1e-12)
    np.testing.assert_array_equal(moments.hist.sum(1), moments.count)
    assert moments.count[3] == 0  # the dead one
    assert statistics.n_entries == (dense > 0).sum()


def test_top_contexts_are_the_best_of_each_document(
    statistics: Statistics, dense: np.ndarray, store: FakeStore
) -> None:
    doc, pos = store.rows.doc.numpy(), store.rows.pos.numpy()
    top = statistics.samples.top()
    for latent in range(dense.shape[1]):
        expected = brute.top(brute.active(dense, doc, pos, latent, SEED))
        mine = top.latent == latent
        found = list(zip(top.doc[mine].tolist(), top.pos[mine].tolist(), strict=True))
        assert found == [t.key for t in expected]
        np.testing.assert_array_equal(top.value[mine], [t.value for t in expected])
        np.testing.assert_array_equal(top.rank[mine], np.arange(len(expected)))
    assert (np.bincount(top.latent, minlength=29)[[0, 1, 2, 4]] == N_TOP).all()


def test_kept_samples_are_those_of_smallest_hash(
    statistics: Statistics, dense: np.ndarray, store: FakeStore
) -> None:
    doc, pos = store.rows.doc.numpy(), store.rows.pos.numpy()
    for latent in range(dense.shape[1]):
        tokens = brute.active(dense, doc, pos, latent, SEED)
        assert slots(statistics.samples, latent) == brute.kept(tokens)


def test_windows_hold_the_latent_on_the_tokens_around(
    statistics: Statistics, dense: np.ndarray, store: FakeStore
) -> None:
    doc, pos = store.rows.doc.numpy(), store.rows.pos.numpy()
    samples = statistics.samples
    seen = 0
    for latent, slot in zip(*np.nonzero(samples.doc != EMPTY), strict=True):
        at = (samples.doc[latent, slot], samples.pos[latent, slot])
        expected = brute.window(dense, doc, pos, latent, at)
        np.testing.assert_array_equal(samples.window[latent, slot], expected)
        assert samples.window[latent, slot, REACH] == samples.value[latent, slot]
        seen += int((expected > 0).sum() > 1)
    assert seen > 100  # the windows are not all silent but for the middle


def test_every_band_that_has_tokens_has_examples(
    statistics: Statistics, dense: np.ndarray, store: FakeStore
) -> None:
    moments = statistics.moments
    bands = statistics.samples.bands(moments.peak)
    doc, pos = store.rows.doc.numpy(), store.rows.pos.numpy()
    row = {(int(d), int(p)): r for r, (d, p) in enumerate(zip(doc, pos, strict=True))}
    rows = np.array([row[key] for key in zip(bands.doc.tolist(), bands.pos.tolist(), strict=True)])
    np.testing.assert_array_equal(dense[rows, bands.latent], bands.value)
    for latent in range(dense.shape[1]):
        values = dense[dense[:, latent] > 0, latent]
        expected = np.floor(5 * values.astype(np.float64) / values.max(initial=1)).clip(max=4)
        full = np.bincount(expected.astype(int), minlength=N_BANDS)
        found = np.bincount(bands.band[bands.latent == latent], minlength=N_BANDS)
        np.testing.assert_array_equal(found > 0, full > 0)
        assert (found <= np.minimum(full, PER_BAND)).all()


def test_a_band_of_one_token_among_thousands_has_its_example() -> None:
    """Bins narrower than bands, with their ends kept: no band edge can hide a lone token."""
    rng = np.random.default_rng(0)
    L, n = 64, 1500
    peak = rng.uniform(1, 2, L)  # so that the bins fall differently against the bands
    share = rng.uniform(0.61, 0.7999, (n, L))
    lone = rng.uniform(
        [[0.8001], [0.5], [0.3], [0.05]], [[0.83], [0.5999], [0.3999], [0.19]], (4, L)
    )
    z = (np.concatenate([share, lone, np.ones((1, L))]) * peak).astype(np.float32)
    statistics = Statistics(L, seed=1)
    add(statistics, z, np.arange(len(z)), np.zeros(len(z)))
    moments = statistics.moments
    bands = statistics.samples.bands(moments.peak)
    found = np.zeros((L, N_BANDS), int)
    np.add.at(found, (bands.latent, bands.band), 1)
    expected = np.zeros((L, N_BANDS), int)
    for latent in range(L):
        expected[latent] = np.bincount(band_of(z[:, latent], z[:, latent].max()), minlength=5)
    assert (expected[:, 2] == 1).all() and (expected[:, 0] == 1).all()
    np.testing.assert_array_equal(found > 0, expected > 0)


def test_within_a_band_every_token_has_the_same_chance() -> None:
    """Means over many latents with the same values agree with the band's mean, to 4 σ."""
    L, n = 400, 1200
    values = np.sort(np.random.default_rng(3).uniform(0.01, 1, n)).astype(np.float32)
    statistics = Statistics(L, seed=5)
    add(statistics, np.repeat(values[:, None], L, 1), np.arange(n), np.zeros(n))
    moments = statistics.moments
    bands = statistics.samples.bands(moments.peak)
    for band in range(N_BANDS):
        inside = values[band_of(values, np.repeat(values.max(), n)) == band]
        drawn = bands.value[bands.band == band]
        error = inside.std() / np.sqrt(len(drawn))
        assert abs(drawn.mean() - inside.mean()) < 4 * error, band


def add(statistics: Statistics, z: np.ndarray, doc: np.ndarray, pos: np.ndarray, **options) -> None:
    rows, columns = np.nonzero(z)
    offsets = np.concatenate([[0], np.bincount(rows, minlength=len(z)).cumsum()])
    statistics.update(
        columns.astype(np.int32), z[rows, columns].astype(np.float32), offsets,
        doc.astype(np.int64), pos.astype(np.int32), {}, **options,
    )  # fmt: skip


def every_pair(statistics: Statistics) -> np.ndarray:
    return statistics.pairs.pairs(*np.triu_indices(statistics.n_latents, 1))


def same_state(a: Statistics, b: Statistics) -> None:
    for name in ("value", "doc", "pos", "window"):
        np.testing.assert_array_equal(getattr(a.samples, name), getattr(b.samples, name))
    for name in ("count", "total", "squares", "peak", "hist"):
        np.testing.assert_array_equal(getattr(a.moments, name), getattr(b.moments, name))
    np.testing.assert_array_equal(a.meta.mass, b.meta.mass)
    np.testing.assert_array_equal(every_pair(a), every_pair(b))


@pytest.mark.parametrize("batch_size", [1, 7, 4096])
def test_the_batch_size_does_not_matter(
    store: FakeStore, sae: FakeSAE, statistics: Statistics, batch_size: int
) -> None:
    other = collect_statistics(sae, store, seed=SEED, batch_size=batch_size).statistics
    same_state(other, statistics)


def test_blocks_cut_between_documents(
    store: FakeStore, sae: FakeSAE, statistics: Statistics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "BLOCK_TOKENS", 150)
    blocks = list(collect._blocks(store, store.n_tokens()))
    assert all(len(block.doc) < 150 + 60 for block in blocks)
    for before, after in pairwise(blocks):
        assert before.doc[-1] < after.doc[0]
        assert len(before.doc) >= 150 or before.shard is not after.shard
    other = collect_statistics(sae, store, seed=SEED).statistics
    np.testing.assert_array_equal(other.moments.hist, statistics.moments.hist)
    np.testing.assert_array_equal(every_pair(other), every_pair(statistics))
    mine, theirs = other.samples.top(), statistics.samples.top()
    np.testing.assert_array_equal(mine.doc, theirs.doc)
    np.testing.assert_array_equal(mine.window, theirs.window)
    for latent in range(29):
        assert slots(other.samples, latent) == slots(statistics.samples, latent)


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_do_not_change_the_result(
    dense: np.ndarray, store: FakeStore, threads: int
) -> None:
    doc, pos = store.rows.doc.numpy(), store.rows.pos.numpy()
    one, many = Statistics(29, seed=2), Statistics(29, seed=2)
    add(one, dense, doc, pos)
    add(many, dense, doc, pos, threads=threads)
    same_state(one, many)


def test_values_that_are_not_above_zero_are_silence() -> None:
    statistics = Statistics(3)
    statistics.update(
        np.array([0, 1, 2], np.int32), np.array([0.0, -2.0, 1.5], np.float32), np.array([0, 3]),
        np.array([0]), np.array([0], np.int32), {},
    )  # fmt: skip
    np.testing.assert_array_equal(statistics.moments.count, [0, 0, 1])
    np.testing.assert_array_equal(statistics.samples.top().latent, [2])
    assert every_pair(statistics).sum() == 0


def test_a_document_that_comes_in_two_blocks_still_has_one_top_context() -> None:
    values = np.float32([3, 5, 4, 1, 9, 2])
    doc, pos = np.array([0, 1, 1, 1, 1, 2]), np.array([0, 0, 1, 2, 3, 0])
    for cut in range(1, 6):
        statistics = Statistics(1)
        for rows in (slice(0, cut), slice(cut, 6)):
            add(statistics, values[rows, None], doc[rows], pos[rows])
        top = statistics.samples.top()
        assert [*zip(top.doc, top.pos, top.value, strict=True)] == [(1, 3, 9), (0, 0, 3), (2, 0, 2)]


@pytest.mark.parametrize("row", [[2, 1], [1, 1], [0, 7], [-1, 0]])
def test_rows_that_are_no_codes_are_refused(row: list[int]) -> None:
    with pytest.raises(ValueError, match="not ascending or out of range"):
        Statistics(3).update(
            np.array(row, np.int32), np.ones(2, np.float32), np.array([0, 2]),
            np.array([0]), np.array([0], np.int32), {},
        )  # fmt: skip


@pytest.mark.parametrize("asked", [1, 100, 601, 10**9])
def test_it_stops_after_the_tokens_asked_for(
    store: FakeStore, sae: FakeSAE, dense: np.ndarray, asked: int
) -> None:
    calls: list[tuple[int, int]] = []
    run = collect_statistics(
        sae, store, n_tokens=asked, progress=lambda done, total: calls.append((done, total))
    )
    n = min(asked, store.n_tokens())
    assert run.statistics.n_tokens == n
    assert calls[-1] == (n, n)
    np.testing.assert_array_equal(run.statistics.moments.count, (dense[:n] > 0).sum(0))


def test_metadata_mass(store: FakeStore, statistics: Statistics, dense: np.ndarray) -> None:
    names = dict(statistics.meta.names(statistics.n_documents))
    assert set(names) == {"lang=en", "lang=fr", "topic=art", "topic=law", "topic=sea"}
    doc = store.rows.doc.numpy()
    for name, column in names.items():
        key, value = name.split("=")
        inside = np.array([store.docs[d].meta.get(key) == value for d in doc.tolist()])
        expected = dense[inside].astype(np.float64).sum(0)
        np.testing.assert_allclose(statistics.meta.mass[:, column], expected, rtol=1e-12)
        np.testing.assert_array_equal(statistics.meta.count[:, column], (dense[inside] > 0).sum(0))
        assert statistics.meta.tokens[column] == inside.sum()


def test_a_key_with_too_many_values_is_dropped_and_frees_its_columns(
    statistics: Statistics,
) -> None:
    assert statistics.meta.columns["title"] is None  # 90 titles
    used = {column for _, column in statistics.meta.names(10**6)}
    unused = sorted(set(range(len(statistics.meta.tokens))) - used)
    assert statistics.meta.mass[:, unused].sum() == statistics.meta.tokens[unused].sum() == 0


def test_nan_is_refused_naming_shard_and_row(sae: FakeSAE) -> None:
    store = make_store()
    second = store.shards("train")[1].rows
    store.rows.acts[second.start + 5, 2] = float("nan")
    with pytest.raises(DataError, match="NaN or infinite: got shard shard-1, row 5"):
        collect_statistics(sae, store, batch_size=2)


def test_infinite_codes_are_refused(store: FakeStore, sae: FakeSAE) -> None:
    class Overflowing(FakeSAE):
        def encode(self, x: torch.Tensor) -> SparseCodes:
            codes = super().encode(x)
            if self.encoded > 250:
                codes.values[codes.offsets[3]] = torch.inf
            return codes

    sae = Overflowing(12, 29, 4)
    with pytest.raises(DataError, match=r"code of a row is NaN or infinite.*shard-0") as error:
        collect_statistics(sae, store, batch_size=100)
    length = sae.encoded // 3  # it stopped in the third batch, of equal ones
    assert any(f"row {2 * length + 3 + off} " in str(error.value) for off in (0, 1))


def test_an_empty_split_is_refused(sae: FakeSAE) -> None:
    store = make_store()
    store.rows.doc, store.rows.pos = store.rows.doc[:0], store.rows.pos[:0]
    with pytest.raises(DataError, match="train split is empty"):
        collect_statistics(sae, store)


def test_many_bins_of_value_move_down_to_the_floor() -> None:
    """A latent whose maximum climbs a bin at a time keeps a fair sample of all it passed."""
    values = (2.0 ** (np.arange(200) / 8 - 12)).astype(np.float32)
    doc, pos = np.arange(200), np.zeros(200, int)
    for order in (np.arange(200), np.arange(200)[::-1], np.random.default_rng(0).permutation(200)):
        statistics = Statistics(1, seed=SEED)
        for step in order:
            add(
                statistics,
                values[step : step + 1, None],
                doc[step : step + 1],
                pos[step : step + 1],
            )
        expected = brute.kept(brute.active(values[:, None], doc, pos, 0, SEED))
        assert slots(statistics.samples, 0) == expected
        assert len(expected["floor"]) == 4 and len(expected) > 2 * RING_BINS
        assert FLOOR == RING + RING_BINS * BIN_SLOTS and RANDOM == 2
