"""The Adam step on a CPU: one walk over the rows that sums, projects, clips, descends and rescales.

A row's gradient is summed from its sparse factors in a buffer that stays in the first-level cache
and is used up at once, so no gradient matrix exists: the walk reads and writes W, m and v once, and
a step's memory is that of the weights and moments alone. Same results on any number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from monoscope.ops.adam import SMALLEST_NORM, AdamStep
from monoscope.ops.codes import SparseCodes
from monoscope.ops.cpu import _FAST, _add_rows, _by_latent, _np, use_torch_threads
from monoscope.ops.rowgrads import Factor

ROWS = 16  # rows a thread takes at a time
_NO_ROWS = np.zeros((0, 0), np.float32)


@njit(error_model="numpy", **_FAST)
def _gradient(i, starts, values, token, rows, dense, w_row, unit, out):  # type: ignore[no-untyped-def]
    """Row i of the gradient into out; returns its squared norm."""
    for d in range(out.shape[0]):
        out[d] = np.float32(0)
    if dense.shape[0] > 0:
        dense_row = dense[i]
        for d in range(out.shape[0]):
            out[d] = dense_row[d]
    here, end = starts[i], starts[i + 1]
    _add_rows(out, values[here:end], token[here:end], rows)
    if unit:
        along = np.float32(0)
        for d in range(out.shape[0]):
            along += out[d] * w_row[d]
        for d in range(out.shape[0]):
            out[d] -= along * w_row[d]
    squared = np.float32(0)
    for d in range(out.shape[0]):
        squared += out[d] * out[d]
    return squared


@njit(error_model="numpy", **_FAST)
def _descend(g, w, m, v, scale, step_size, beta1, beta2, root_scale, eps):  # type: ignore[no-untyped-def]
    for d in range(g.shape[0]):
        slope = g[d] * scale
        m[d] = beta1 * m[d] + (np.float32(1) - beta1) * slope
        v[d] = beta2 * v[d] + (np.float32(1) - beta2) * slope * slope
        w[d] -= step_size * m[d] / (np.sqrt(v[d]) * root_scale + eps)


@njit(error_model="numpy", **_FAST)
def _to_unit(w, smallest):  # type: ignore[no-untyped-def]
    squared = np.float32(0)
    for d in range(w.shape[0]):
        squared += w[d] * w[d]
    by = np.float32(1) / max(np.sqrt(squared), smallest)
    for d in range(w.shape[0]):
        w[d] *= by


@njit(parallel=True, error_model="numpy", **_FAST)
def _walk(  # type: ignore[no-untyped-def]
    starts, values, token, rows, dense, w, m, v, constants, unit
):
    n, width = w.shape
    scale, step_size, beta1, beta2, root_scale, eps, smallest = constants
    for chunk in prange((n + ROWS - 1) // ROWS):
        g = np.empty(width, np.float32)
        for i in range(chunk * ROWS, min((chunk + 1) * ROWS, n)):
            _gradient(i, starts, values, token, rows, dense, w[i], unit, g)
            _descend(g, w[i], m[i], v[i], scale, step_size, beta1, beta2, root_scale, eps)
            if unit:
                _to_unit(w[i], smallest)


@njit(parallel=True, error_model="numpy", **_FAST)
def _squared_norms(starts, values, token, rows, dense, w, unit, out):  # type: ignore[no-untyped-def]
    n, width = w.shape
    for chunk in prange((n + ROWS - 1) // ROWS):
        g = np.empty(width, np.float32)
        for i in range(chunk * ROWS, min((chunk + 1) * ROWS, n)):
            out[i] = _gradient(i, starts, values, token, rows, dense, w[i], unit, g)


def _one(factors: Sequence[Factor], d_sae: int, width: int) -> tuple[Any, ...]:
    """Σ factors as the kernels take it: entries grouped by latent, tokens numbering `rows`."""
    if not factors:
        return (np.zeros(d_sae + 1, np.int64), np.zeros(0, np.float32), np.zeros(0, np.int64),
                np.zeros((0, width), np.float32))  # fmt: skip
    codes = SparseCodes.concat([f.codes for f in factors])
    coefficients = torch.cat([f.coefficients for f in factors])
    rows = factors[0].rows if len(factors) == 1 else torch.cat([f.rows for f in factors])
    entries = _by_latent(_np(codes.indices), _np(codes.offsets), _np(coefficients), d_sae)
    return (*entries, _np(rows))


def _constants(step: AdamStep) -> tuple[Any, ...]:
    values = (step.scale, step.step_size, step.beta1, step.beta2, step.root_scale, step.eps)
    return tuple(np.float32(value) for value in (*values, SMALLEST_NORM))


def adam_rows(
    w: Tensor, factors: Sequence[Factor], dense: Tensor | None, m: Tensor, v: Tensor,
    step: AdamStep, *, unit: bool = False,
) -> None:  # fmt: skip
    """As adam.adam_rows, for the gradient dense + Σ factors; w, m, v [L, D] change in place."""
    use_torch_threads()
    more = _NO_ROWS if dense is None else _np(dense)
    with numba.parallel_chunksize(8):
        _walk(*_one(factors, *w.shape), more, w.detach().numpy(), m.numpy(), v.numpy(),
              _constants(step), unit)  # fmt: skip


def squared_norm(
    w: Tensor, factors: Sequence[Factor], dense: Tensor | None, *, unit: bool = False
) -> float:
    """Σ G² of the gradient dense + Σ factors, projected if unit: what clipping needs to know."""
    use_torch_threads()
    out = np.empty(w.shape[0], np.float32)
    more = _NO_ROWS if dense is None else _np(dense)
    _squared_norms(*_one(factors, *w.shape), more, w.detach().numpy(), unit, out)
    return float(out.sum(dtype=np.float64))
