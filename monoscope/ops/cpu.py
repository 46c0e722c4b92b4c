"""The sparse ops on a CPU: numba loops over codes, with the signatures of decode.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from monoscope.ops.codes import SparseCodes

TILE = 256
_FAST = {"fastmath": {"reassoc", "contract", "nsz"}, "cache": True, "nogil": True}


def use_torch_threads() -> None:
    """Give numba as many threads as torch has been given."""
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))


def _np(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().contiguous().numpy()


@njit(parallel=True, **_FAST)
def _decode(indices, values, offsets, w, out):  # type: ignore[no-untyped-def]
    for n in prange(out.shape[0]):
        row = out[n]
        for e in range(offsets[n], offsets[n + 1]):
            v, w_row = values[e], w[indices[e]]
            for d in range(row.shape[0]):
                row[d] += v * w_row[d]


@njit(parallel=True, **_FAST)
def _entry_dots(g, indices, offsets, w, out):  # type: ignore[no-untyped-def]
    for n in prange(g.shape[0]):
        g_row = g[n]
        for e in range(offsets[n], offsets[n + 1]):
            w_row = w[indices[e]]
            s = np.float32(0)
            for d in range(g_row.shape[0]):
                s += g_row[d] * w_row[d]
            out[e] = s


@njit(cache=True, nogil=True)
def _by_latent(indices, offsets, n_latents):  # type: ignore[no-untyped-def]
    """Counting sort of the entries by latent: starts [L+1], entry order and token of each [nnz]."""
    starts = np.zeros(n_latents + 1, np.int64)
    for i in indices:
        starts[i + 1] += 1
    for i in range(n_latents):
        starts[i + 1] += starts[i]
    cursor = starts[:-1].copy()
    order = np.empty(indices.shape[0], np.int64)
    token = np.empty(indices.shape[0], np.int64)
    for n in range(offsets.shape[0] - 1):
        for e in range(offsets[n], offsets[n + 1]):
            at = cursor[indices[e]]
            cursor[indices[e]] = at + 1
            order[at] = e
            token[at] = n
    return starts, order, token


@njit(parallel=True, **_FAST)
def _row_sums(starts, order, token, coefficients, g, out):  # type: ignore[no-untyped-def]
    for i in prange(out.shape[0]):
        row = out[i]
        for at in range(starts[i], starts[i + 1]):
            c, g_row = coefficients[order[at]], g[token[at]]
            for d in range(row.shape[0]):
                row[d] += c * g_row[d]


def _is_dense(codes: SparseCodes) -> bool:
    """Whether a dense product over tiles is quicker than loops (measured: above ~5 %)."""
    return codes.indices.numel() > 0.05 * codes.n_tokens * codes.d_sae


def _dense_tiles(codes: SparseCodes) -> Iterator[tuple[slice, Tensor]]:
    for at in range(0, codes.n_tokens, TILE):
        tile = slice(at, min(at + TILE, codes.n_tokens))
        yield tile, codes.tokens(tile).to_dense()


def decode(codes: SparseCodes, w: Tensor) -> Tensor:
    """As decode.decode."""
    if _is_dense(codes):
        return torch.cat([f @ w.detach() for _, f in _dense_tiles(codes)])
    out = torch.zeros(codes.n_tokens, w.shape[1])
    _decode(_np(codes.indices), _np(codes.values), _np(codes.offsets), _np(w), out.numpy())
    return out


def entry_dots(g: Tensor, codes: SparseCodes, w: Tensor) -> Tensor:
    """As decode.entry_dots."""
    if _is_dense(codes):
        w = w.detach()
        tiles = range(0, codes.n_tokens, TILE)
        parts = [(codes.tokens(slice(at, at + TILE)), g[at : at + TILE] @ w.T) for at in tiles]
        return torch.cat([scores[c.rows, c.indices.long()] for c, scores in parts])
    out = torch.empty(codes.indices.numel())
    _entry_dots(_np(g), _np(codes.indices), _np(codes.offsets), _np(w), out.numpy())
    return out


def row_sums(codes: SparseCodes, coefficients: Tensor, g: Tensor) -> Tensor:
    """As decode.row_sums; sums run in token order, so they are the same on any thread count."""
    out = torch.zeros(codes.d_sae, g.shape[1])
    if _is_dense(codes):
        for tile, f in _dense_tiles(codes.with_values(coefficients)):
            out.addmm_(f.T, g[tile])
        return out
    starts, order, token = _by_latent(_np(codes.indices), _np(codes.offsets), codes.d_sae)
    _row_sums(starts, order, token, _np(coefficients), _np(g), out.numpy())
    return out
