"""One Adam step on weight rows, as plain torch: the reference of the fused walk in cpu_adam.py.

For the gradient G of W [L, D] (Kingma & Ba 2015, algorithm 1):
    unit rows first drop the component along the row    G_i ← G_i − (G_i·W_i) W_i    (Bricken 2023)
    m ← β₁m + (1−β₁)G,  v ← β₂v + (1−β₂)G²,  W ← W − η·m/(1−β₁ᵗ) / (√(v/(1−β₂ᵗ)) + ε)
    and are set back to norm 1 afterwards               W_i ← W_i / ‖W_i‖
Rows without gradient move too: Adam's momentum does not stop when a latent falls silent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_NORM = 1e-12


@dataclass(frozen=True)
class AdamStep:
    """The constants of one step: η, β₁, β₂, ε, t ≥ 1; scale multiplies the gradient (clipping)."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    t: int
    scale: float = 1.0

    @property
    def step_size(self) -> float:
        """η / (1 − β₁ᵗ)."""
        return self.lr / (1 - self.beta1**self.t)

    @property
    def root_scale(self) -> float:
        """1 / √(1 − β₂ᵗ), which √v is multiplied by."""
        return float((1 - self.beta2**self.t) ** -0.5)


def project_rows(grad: Tensor, w: Tensor) -> Tensor:
    """grad [L, D] without its component along each unit row of w, in place."""
    return grad.sub_(w * (grad * w).sum(1, keepdim=True))


@torch.no_grad()
def adam_rows(
    w: Tensor, grad: Tensor | None, m: Tensor, v: Tensor, step: AdamStep, *, unit: bool = False
) -> None:
    """The step above on w, m, v, in place; grad None counts as 0; grad may be overwritten."""
    if grad is None:
        grad = torch.zeros_like(w)
    if unit:
        grad = project_rows(grad, w)
    if step.scale != 1.0:
        grad = grad.mul_(step.scale)
    m.lerp_(grad, 1 - step.beta1)
    v.mul_(step.beta2).addcmul_(grad, grad, value=1 - step.beta2)
    w.addcdiv_(m, v.sqrt().mul_(step.root_scale).add_(step.eps), value=-step.step_size)
    if unit:
        w.div_(w.norm(dim=1, keepdim=True).clamp_min(SMALLEST_NORM))
