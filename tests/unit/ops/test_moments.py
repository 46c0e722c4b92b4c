"""Streaming moments against fp64 arithmetic on all values at once."""

from __future__ import annotations

import numpy as np
import pytest

from monoscope.errors import MismatchError
from monoscope.ops.moments import N_BINS, Moments, histogram_edges


def one_latent(values: np.ndarray) -> Moments:
    moments = Moments.empty(1)
    moments.update(np.array([0, len(values)]), values.astype(np.float32))
    return moments


def bins(values: np.ndarray) -> np.ndarray:
    """Bin of each value by searching the published edges, the end bins open."""
    return np.clip(np.searchsorted(histogram_edges(), values, side="right") - 1, 0, N_BINS - 1)


def test_edges_are_quarter_octaves_from_2_to_the_minus_10_to_2_to_the_14() -> None:
    edges = histogram_edges()
    assert len(edges) == N_BINS + 1
    np.testing.assert_allclose(edges, 2.0 ** np.linspace(-10, 14, N_BINS + 1), rtol=1e-7)


@pytest.mark.parametrize("step", [-1, 0, 1])
def test_values_on_and_beside_every_edge_fall_on_the_right_side(step: int) -> None:
    edges = histogram_edges().astype(np.float32)
    assert (edges == histogram_edges()).all()  # exact in float32
    towards = np.float32(np.inf if step > 0 else 0)
    values = edges if step == 0 else np.nextafter(edges, towards)
    expected = np.bincount(bins(values.astype(np.float64)), minlength=N_BINS)
    np.testing.assert_array_equal(one_latent(values).hist[0], expected)


def test_values_beyond_the_edges_count_into_the_end_bins() -> None:
    tiny, huge = np.float32(1e-44), np.float32(3e38)
    hist = one_latent(np.array([tiny, tiny, huge])).hist[0]
    assert (hist[0], hist[-1], hist.sum()) == (2, 1, 3)


def test_figures_match_fp64_arithmetic() -> None:
    rng = np.random.default_rng(0)
    columns = [rng.lognormal(0, 2, n).astype(np.float32) for n in (0, 1, 2, 977)]
    starts = np.concatenate([[0], np.cumsum([len(c) for c in columns])])
    moments = Moments.empty(4)
    moments.update(starts, np.concatenate(columns))
    for i, column in enumerate(columns):
        exact = column.astype(np.float64)
        assert moments.count[i] == len(column)
        assert moments.peak[i] == (column.max() if len(column) else 0)
        np.testing.assert_array_equal(moments.hist[i], np.bincount(bins(exact), minlength=N_BINS))
        if len(column):
            np.testing.assert_allclose(moments.mean()[i], exact.mean(), rtol=1e-12)
            np.testing.assert_allclose(moments.std()[i], exact.std(), rtol=1e-9, atol=1e-12)
    assert moments.mean()[0] == moments.std()[0] == 0


def test_a_range_of_latents_leaves_the_others_alone() -> None:
    values = np.array([1, 2, 3], np.float32)
    moments = Moments.empty(3)
    moments.update(np.array([0, 1, 2, 3]), values, (1, 2))
    np.testing.assert_array_equal(moments.count, [0, 1, 0])


def test_states_of_different_latents_do_not_merge() -> None:
    with pytest.raises(MismatchError, match=r"3 latents.*expected 2"):
        Moments.empty(2).merge(Moments.empty(3))
