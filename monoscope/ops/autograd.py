"""Encode and decode over a chosen set of latents, differentiable at sparse cost.

The choice of latents is made outside (select.py, cpu.py) and carries no gradient; these functions
give the gradients of the values and of the reconstruction, which only the chosen entries have.
Inside a `with RowGrads()` block the gradients of weight matrices go there as factors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from monoscope.ops import backend
from monoscope.ops.codes import SparseCodes
from monoscope.ops.decode import latent_sums
from monoscope.ops.rowgrads import Factor, RowGrads, one_entry_each, open_grads


def _keep_leaf(ctx: Any, weight: Tensor) -> None:
    """Note the RowGrads that is open, where `weight` is a parameter and not computed from one."""
    ctx.grads = open_grads() if weight.is_leaf else None
    ctx.weight = weight if ctx.grads is not None else None


def _row_gradient(ctx: Any, weight: Tensor, factor: Factor) -> Tensor | None:
    """The factor's sums as a tensor [L, D], or None once it is handed to the open RowGrads."""
    grads: RowGrads | None = ctx.grads
    if grads is not None:
        grads.add(ctx.weight, factor)
        return None
    sums: Tensor = backend(weight, factor.codes).row_sums(
        factor.codes, factor.coefficients, factor.rows
    )
    return sums


class _EncodeValues(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w_enc: Tensor, b_enc: Tensor, b_dec: Tensor, codes: SparseCodes
    ) -> Tensor:
        ctx.save_for_backward(x, w_enc, b_dec)
        ctx.codes = codes
        _keep_leaf(ctx, w_enc)
        return codes.values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w_enc, b_dec = ctx.saved_tensors
        codes: SparseCodes = ctx.codes
        grad_b_enc = latent_sums(codes, grad)
        grad_w = None
        if ctx.needs_input_grad[1]:
            grad_w = _row_gradient(ctx, w_enc, Factor(codes, grad, x - b_dec))
        return None, grad_w, grad_b_enc, -(grad_b_enc @ w_enc), None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, w_dec: Tensor, codes: SparseCodes) -> Tensor:
        ctx.save_for_backward(values, w_dec)
        ctx.codes = codes
        _keep_leaf(ctx, w_dec)
        out: Tensor = backend(w_dec, codes).decode(codes.with_values(values), w_dec)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, w_dec = ctx.saved_tensors
        ops = backend(w_dec, ctx.codes)
        grad = grad.contiguous()
        grad_values = ops.entry_dots(grad, ctx.codes, w_dec) if ctx.needs_input_grad[0] else None
        grad_w = None
        if ctx.needs_input_grad[1]:
            grad_w = _row_gradient(ctx, w_dec, Factor(ctx.codes, values, grad))
        return grad_values, grad_w, None


class _TakeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.n_rows = weight.shape[0]
        _keep_leaf(ctx, weight)
        return weight[ids]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (ids,) = ctx.saved_tensors
        codes = one_entry_each(ids, ctx.n_rows)
        factor = Factor(codes, codes.values.to(grad.dtype), grad.contiguous())
        return _row_gradient(ctx, grad, factor), None


class _SquaredDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, x_hat: Tensor) -> Tensor:
        error = x_hat - x
        ctx.save_for_backward(error)
        return torch.linalg.vecdot(error, error).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (error,) = ctx.saved_tensors
        return None, error * (2 * grad)


class _HuberDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, x_hat: Tensor, share: float) -> tuple[Tensor, Tensor]:
        error = x_hat - x
        squares = torch.linalg.vecdot(error, error)
        norms = squares.sqrt().clamp_min(torch.finfo(squares.dtype).tiny)
        pull = (share * norms.median() / norms).clamp_max(1)
        ctx.save_for_backward(error, pull)
        squared = squares.sum()
        ctx.mark_non_differentiable(squared)
        return torch.dot(squares, pull * (2 - pull)), squared

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        error, pull = ctx.saved_tensors
        return None, error * (2 * grad * pull).unsqueeze(1), None


class _NestedDistances(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, parts: Tensor, b_dec: Tensor) -> tuple[Tensor, Tensor]:
        errors = torch.empty_like(parts)
        torch.add(parts[0], b_dec - x, out=errors[0])
        for m in range(1, len(parts)):
            torch.add(errors[m - 1], parts[m], out=errors[m])
        ctx.save_for_backward(errors)
        x_hat = x + errors[-1]
        ctx.mark_non_differentiable(x_hat)
        return torch.stack([torch.linalg.vecdot(error, error).sum() for error in errors]), x_hat

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (errors,) = ctx.saved_tensors
        slopes = torch.empty_like(errors)  # part m is in every level from m on
        torch.mul(errors[-1], 2 * grad[-1], out=slopes[-1])
        for m in range(len(errors) - 2, -1, -1):
            torch.addcmul(slopes[m + 1], errors[m], 2 * grad[m], out=slopes[m])
        return None, slopes, slopes[0].sum(0)


def take_rows(weight: Tensor, ids: Tensor) -> Tensor:
    """weight[ids] for distinct ids [n], whose gradient costs no more than those rows."""
    rows: Tensor = _TakeRows.apply(weight, ids)
    return rows


def squared_distance(x: Tensor, x_hat: Tensor) -> Tensor:
    """Σ‖x − x̂‖² over all tokens; x is data and gets no gradient."""
    out: Tensor = _SquaredDistance.apply(x.detach(), x_hat)
    return out


def huber_distance(x: Tensor, x_hat: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Σ h(‖x − x̂‖) over all tokens, and Σ‖x − x̂‖², which carries no gradient; x gets none.

    h(r) = r² up to δ and δ(2r − δ) beyond (Huber 1964), where the gradient is no longer than at δ;
    δ = share × the median of ‖x − x̂‖ over the batch, taken as a constant.
    """
    loss, squared = _HuberDistance.apply(x.detach(), x_hat, share)
    return loss, squared


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


def nested_distances(x: Tensor, parts: Tensor, b_dec: Tensor) -> tuple[Tensor, Tensor]:
    """d [P] with d_m = Σ‖x − x̂_m‖² for x̂_m = b_dec + parts_0 + … + parts_m, and the last x̂_m.

    x [N, D], parts [P, N, D]. x̂ [N, D] carries no gradient.
    """
    distances, x_hat = _NestedDistances.apply(x, parts, b_dec)
    return distances, x_hat
