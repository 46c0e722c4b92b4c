"""How far silent latents are below their thresholds, in plain torch, one tile at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from monoscope.ops.select import TILE


class _PreactGap(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, b, c, theta):  # type: ignore[no-untyped-def]
        gap, short, pulled = b.new_zeros(len(b)), b.new_zeros(len(b)), torch.zeros_like(w)
        for tile in x.split(TILE):
            centred = tile - c
            below = theta - torch.addmm(b, centred, w.T)
            open_ = (below > 0).to(w.dtype)
            gap += (below * open_).sum(0)
            short += open_.sum(0)
            pulled.addmm_(open_.T, centred)
        ctx.save_for_backward(w, short, pulled)
        return gap

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        w, short, pulled = ctx.saved_tensors
        counts = grad * short
        return None, -grad[:, None] * pulled, -counts, counts @ w, counts


def preact_gap(x: Tensor, w_enc: Tensor, b_enc: Tensor, b_dec: Tensor, theta: Tensor) -> Tensor:
    """Σ_n max(θ_i − z_ni, 0) for each latent, [L]; differentiable in all but x [N, D].

    z = (x − b_dec) W_encᵀ + b_enc exists one tile at a time, in the backward pass too.
    """
    out: Tensor = _PreactGap.apply(x, w_enc, b_enc, b_dec, theta)
    return out
