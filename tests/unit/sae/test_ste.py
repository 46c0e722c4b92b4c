"""The straight-through estimators, entry by entry against their defining formulas, in fp64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monoscope.sae.ste import jump, rectangle, step

Z = torch.linspace(-2.0, 3.0, 101, dtype=torch.float64)
UPSTREAM = torch.linspace(-1.0, 2.0, 101, dtype=torch.float64)


def _theta(value: float) -> Tensor:
    return torch.full_like(Z, value)


@pytest.mark.parametrize("theta", [0.1, 0.83])
@pytest.mark.parametrize("bandwidth", [0.07, 2.0])
def test_jump(theta: float, bandwidth: float) -> None:
    z, t = Z.clone().requires_grad_(), _theta(theta).requires_grad_()
    f = jump(z, t, bandwidth)
    f.backward(UPSTREAM)
    for i, value in enumerate(Z.tolist()):
        assert float(f[i].detach()) == (value if value > theta else 0.0)
        near = 1.0 if abs(value - theta) < bandwidth / 2 else 0.0
        up = float(UPSTREAM[i])
        assert z.grad is not None and t.grad is not None
        assert float(z.grad[i]) == (up if value > theta else 0.0)
        assert float(t.grad[i]) == pytest.approx(-up * theta / bandwidth * near)


@pytest.mark.parametrize("bandwidth", [0.07, 2.0])
def test_step_moves_theta_alone(bandwidth: float) -> None:
    z, t = Z.clone().requires_grad_(), _theta(0.4).requires_grad_()
    h = step(z, t, bandwidth)
    h.backward(UPSTREAM)
    near = ((Z - 0.4).abs() < bandwidth / 2).double()
    assert torch.equal(h.detach(), (Z > 0.4).double())
    assert z.grad is None
    torch.testing.assert_close(t.grad, -UPSTREAM / bandwidth * near)


def test_the_estimator_is_the_slope_of_the_expected_loss() -> None:
    """For z spread evenly around θ, its mean is dE[H(z − θ)]/dθ = −p(θ) (the paper's eq. 13)."""
    z = torch.linspace(-5, 5, 200_001, dtype=torch.float64)
    density = 1 / 10
    t = torch.full_like(z, 0.7).requires_grad_()
    step(z, t, 0.05).mean().backward()
    assert t.grad is not None
    assert float(t.grad.sum()) == pytest.approx(-density, rel=1e-3)


def test_the_rectangle_has_area_one() -> None:
    area = rectangle(Z, torch.zeros_like(Z), 1.0).sum() * float(Z[1] - Z[0])
    assert float(area) == pytest.approx(1.0, abs=0.06)
