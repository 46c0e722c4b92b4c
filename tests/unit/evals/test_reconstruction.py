"""FVU and its companions against fp64 arithmetic, and against the wrong definitions in use."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monoscope.errors import DataError
from monoscope.evals import reconstruction
from monoscope.evals.bootstrap import point
from monoscope.evals.reconstruction import Fired, mean_of, measure, with_sae
from monoscope.ops.codes import SparseCodes


def tiles_of(x, doc=None, size=10_000):
    doc = torch.zeros(len(x), dtype=torch.int64) if doc is None else doc
    return list(zip(x.split(size), doc.split(size), strict=True))


def figures(x, x_hat, l0=None, size=10_000):
    """The figures of a method that answers x with the rows of x_hat, in order."""
    l0 = torch.zeros(len(x)) if l0 is None else l0
    answers = iter(zip(x_hat.split(size), l0.split(size), strict=True))
    tiles = tiles_of(x, size=size)
    sums = measure({"it": lambda part: next(answers)}, tiles, mean_of(tiles))["it"].sums()
    return point(sums, reconstruction.figures)


@pytest.fixture
def x():
    """Skewed norms, and a mean that drifts, so that wrong averages show."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.rand(301, 1, generator=generator) ** 4 * 50 + 0.1
    drift = torch.linspace(-30, 30, 301)[:, None]
    return torch.randn(301, 7, generator=generator) * scale + drift + 5


def test_by_hand():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-3.0, 2.0]])
    x_hat = torch.tensor([[3.0, 0.0], [1.0, 0.0], [-3.0, 2.0]])
    got = figures(x, x_hat, l0=torch.tensor([1, 1, 4]))
    # μ = (0, 2): Σ‖x−μ‖² = 13 + 4 + 9; Σ‖x−x̂‖² = 16 + 1 + 0
    assert got["fvu"] == pytest.approx(17 / 26, abs=1e-15)
    assert got["l0"] == 2
    assert got["cosine"] == pytest.approx((0.6 + 0 + 1) / 3, abs=1e-15)
    assert got["shrinkage"] == pytest.approx((3 + 1 + 13**0.5) / (5 + 13**0.5), abs=1e-15)


def test_against_numpy(x):
    x_hat = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    got = figures(x, x_hat)
    a, b = x.double().numpy(), x_hat.double().numpy()
    fvu = ((a - b) ** 2).sum() / ((a - a.mean(0)) ** 2).sum()
    assert got["fvu"] == pytest.approx(fvu, rel=1e-12)
    norms = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    assert got["cosine"] == pytest.approx(((a * b).sum(1) / norms[0] / norms[1]).mean(), rel=1e-12)
    assert got["shrinkage"] == pytest.approx(norms[1].sum() / norms[0].sum(), rel=1e-12)


def test_the_mean_predictor_scores_exactly_one(x):
    mean = x.double().mean(0)
    assert figures(x, mean.expand_as(x))["fvu"] == pytest.approx(1.0, abs=1e-15)
    tiles = tiles_of(x, size=50)
    exact = mean_of(tiles)
    sums = measure({"mean": lambda p: (exact.expand_as(p), torch.zeros(len(p)))}, tiles, exact)
    assert point(sums["mean"].sums(), reconstruction.figures)["fvu"] == 1.0


def test_a_bias_is_an_error(x):
    """var(x − x̂) / var(x) calls x + 0.5 perfect."""
    blind = (x - (x + 0.5)).var(0).sum() / x.var(0).sum()
    assert blind < 1e-10
    expected = 0.25 * x.numel() / (x.double() - x.double().mean(0)).square().sum()
    assert figures(x, x + 0.5)["fvu"] == pytest.approx(float(expected), rel=1e-5)


def test_wrong_averages_give_other_numbers(x):
    """Mean of per-token ratios, mean of per-batch values, and a mean of each batch for its own."""
    x_hat = x * 0.9
    right = figures(x, x_hat)["fvu"]
    error = (x - x_hat).double().square().sum(1)
    spread = (x - x.mean(0)).double().square().sum(1)
    of_tokens = (error / spread).mean()
    batches = [figures(a, b)["fvu"] for a, b in zip(x.split(43), x_hat.split(43), strict=True)]
    own_mean = error.sum() / sum((b - b.mean(0)).double().square().sum() for b in x.split(43))
    for wrong in (float(of_tokens), float(np.mean(batches)), float(own_mean)):
        assert abs(wrong - right) > 0.05 * right
    assert right == pytest.approx(float(error.sum() / spread.sum()), rel=1e-6)


@pytest.mark.parametrize("size", [1, 43, 300, 301])
def test_tiles_do_not_matter(x, size):
    x_hat = x.roll(1, dims=1)
    whole, tiled = figures(x, x_hat), figures(x, x_hat, size=size)
    assert tiled == pytest.approx(whole, rel=1e-13)


def test_order_does_not_matter(x):
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    x_hat = x * 0.7
    assert figures(x[order], x_hat[order]) == pytest.approx(figures(x, x_hat), rel=1e-13)


def test_a_large_mean_costs_no_precision():
    """In float32, Σx² − (Σx)²/N of these numbers has no correct digit."""
    noise = torch.randn(4000, 3, generator=torch.Generator().manual_seed(3))
    x = (10_000 + noise).float()
    exact = (x.double() - x.double().mean(0)).square().sum()
    sums = measure({"it": lambda p: (p + 1, torch.ones(len(p)))}, tiles_of(x), mean_of(tiles_of(x)))
    total = sums["it"].sums().total()
    assert total["variance"][0] == pytest.approx(float(exact), rel=1e-12)


def test_shrinkage_sees_a_short_reconstruction(x):
    assert figures(x, x * 0.5)["shrinkage"] == pytest.approx(0.5)
    assert figures(x, x * 0.5)["cosine"] == pytest.approx(1.0)


def test_sums_are_kept_by_document(x):
    doc = torch.arange(301) % 4 * 11
    tiles = tiles_of(x, doc, size=37)
    sums = measure({"it": lambda p: (p * 0, torch.ones(len(p)))}, tiles, mean_of(tiles))[
        "it"
    ].sums()
    assert sums.docs.tolist() == [0, 11, 22, 33]
    column = sums.columns.index("error")
    for row, d in enumerate(sums.docs):
        expected = x[doc == d].double().square().sum()
        assert sums.values[row, column] == pytest.approx(float(expected), rel=1e-13)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_named(x, bad):
    x[17, 2] = bad
    doc = torch.arange(301)
    with pytest.raises(DataError, match=r"\(it\) are not finite: got document 17"):
        measure({"it": lambda p: (p, torch.ones(len(p)))}, tiles_of(x, doc), torch.zeros(7))


def test_no_tokens_at_all():
    with pytest.raises(DataError, match="no tokens"):
        mean_of([])


class ZeroCodes:
    """An SAE that stores a zero among its codes: latent 1, on both tokens."""

    W_dec = torch.zeros(5, 2)

    def encode(self, x):
        indices = torch.tensor([0, 1, 1, 4], dtype=torch.int32)
        return SparseCodes(indices, torch.tensor([2.0, 0, 0, 1]), torch.tensor([0, 2, 4]), 5)

    def decode(self, codes):
        return torch.zeros(2, 2)


def test_a_code_of_zero_has_not_fired():
    fired = Fired(5)
    _, l0 = with_sae(ZeroCodes(), fired)(torch.ones(2, 2))
    assert l0.tolist() == [1, 1]
    assert fired.latents.tolist() == [True, False, False, False, True]
    assert fired.dead_fraction == pytest.approx(0.6)
    assert fired.n_tokens == 2


def test_the_sae_is_used_as_it_is(sae):
    x = torch.randn(9, 12, generator=torch.Generator().manual_seed(4))
    x_hat, l0 = with_sae(sae)(x)
    torch.testing.assert_close(x_hat, sae.decode(sae.encode(x)))
    assert l0.tolist() == (sae.encode(x).to_dense() != 0).sum(1).tolist()
