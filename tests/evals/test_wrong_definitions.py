"""Definitions that are in use elsewhere and wrong, beside ours, on data where the truth is known.

Each wrong one is written out here as a few lines of arithmetic. The table: which mistake, on which
data, what the wrong definition says, and what is true.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from monoscope.evals import reconstruction
from monoscope.evals.bootstrap import point
from monoscope.evals.splice import figures as downstream

D, N, BATCH = 24, 4096, 256


def data(offset: float = 3.0, seed: int = 0) -> Tensor:
    """x [N,D]: a few strong directions, noise, and a mean far from zero."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.linspace(3, 0.1, D)
    return torch.randn(N, D, generator=generator) * scale + offset


def ours(x: Tensor, x_hat: Tensor, batch: int = N) -> float:
    """1 − FVU by `monoscope.evals`, fed in tiles of `batch` tokens, each its own document."""
    predicted = iter(x_hat.split(batch))
    tiles = [(part, torch.full((len(part),), i)) for i, part in enumerate(x.split(batch))]
    methods = {"it": lambda part: (next(predicted), torch.ones(len(part)))}
    mean = reconstruction.mean_of(tiles)
    sums = reconstruction.measure(methods, tiles, mean)["it"].sums()
    fvu = point(sums, reconstruction.figures)["fvu"]
    assert fvu is not None
    return 1 - fvu


def over_mean_square(x: Tensor, x_hat: Tensor) -> float:
    """Variance with the mean of squares where the square of the mean belongs (SAEBench 0.6)."""
    squares = x.square().sum(1).mean()
    total = squares - x.square().mean(0).mean() ** 2
    return float(1 - (x - x_hat).square().sum(1).mean() / total)


def per_token(x: Tensor, x_hat: Tensor) -> float:
    """A mean of ratios over tokens (the "legacy" explained variance)."""
    error, spread = (x - x_hat).square().sum(1), (x - x.mean(0)).square().sum(1)
    return float((1 - error / spread).mean())


def of_residual_variance(x: Tensor, x_hat: Tensor) -> float:
    """Variance of the residual: blind to any constant offset (dictionary_learning)."""
    return float(1 - (x - x_hat).var(0).sum() / x.var(0).sum())


def flattened(x: Tensor, x_hat: Tensor) -> float:
    """One mean over all entries, so that differences between dimensions count as variance."""
    return float(1 - (x - x_hat).square().sum() / (x - x.mean()).square().sum())


def by_batch(x: Tensor, x_hat: Tensor, batch: int) -> float:
    """A mean over batches of each batch's own ratio, around each batch's own mean."""
    pairs = zip(x.split(batch), x_hat.split(batch), strict=True)
    return float(
        np.mean([1 - (a - b).square().sum() / (a - a.mean(0)).square().sum() for a, b in pairs])
    )


def unequal() -> Tensor:
    """x whose dimensions have very different means, as residual streams do."""
    return data() + torch.linspace(-40, 40, D)


def test_the_mean_predictor_explains_nothing():
    x = data()
    x_hat = x.mean(0).expand_as(x)
    assert ours(x, x_hat) == pytest.approx(0, abs=1e-6)
    assert over_mean_square(x, x_hat) != pytest.approx(0, abs=0.3)
    assert flattened(unequal(), unequal().mean(0).expand(N, -1)) > 0.9


def test_a_biased_reconstruction_is_punished():
    x = data()
    x_hat = x + 0.5
    truth = 1 - N * D * 0.25 / float((x - x.mean(0)).double().square().sum())
    assert ours(x, x_hat) == pytest.approx(truth, rel=1e-5)
    assert truth < 0.95
    assert of_residual_variance(x, x_hat) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("batch", [2, 16, 256, N])
def test_the_size_of_the_batches_changes_nothing(batch):
    x = data()
    x_hat = x + torch.randn(N, D, generator=torch.Generator().manual_seed(1))
    truth = ours(x, x_hat)
    assert ours(x, x_hat, batch) == pytest.approx(truth, rel=1e-9)
    if batch == 2:
        assert by_batch(x, x_hat, batch) < truth - 0.3


def test_one_token_near_the_mean_does_not_decide():
    x = data()
    x[0] = x[1:].mean(0) + 1e-3
    x_hat = x + 0.3
    assert per_token(x, x_hat) < -10
    assert ours(x, x_hat) > 0.9


def test_a_perfect_and_a_zero_reconstruction():
    x = data()
    assert ours(x, x) == 1
    truth = 1 - float(x.double().square().sum() / (x - x.mean(0)).double().square().sum())
    assert ours(x, torch.zeros_like(x)) == pytest.approx(truth, rel=1e-5)
    assert truth < -1


def test_large_means_lose_no_digits():
    x = (data(0.0) + 1e4).float()
    x_hat = x + 0.25
    truth = 1 - float(
        (x.double() - x_hat.double()).square().sum()
        / (x.double() - x.double().mean(0)).square().sum()
    )
    assert ours(x, x_hat, 128) == pytest.approx(truth, rel=1e-6)
    x32 = x.square().sum() - N * x.mean(0).square().sum()  # E x² − (E x)² in float32
    assert float(x32) != pytest.approx(float((x - x.mean(0)).square().sum()), rel=0.05)


def test_loss_recovered_is_not_its_reciprocal_and_null_where_undefined():
    sums = {
        "n": np.array([10.0]), "ce_clean": np.array([30.0]), "ce_sae": np.array([34.0]),
        "ce_zero": np.array([70.0]), "ce_mean": np.array([30.0]), "kl_sae": np.array([2.0]),
    }  # fmt: skip
    found = downstream(sums, "sae")
    assert found["loss_recovered_zero"][0] == pytest.approx((7.0 - 3.4) / (7.0 - 3.0))
    assert np.isnan(found["loss_recovered_mean"][0])  # the ablation cost nothing


def test_l0_counts_what_is_not_zero_not_what_was_selected():
    from monoscope.evals.reconstruction import with_sae
    from monoscope.sae import SAE, SAEConfig

    sae = SAE(SAEConfig(d_in=4, d_sae=6, activation="topk", k=3))
    with torch.no_grad():
        sae.W_enc[:2, :2] = torch.eye(2)
        sae.W_dec[:2, :2] = torch.eye(2)
    _, l0 = with_sae(sae)(torch.tensor([[1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 5.0, 5.0]]))
    assert l0.tolist() == [2, 0]
