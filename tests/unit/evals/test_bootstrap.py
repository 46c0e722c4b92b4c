"""Sums by document and the bootstrap over documents."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monoscope.evals import bootstrap
from monoscope.evals.bootstrap import DocumentSums, Sums, intervals, point, ratio


def mean_of_sums(sums):
    return {"mean": ratio(sums["y"], sums["n"])}


def sums_of(y, n=None) -> Sums:
    y = np.asarray(y, float)
    n = np.ones_like(y) if n is None else np.asarray(n, float)
    return Sums(("n", "y"), np.arange(len(y)), np.stack([n, y], 1))


@pytest.mark.parametrize("tile", [1, 7, 500])
def test_sums_do_not_depend_on_tiles_or_order(tile):
    rng = np.random.default_rng(0)
    doc = torch.from_numpy(rng.integers(0, 150, 500) * 1000)
    table = torch.from_numpy(rng.normal(size=(500, 2)))
    order = torch.from_numpy(rng.permutation(500))
    out = DocumentSums(("a", "b"))
    for part in order.split(tile):
        out.add(doc[part], table[part])
    got = out.sums()
    assert got.docs.tolist() == sorted(set(doc.tolist()))
    for i, d in enumerate(got.docs):
        np.testing.assert_allclose(got.values[i], table[doc == d].sum(0).numpy(), atol=1e-13)


def test_adding_nothing_adds_nothing():
    out = DocumentSums(("a",))
    out.add(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 1, dtype=torch.float64))
    assert out.sums().values.shape == (0, 1)
    assert out.sums().total()["a"].tolist() == [0.0]


def test_only_rows_and_beside():
    left = Sums(("a", "b"), np.array([5, 7, 9]), np.array([[1.0, 2], [3, 4], [5, 6]]))
    assert left.only(("b",)).values[:, 0].tolist() == [2, 4, 6]
    assert left.rows(left.docs != 7).docs.tolist() == [5, 9]
    both = left.beside(Sums(("b", "c"), np.array([5, 9]), np.array([[8.0, 9], [10, 11]])))
    assert (both.columns, both.docs.tolist()) == (("b", "c", "a"), [5, 9])
    assert both.values.tolist() == [[8, 9, 1], [10, 11, 5]]


def test_ratio_is_undefined_at_or_below_tiny():
    out = ratio(np.array([1.0, 1.0, 1.0]), np.array([2.0, 0.1, -3.0]), tiny=0.1)
    assert out[0] == 0.5
    assert np.isnan(out[1:]).all()


def test_point_is_a_ratio_of_sums_and_none_where_undefined():
    assert point(sums_of([1, 9], [1, 3]), mean_of_sums) == {"mean": 2.5}
    assert point(sums_of([1, 9], [0, 0]), mean_of_sums) == {"mean": None}


def test_same_seed_same_interval():
    sums = sums_of(np.random.default_rng(0).normal(size=30))
    first = intervals(sums, mean_of_sums, 200, seed=3)
    assert first == intervals(sums, mean_of_sums, 200, seed=3)
    assert first != intervals(sums, mean_of_sums, 200, seed=4)


def test_width_is_that_of_the_normal_approximation():
    y = np.random.default_rng(1).normal(size=400)
    low, high = intervals(sums_of(y), mean_of_sums, 4000, seed=0)["mean"]
    assert high - low == pytest.approx(2 * 1.96 * y.std() / 20, rel=0.08)
    assert low < y.mean() < high


def test_interval_covers_the_truth_of_a_ratio():
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(200):
        n = rng.integers(1, 40, 60)
        effect = rng.normal(3.0, 1.0, 60)
        low, high = intervals(sums_of(n * effect, n), mean_of_sums, 300, seed=trial)["mean"]
        hits += low <= 3.0 <= high
    assert 0.88 <= hits / 200 <= 0.995


def test_documents_are_resampled_not_tokens():
    """Ten equal tokens in each document carry no more than one would."""
    y = np.random.default_rng(3).normal(size=50)
    single = intervals(sums_of(y), mean_of_sums, 500, seed=0)["mean"]
    tenfold = intervals(sums_of(10 * y, np.full(50, 10)), mean_of_sums, 500, seed=0)["mean"]
    assert tenfold == pytest.approx(single)


def test_blocks_do_not_change_the_interval_much(monkeypatch):
    sums = sums_of(np.random.default_rng(4).normal(size=37))
    whole = bootstrap._resample(sums.values, 50, 0)
    monkeypatch.setattr(bootstrap, "_BLOCK", 100)
    np.testing.assert_array_equal(bootstrap._resample(sums.values, 50, 0), whole)
    assert (whole[:, 0] == 37).all()


def test_no_interval_where_there_is_none():
    assert intervals(sums_of([1.0, 2.0]), mean_of_sums, 0, seed=0) == {}
    assert intervals(sums_of([1.0]), mean_of_sums, 100, seed=0) == {"mean": None}
    some_undefined = sums_of([1.0, 2.0], [1.0, 0.0])
    assert intervals(some_undefined, mean_of_sums, 100, seed=0) == {"mean": None}
