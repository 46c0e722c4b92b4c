"""Gradients of weight rows, kept as sparse factors until an optimiser walks the rows.

The gradient of W [L, D] in a sparse step is Σ c_e · r[n] over the entries e = (n, i) of a few
codes. Written out it is as large as W and is read once; kept as (codes, c, r) it is as large as the
batch. Inside `with RowGrads() as grads:` the functions of autograd.py hand over such factors
instead of tensors, and W.grad holds only what other terms of the loss gave.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from dataclasses import dataclass

import torch
from torch import Tensor

from monoscope.ops import backend
from monoscope.ops.codes import SparseCodes

_OPEN: ContextVar[RowGrads | None] = ContextVar("open_row_grads", default=None)


@dataclass(frozen=True)
class Factor:
    """G_i = Σ coefficients_e · rows[n] over the entries e = (n, i) of codes; rows [N, D]."""

    codes: SparseCodes
    coefficients: Tensor
    rows: Tensor

    def scaled(self, by: Tensor) -> Factor:
        """The same times a scalar."""
        return Factor(self.codes, self.coefficients * by, self.rows)


class RowGrads:
    """The factors of every weight's gradient, gathered during one backward pass."""

    def __init__(self) -> None:
        self._factors: dict[int, list[Factor]] = {}  # by id of the weight
        self._token: Token[RowGrads | None] | None = None

    def __enter__(self) -> RowGrads:
        self._token = _OPEN.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._token is not None
        _OPEN.reset(self._token)

    def add(self, weight: Tensor, factor: Factor) -> None:
        self._factors.setdefault(id(weight), []).append(factor)

    def of(self, weight: Tensor) -> list[Factor]:
        """The factors of one weight's gradient, in the order they came."""
        return self._factors.get(id(weight), [])

    def dense(self, weight: Tensor) -> Tensor | None:
        """The whole gradient [L, D], weight.grad included; None if there is none. The reference."""
        total = None if weight.grad is None else weight.grad.clone()
        for factor in self.of(weight):
            ops = backend(weight, factor.codes)
            sums: Tensor = ops.row_sums(factor.codes, factor.coefficients, factor.rows)
            total = sums if total is None else total.add_(sums)
        return total


def open_grads() -> RowGrads | None:
    """The RowGrads whose `with` block is running, if any."""
    return _OPEN.get()


def one_entry_each(ids: Tensor, d_sae: int) -> SparseCodes:
    """Codes in which token n has the one latent ids[n]: a block of rows as a Factor's codes."""
    ones = torch.ones(ids.numel(), device=ids.device)
    offsets = torch.arange(ids.numel() + 1, device=ids.device)
    return SparseCodes(ids.to(torch.int32), ones, offsets, d_sae)
