"""Encode and decode over a chosen set of latents, differentiable at sparse cost.

The choice of latents is made outside (select.py, cpu.py) and carries no gradient; these functions
give the gradients of the values and of the reconstruction, which only the chosen entries have.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from monoscope.ops import backend
from monoscope.ops.codes import SparseCodes
from monoscope.ops.decode import latent_sums


class _EncodeValues(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w_enc: Tensor, b_enc: Tensor, b_dec: Tensor, codes: SparseCodes
    ) -> Tensor:
        ctx.save_for_backward(x, w_enc, b_dec)
        ctx.codes = codes
        return codes.values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w_enc, b_dec = ctx.saved_tensors
        codes: SparseCodes = ctx.codes
        grad_b_enc = latent_sums(codes, grad)
        grad_w = backend(x).row_sums(codes, grad, x)  # Σ g (x - b_dec), the second part as rank one
        grad_w.addr_(grad_b_enc, b_dec, alpha=-1.0)
        return None, grad_w, grad_b_enc, -(grad_b_enc @ w_enc), None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, w_dec: Tensor, codes: SparseCodes) -> Tensor:
        ctx.save_for_backward(values, w_dec)
        ctx.codes = codes
        out: Tensor = backend(w_dec).decode(codes.with_values(values), w_dec)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, w_dec = ctx.saved_tensors
        ops = backend(w_dec)
        grad = grad.contiguous()
        grad_values = ops.entry_dots(grad, ctx.codes, w_dec) if ctx.needs_input_grad[0] else None
        grad_w = ops.row_sums(ctx.codes, values, grad) if ctx.needs_input_grad[1] else None
        return grad_values, grad_w, None


def encode_values(
    x: Tensor, w_enc: Tensor, b_enc: Tensor, b_dec: Tensor, codes: SparseCodes
) -> Tensor:
    """codes.values [nnz] as a function of the encoder: v = w_enc[i]·(x[n] − b_dec) + b_enc[i].

    x [N, D] is data and gets no gradient. The entries must be those where the ReLU is open (v > 0).
    """
    values: Tensor = _EncodeValues.apply(x, w_enc, b_enc, b_dec, codes)
    return values


def decode_values(values: Tensor, w_dec: Tensor, codes: SparseCodes) -> Tensor:
    """Reconstruction [N, D] without bias: Σ v · w_dec[i], differentiable in values and w_dec."""
    out: Tensor = _Decode.apply(values, w_dec, codes)
    return out
