"""Pair counts and neighbours against dense arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monoscope.features import coactivation, neighbours
from monoscope.features.coactivation import PairCounts, Pairs, PairSample, pair_counter, pmi
from monoscope.features.columns import Columns
from monoscope.features.neighbours import coactivation_neighbours, decoder_neighbours
from monoscope.features.samples import token_hashes

L, N = 37, 800


@pytest.fixture(scope="module")
def fires() -> np.ndarray:
    """[N, L] bool, with groups of latents that fire together and one that never does."""
    rng = np.random.default_rng(0)
    topic = rng.integers(0, 6, N)
    chance = rng.uniform(0, 0.5, (6, L)) ** 2 * 2
    chance[:, 9] = 0
    return rng.random((N, L)) < chance[topic]


def counted(pairs: Pairs, fires: np.ndarray, first: int = 0, block: int = 300) -> Pairs:
    for a in range(0, len(fires), block):
        part = fires[a : a + block]
        cols = np.nonzero(part)[1]
        offsets = np.concatenate([[0], part.sum(1).cumsum()])
        ones = np.ones(len(cols), np.float32)
        columns = Columns.from_rows(cols.astype(np.int32), ones, offsets, fires.shape[1])
        token = np.arange(first + a, first + a + len(part))
        pairs.add(columns, token_hashes(0, token, np.zeros(len(part), np.int32)), threads=3)
    return pairs


def dense_best(both: np.ndarray, count: np.ndarray, k: int, least: int) -> list[list[int]]:
    """Partners by Jaccard descending, then by id."""
    out = []
    for i in range(len(count)):
        union = count[i] + count - both[i]
        jaccard = both[i] / np.maximum(union, 1)
        good = [j for j in range(len(count)) if j != i and both[i, j] >= least]
        out.append(sorted(good, key=lambda j: (-jaccard[j], j))[:k])
    return out


@pytest.mark.parametrize(("kind", "waiting"), [(PairCounts, 1), (PairCounts, 2500),
                                               (PairCounts, 2**21), (PairSample, 1)])  # fmt: skip
def test_all_pairs_are_counted(
    kind: type, waiting: int, fires: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether tokens wait for others or are counted at once, one block or many after another."""
    monkeypatch.setattr(coactivation, "WAITING_ENTRIES", waiting)
    monkeypatch.setattr(coactivation, "STORED_PER_WAITING", 10**9)
    pairs = counted(kind(L), fires, block=70)
    both = fires.T.astype(int) @ fires.astype(int)
    left, right = (a.ravel() for a in np.indices((L, L)))
    apart = left != right
    np.testing.assert_array_equal(
        pairs.pairs(left[apart], right[apart]), both[left[apart], right[apart]]
    )
    np.testing.assert_array_equal(pairs.count, fires.sum(0))
    assert pairs.n_tokens == N


@pytest.mark.parametrize("shape", [(300, 200, 0.02), (64, 9, 1.0), (40, 1000, 0.001)])
def test_counts_are_those_of_a_dense_triangle(
    shape: tuple[int, int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One counter for each of all pairs, written out; sums of parts give the same."""
    monkeypatch.setattr(coactivation, "WAITING_ENTRIES", 50)
    n, latents, density = shape
    fires = np.random.default_rng(2).random((n, latents)) < density
    triangle = np.zeros((latents, latents), np.int64)
    for token in fires:
        active = np.flatnonzero(token)
        for place, i in enumerate(active):
            triangle[i, active[place + 1 :]] += 1
    left, right = np.triu_indices(latents, 1)
    whole = counted(PairCounts(latents), fires, block=17)
    for cut in (0, 11, n):
        a = counted(PairCounts(latents), fires[:cut], block=5)
        b = counted(PairCounts(latents), fires[cut:], cut, block=23)
        a.merge(b)  # type: ignore[arg-type]
        for pairs in (whole, a):
            np.testing.assert_array_equal(pairs.pairs(left, right), triangle[left, right])
            np.testing.assert_array_equal(pairs.pairs(right, left), triangle[left, right])
            np.testing.assert_array_equal(pairs.count, fires.sum(0))
    assert len(whole._settle().other) == (triangle > 0).sum()  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [PairCounts, PairSample])
@pytest.mark.parametrize(("k", "least"), [(10, 5), (3, 1), (36, 1)])
def test_the_best_partners_by_jaccard(kind: type, fires: np.ndarray, k: int, least: int) -> None:
    best = counted(kind(L), fires).best(k, least)
    both = fires.T.astype(int) @ fires.astype(int)
    expected = dense_best(both, fires.sum(0), k, least)
    for i in range(L):
        found = best.other[i][best.other[i] >= 0].tolist()
        assert found == expected[i]
        np.testing.assert_array_equal(best.n_both[i, : len(found)], both[i, found])
    assert (best.other[9] == -1).all()  # the latent that never fires has no partners
    assert not (best.other == 9).any()


def test_the_figures_of_coactivation_neighbours(fires: np.ndarray) -> None:
    W = torch.randn(L, 7, generator=torch.Generator().manual_seed(0))
    near = coactivation_neighbours(W, counted(PairCounts(L), fires), k=4, least=5)
    n = fires.sum(0)
    for i, j, n_both, jaccard, information, cosine in zip(
        near.latent, near.other, near.n_both, near.jaccard, near.pmi, near.cosine, strict=True
    ):
        together = int((fires[:, i] & fires[:, j]).sum())
        assert n_both == together >= 5
        assert jaccard == pytest.approx(together / (fires[:, i] | fires[:, j]).sum(), rel=1e-12)
        assert information == pytest.approx(np.log(together * N / (n[i] * n[j])), rel=1e-12)
        a, b = W[i].double(), W[j].double()
        assert cosine == pytest.approx(float(a @ b / (a.norm() * b.norm())), abs=1e-6)
    assert len(near.latent) > 2 * L


@pytest.mark.parametrize("tile", [1, 200, 2**24])
def test_decoder_neighbours_in_any_tiles(
    fires: np.ndarray, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "_TILE_ELEMENTS", tile)
    W = torch.randn(L, 7, generator=torch.Generator().manual_seed(1))
    W[4] = 3 * W[20] + 0.01 * W[5]  # almost the same direction, another length
    near = decoder_neighbours(W, counted(PairCounts(L), fires), k=10)
    unit = (W / W.norm(dim=1, keepdim=True)).double().numpy()
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    for i in range(L):
        mine = near.latent == i
        assert near.other[mine].tolist() == np.argsort(-cosine[i])[:10].tolist()
        np.testing.assert_allclose(near.cosine[mine], np.sort(cosine[i])[::-1][:10], atol=1e-6)
        assert near.rank[mine].tolist() == list(range(10))
    assert near.other[near.latent == 4][0] == 20
    never = near.n_both == 0
    assert never.any() and np.isnan(near.pmi[never]).all() and np.isfinite(near.pmi[~never]).all()


def test_neighbours_beyond_a_right_angle() -> None:
    """Where a half-space has fewer latents than are asked for, the rest come from beyond it."""
    W = torch.randn(12, 2, generator=torch.Generator().manual_seed(3))
    near = decoder_neighbours(W, counted(PairCounts(12), np.ones((3, 12), bool)), k=11)
    unit = (W / W.norm(dim=1, keepdim=True)).double().numpy()
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    assert (cosine < 0).any()
    for i in range(12):
        assert near.other[near.latent == i].tolist() == np.argsort(-cosine[i])[:11].tolist()


def test_fewer_latents_than_neighbours() -> None:
    fires = np.ones((6, 2), bool)
    near = decoder_neighbours(torch.eye(2), counted(PairCounts(2), fires))
    assert near.other.tolist() == [1, 0]


def test_a_full_sample_is_bounded_and_random_in_its_tokens(fires: np.ndarray) -> None:
    cap = 300
    pairs = counted(PairSample(L, max_entries=cap), fires)
    hashes = token_hashes(0, np.arange(N), np.zeros(N, np.int32))
    order = np.argsort(hashes)
    kept = order[: pairs.n_tokens]
    assert fires[kept].sum() == len(pairs.indices) <= cap
    assert 20 < pairs.n_tokens < N
    both = fires[kept].T.astype(int) @ fires[kept].astype(int)
    best = pairs.best(36, 1)
    assert [row[row >= 0].tolist() for row in best.other] == dense_best(
        both, fires[kept].sum(0), 36, 1
    )
    limit = 2 ** (64 - pairs.shift)
    twice = fires[[t for t in range(N) if int(hashes[t]) < 2 * limit]]
    assert twice.sum() > cap  # one halving less would not have fitted


def test_a_sample_bounds_pairs_too() -> None:
    fires = np.ones((400, 20), bool)
    pairs = counted(PairSample(20, max_pairs=100 * 20**2), fires)
    assert 20 < pairs.n_tokens <= 100


def test_sampled_jaccards_estimate_the_exact_ones() -> None:
    rng = np.random.default_rng(4)
    fires = np.repeat(rng.random((6000, 5)) < 0.3, 2, axis=1)
    fires ^= rng.random(fires.shape) < 0.05
    exact, sample = counted(PairCounts(10), fires), counted(PairSample(10, 8000), fires)
    assert sample.n_tokens < 4000
    a, b = exact.best(1, 5), sample.best(1, 5)
    np.testing.assert_array_equal(a.other, b.other)
    np.testing.assert_allclose(a.jaccard, b.jaccard, atol=0.06)


def test_which_counter_is_used() -> None:
    assert pair_counter(64, 32).exact
    assert not pair_counter(64, coactivation.MAX_EXACT_L0 + 1).exact
    assert not pair_counter(coactivation.MAX_EXACT + 1, 32).exact


def test_pmi_of_independent_latents_is_zero() -> None:
    assert pmi(np.array([6]), np.array([20]), np.array([30]), 100)[0] == pytest.approx(0, abs=1e-12)
    assert np.isnan(pmi(np.array([0]), np.array([0]), np.array([3]), 100)[0])
