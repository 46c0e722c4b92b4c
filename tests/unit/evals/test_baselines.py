"""Baselines against numpy, brute force and perturbation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monoscope.evals import baselines
from monoscope.evals.baselines import PCA, MeanPredictor, Neurons, RandomSAE, fit_baselines


@pytest.fixture
def x():
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(9, 9, generator=generator) * torch.logspace(0, -2, 9)[:, None]
    return torch.randn(403, 9, generator=generator) @ basis + 7


@pytest.mark.parametrize("k", [1, 4, 9])
def test_pca_is_the_truncated_svd(x, k):
    mean = x.mean(0)
    x_hat, l0 = PCA(x.split(50), mean, k)(x)
    centred = x.double().numpy() - x.double().mean(0).numpy()
    u, s, vt = np.linalg.svd(centred, full_matrices=False)
    best = (u[:, :k] * s[:k]) @ vt[:k] + x.double().mean(0).numpy()
    np.testing.assert_allclose(x_hat.double().numpy(), best, atol=2e-5)
    fvu = float((x - x_hat).double().square().sum() / (centred**2).sum())
    assert fvu == pytest.approx((s[k:] ** 2).sum() / (s**2).sum(), rel=1e-3, abs=1e-10)
    assert l0.tolist() == [k] * len(x)


def test_random_sae_by_brute_force(x):
    sae = RandomSAE(x.mean(0), d_sae=20, k=3, seed=5)
    sae.gain = 0.7
    x_hat, l0 = sae(x[:11])
    assert torch.allclose(sae.directions.norm(dim=1), torch.ones(20))
    for row, got, count in zip(x[:11], x_hat, l0, strict=True):
        z = sae.directions @ (row - x.mean(0))
        top = z.argsort(descending=True)[:3]
        expected = x.mean(0) + 0.7 * sum(max(z[i], 0) * sae.directions[i] for i in top)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        assert count == sum(int(z[i] > 0) for i in top)


def test_random_sae_tiles_do_not_matter(x, monkeypatch):
    sae = RandomSAE(x.mean(0), d_sae=20, k=3, seed=5)
    whole = sae(x)[0]
    monkeypatch.setattr(baselines, "_TILE_LATENTS", 60)
    torch.testing.assert_close(sae(x)[0], whole)


def test_random_gain_is_the_least_squares_one(x):
    sae = RandomSAE(x.mean(0), d_sae=40, k=5, seed=1)
    before = float((sae(x)[0] - x).square().sum())
    sae.fit_gain(x.split(37))
    error = {}
    for factor in (0.98, 1.0, 1.02):
        trial = RandomSAE(x.mean(0), d_sae=40, k=5, seed=1)
        trial.gain = sae.gain * factor
        error[factor] = float((trial(x)[0] - x).double().square().sum())
    assert error[1.0] < min(error[0.98], error[1.02])
    assert error[1.0] < before


def test_random_directions_follow_the_seed(x):
    first, again = (RandomSAE(x.mean(0), 20, 3, seed=2).directions for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, RandomSAE(x.mean(0), 20, 3, seed=3).directions)


def test_neurons_by_brute_force(x):
    mean = x.mean(0)
    x_hat, l0 = Neurons(mean, 2)(x)
    for row, got in zip(x, x_hat, strict=True):
        top = (row - mean).abs().argsort(descending=True)[:2]
        expected = mean.clone()
        expected[top] = row[top]
        torch.testing.assert_close(got, expected)
    assert l0.tolist() == [2] * len(x)


def test_mean_predictor(x):
    x_hat, l0 = MeanPredictor(x.mean(0))(x[:3])
    assert torch.equal(x_hat, x.mean(0).expand(3, -1))
    assert l0.tolist() == [0, 0, 0]


@pytest.mark.parametrize(("l0", "k"), [(0.2, 1), (3.4, 3), (3.6, 4), (200.0, 9)])
def test_all_at_the_same_k(x, l0, k):
    methods = fit_baselines(x.split(100), x.mean(0), d_sae=300, l0=l0, seed=0)
    counts = {name: m.reconstruct(x)[1].float().mean().item() for name, m in methods.items()}
    assert list(methods) == ["random", "neurons", "pca", "mean"]
    assert counts["pca"] == counts["neurons"] == k
    assert counts["mean"] == 0
    if l0 < 9:
        assert counts["random"] == k
    assert f"{k} " in methods["pca"].description


def test_k_never_exceeds_the_dictionary(x):
    methods = fit_baselines([x], x.mean(0), d_sae=5, l0=8, seed=0)
    assert methods["random"].reconstruct(x)[1].max() <= 5


def test_the_order_of_quality_is_as_it_must_be(x):
    """PCA is the best linear map of rank k; the mean is the worst that anybody should do."""
    methods = fit_baselines(x.split(100), x.mean(0), d_sae=60, l0=3, seed=0)
    error = {n: float((m.reconstruct(x)[0] - x).square().sum()) for n, m in methods.items()}
    assert error["pca"] < error["neurons"] < error["mean"]
    assert error["random"] < error["mean"]


def test_the_random_baseline_comes_with_its_gain_fitted(x):
    """All 403 tokens are fitted on, so the gain is the least-squares one over them."""
    method = fit_baselines(x.split(100), x.mean(0), d_sae=60, l0=3, seed=0)["random"]
    by_hand = RandomSAE(x.mean(0), d_sae=60, k=3, seed=0)
    raw = (by_hand(x)[0] - x.mean(0)).double()
    gain = float(((x - x.mean(0)).double() * raw).sum() / raw.square().sum())
    assert abs(gain - 1) > 0.1
    by_hand.gain = gain
    torch.testing.assert_close(method.reconstruct(x)[0], by_hand(x)[0])
