"""First weights: whitened rows against the matrix square root, by fp64 arithmetic."""

from __future__ import annotations

import pytest
import scipy.linalg
import torch
from torch import Tensor

from monoscope.train.start import whitened


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
