"""Straight-through estimators: pseudo-gradients through the jump of JumpReLU.

With the rectangle K(u) = 1[|u| < 1/2] of bandwidth ε (Rajamanoharan 2024, eqs. 11 and 12):
    jump  z·H(z − θ)    ∂/∂z = H(z − θ)    ∂/∂θ := −(θ/ε)·K((z − θ)/ε)
    step  H(z − θ)      ∂/∂z := 0          ∂/∂θ := −(1/ε)·K((z − θ)/ε)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def rectangle(z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
    """K((z − θ)/ε), as numbers of z's dtype."""
    return ((z - theta).abs() < bandwidth / 2).to(z.dtype)


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, theta)
        ctx.bandwidth = bandwidth
        return torch.where(z > theta, z, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        z, theta = ctx.saved_tensors
        near = rectangle(z, theta, ctx.bandwidth)
        return grad * (z > theta), -grad * near * theta / ctx.bandwidth, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, theta)
        ctx.bandwidth = bandwidth
        return (z > theta).to(z.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        z, theta = ctx.saved_tensors
        return None, -grad * rectangle(z, theta, ctx.bandwidth) / ctx.bandwidth, None


def jump(z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
    """z where it exceeds θ, else 0; z, theta of one shape, bandwidth ε > 0."""
    out: Tensor = _Jump.apply(z, theta, bandwidth)
    return out


def step(z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
    """1 where z exceeds θ, else 0; z, theta of one shape, bandwidth ε > 0."""
    out: Tensor = _Step.apply(z, theta, bandwidth)
    return out
