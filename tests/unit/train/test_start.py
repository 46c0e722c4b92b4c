"""A run's start: which data it takes; whitened rows against the matrix square root in fp64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import scipy.linalg
import torch
from torch import Tensor

from monoscope.errors import DataError
from monoscope.train import train
from monoscope.train.config import TrainConfig
from monoscope.train.start import inputs, require_trainable, size_and_spread, whitened


def _centred(n: int = 4000, d: int = 12) -> Tensor:
    """Data whose variances span four orders of magnitude in a rotated basis."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(2, -2, d, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]
    x = (torch.randn(n, d, generator=generator, dtype=torch.float64) * scales.sqrt()) @ turn
    return x - x.mean(0)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_rows_are_multiplied_by_a_power_of_the_inverse_covariance(power):
    x = _centred()
    covariance = x.T @ x / len(x)
    wanted = x.numpy() @ scipy.linalg.fractional_matrix_power(covariance.numpy(), -power / 2)
    got = whitened(x.float(), power)
    assert torch.allclose(got.double(), torch.from_numpy(wanted), atol=2e-3 * float(got.std()))
    left = torch.linalg.eigvalsh(got.double().T @ got.double() / len(x))
    assert float(left[-1] / left[0]) == pytest.approx(
        float(torch.linalg.cond(covariance)) ** (1 - power), rel=0.02
    )


def test_power_zero_changes_nothing():
    x = _centred().float()
    assert whitened(x, 0) is x


def test_directions_without_variance_stay_empty():
    x = _centred().float()
    flat = torch.cat([x, torch.zeros(len(x), 3)], dim=1)
    got = whitened(flat, 0.5)
    assert torch.isfinite(got).all()
    assert float(got[:, 12:].abs().max()) < 1e-4 * float(got.std())
    assert torch.isfinite(whitened(torch.zeros(10, 4), 0.5)).all()


def _config(**values: Any) -> TrainConfig:
    config = TrainConfig(n_tokens=640, recipe="topk", batch_size=64, **values)
    return config.resolved(config.shape(8, 16, 4))


def _gauss(n: int = 3000) -> Tensor:
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(0))


def test_size_and_spread_are_those_of_exact_arithmetic():
    """The spread is a millionth of the size: a sum of squares less a square would lose it."""
    x = _gauss(5000) * 1e-3 + 1e3
    wide = x.double().numpy()
    size, spread = size_and_spread(x)
    assert size == pytest.approx(math.sqrt((wide**2).sum(1).mean()), rel=1e-12)
    assert spread == pytest.approx(math.sqrt(wide.var(0).sum()), rel=1e-9)


@pytest.mark.parametrize("normalisation", ["mean_norm", "none", "standardize", "unit"])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(3000, 8), r"all alike: got a spread of 0 .*norm 2.83.*3,000 rows; expected"),
        (torch.full((300, 8), 0.1), "activations are all alike: got a spread"),
        (_gauss() * 1e-6 + 1e3, "activations are all alike: got a spread"),
        (torch.zeros(64, 8), "activations are all zero: got 64 rows of norm 0; expected rows that"),
        (_gauss() * 1e25, r"too large for float32: got a typical norm of 2.8.e\+25; expected 1e-"),
        (_gauss() * 1e-25, "too small for float32: got a typical norm of 2.8.e-25; expected 1e-"),
    ],
)
def test_activations_that_nothing_can_be_learnt_from(x, message, normalisation):
    with pytest.raises(DataError, match=message) as caught:
        require_trainable(x, [_config(normalisation=normalisation)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scale", [1e12, 1e-12])
def test_sizes_that_only_normalised_inputs_can_have(scale):
    x = _gauss() * scale
    require_trainable(x, [_config()])
    seen = inputs(x, _config())(x)
    assert float(seen.norm(dim=1).mean()) == pytest.approx(math.sqrt(8), rel=1e-4)
    with pytest.raises(DataError, match=r"without normalisation.*expected 1e-08 to 1e\+08"):
        require_trainable(x, [_config(), _config(normalisation="none")])


@pytest.mark.parametrize("recipe", ["topk", "bricken", "jumprelu", "gated", "kl"])
@pytest.mark.parametrize("scale", [2e7, 1e-7])
def test_what_is_accepted_raw_can_be_trained_on(recipe, scale):
    """At the ends of the range the first step of every kind of loss is finite in float32."""
    x = _gauss(512) * scale
    settings = {"normalisation": "none"}
    k = 4 if recipe == "topk" else None
    lr = min(1.0, 1e-3 * scale)
    run = train(
        x, recipe=recipe, k=k, d_sae=16, n_tokens=640, batch_size=64, lr=lr, settings=settings
    )
    assert math.isfinite(run.metrics["fvu"])


def test_whitening_takes_its_covariance_in_float64():
    """The squares of these do not fit into float32."""
    got = whitened(_centred().float() * 1e18, 1.0)
    assert torch.allclose(got, whitened(_centred().float(), 1.0), rtol=1e-3, atol=1e-3)


def test_activations_that_are_refused_leave_no_folder(tmp_path):
    asked = {"d_sae": 16, "k": 4, "n_tokens": 640, "batch_size": 64, "out": tmp_path / "run"}
    with pytest.raises(DataError, match="all alike"):
        train(torch.ones(300, 8), **asked)
    assert not (tmp_path / "run").exists()
    assert train(_gauss(300), **asked).out == tmp_path / "run"
