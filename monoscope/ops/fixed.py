"""Ops whose shapes depend on no value, so that a step of them can be captured as a CUDA graph.

Codes here are padded: they have k entries a token, or k·N a batch, and those that hold nothing have
index L and value 0. Nothing is read back by the host: what must be known later (whether a choice is
proved, the smallest kept value) stays a tensor. Plain torch, the reference of cuda.py's kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from monoscope.ops import decode as reference
from monoscope.ops.adam import SMALLEST_NORM, AdamStep, project_rows
from monoscope.ops.codes import SparseCodes

if TYPE_CHECKING:
    from monoscope.ops.rowgrads import Factor

N_CONSTANTS = 8


def constants_of(step: AdamStep) -> tuple[float, ...]:
    """What a step of Adam is told by numbers on the device.

    scale, step size, β₁, β₂, 1/√(1−β₂ᵗ), ε, the smallest norm; last 1, or 0 to change nothing.
    """
    values = (step.scale, step.step_size, step.beta1, step.beta2, step.root_scale, step.eps)
    return (*values, SMALLEST_NORM, 1.0)


def _inside(codes: SparseCodes) -> tuple[Tensor, Tensor]:
    """Rows of a weight matrix that may be read for each entry, and which entries hold something."""
    return codes.indices.clamp_max(codes.d_sae - 1).long(), codes.indices < codes.d_sae


def _full(codes: SparseCodes, values: Tensor) -> SparseCodes:
    rows, held = _inside(codes)
    values = torch.where(held, values, 0.0)
    return SparseCodes(rows.to(torch.int32), values, codes.offsets, codes.d_sae)


def decode(codes: SparseCodes, w: Tensor) -> Tensor:
    """As decode.decode, for padded codes."""
    return reference.decode(_full(codes, codes.values), w)


def entry_dots(g: Tensor, codes: SparseCodes, w: Tensor) -> Tensor:
    """As decode.entry_dots, for padded codes; 0 where an entry holds nothing."""
    dots = reference.entry_dots(g, _full(codes, codes.values), w)
    return torch.where(codes.indices < codes.d_sae, dots, 0.0)


def row_sums(codes: SparseCodes, coefficients: Tensor, g: Tensor) -> Tensor:
    """As decode.row_sums, for padded codes."""
    full = _full(codes, coefficients)
    return reference.row_sums(full, full.values, g)


def topk_slots(values: Tensor, columns: Tensor, k: int, d_sae: int) -> SparseCodes:
    """The k largest positive values of each row in k entries; the first win among equals.

    values, columns [N, C], columns ascending in each row where the values are positive.
    """
    short = k - values.shape[1]
    if short > 0:
        values = torch.nn.functional.pad(values, (0, short))
        columns = torch.nn.functional.pad(columns, (0, short))
    order = values.argsort(dim=1, descending=True, stable=True)[:, :k].sort(dim=1).values
    best, where = values.gather(1, order), columns.gather(1, order).to(torch.int32)
    empty = ~(best > 0)
    where = torch.where(empty, d_sae, where).to(torch.int32)
    where, order = where.sort(dim=1, stable=True)  # those that hold nothing go last
    best = torch.where(empty, 0.0, best).gather(1, order)
    offsets = torch.arange(len(values) + 1, device=values.device) * k
    return SparseCodes(where.flatten(), best.flatten(), offsets, d_sae, padded=True)


def kth_largest(values: Tensor, k: int) -> Tensor:
    """The k-th largest of values >= 0, or 0 if fewer are positive; float32, by bits, exactly."""
    bits = values.view(torch.int32)  # ascends with the value where that is not negative
    t = torch.zeros((), dtype=torch.int32, device=values.device)
    for bit in range(30, -1, -1):
        more = t + (1 << bit)
        t = torch.where((bits >= more).sum() >= k, more, t)
    return t.view(torch.float32)


def batch_slots(
    values: Tensor, columns: Tensor, count: int, d_sae: int
) -> tuple[SparseCodes, Tensor]:
    """The `count` largest positive values of all [N, C]; the first win among equals.

    Entries that hold nothing come last and are counted to the last token. Returns the codes and the
    smallest kept value, 0 if there are fewer than `count`.
    """
    n, width = values.shape
    values = values.clamp_min(0.0).flatten()
    least = kth_largest(values, count)
    over, equal = values > least, (values == least) & (least > 0)
    take = over | (equal & (equal.cumsum(0) <= count - over.sum()))
    place = torch.where(take, take.cumsum(0) - 1, count)  # the last slot is thrown away
    indices = torch.full((count + 1,), d_sae, dtype=torch.int32, device=values.device)
    indices.scatter_(0, place, torch.where(take, columns.flatten().to(torch.int32), d_sae))
    kept = values.new_zeros(count + 1).scatter_(0, place, torch.where(take, values, 0.0))
    ends = take.reshape(n, width).sum(1).cumsum(0)
    offsets = torch.cat([ends.new_zeros(1), ends[:-1], ends.new_full((1,), count)])
    return SparseCodes(indices[:-1], kept[:-1], offsets, d_sae, padded=True), least


@torch.no_grad()
def adam_rows(
    w: Tensor, factors: Sequence[Factor], dense: Tensor | None, m: Tensor, v: Tensor,
    constants: Tensor, *, unit: bool = False,
) -> None:  # fmt: skip
    """As adam.adam_rows with the numbers of constants_of [8] as a tensor, for padded factors."""
    scale, step_size, beta1, beta2, root_scale, eps, smallest, go = constants.unbind()
    grad = torch.zeros_like(w) if dense is None else dense.clone()
    for factor in factors:
        grad += row_sums(factor.codes, factor.coefficients, factor.rows)
    if unit:
        grad = project_rows(grad, w)
    grad *= scale
    first = beta1 * m + (1 - beta1) * grad
    second = beta2 * v + (1 - beta2) * grad * grad
    new = w - step_size * first / (second.sqrt() * root_scale + eps)
    if unit:
        new = new / torch.maximum(new.norm(dim=1, keepdim=True), smallest)
    for old, now in ((w, new), (m, first), (v, second)):
        old.copy_(torch.where(go > 0, now, old))
