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


@njit(**_FAST)
def _add_rows(out, values, rows, w):  # type: ignore[no-untyped-def]
    """out += Σ values[e] w[rows[e]]; four rows at a time, so that out is read and written less."""
    e, n = 0, rows.shape[0]
    while e + 4 <= n:
        c0, c1, c2, c3 = values[e], values[e + 1], values[e + 2], values[e + 3]
        w0, w1, w2, w3 = w[rows[e]], w[rows[e + 1]], w[rows[e + 2]], w[rows[e + 3]]
        for d in range(out.shape[0]):
            out[d] += c0 * w0[d] + c1 * w1[d] + c2 * w2[d] + c3 * w3[d]
        e += 4
    while e < n:
        c0, w0 = values[e], w[rows[e]]
        for d in range(out.shape[0]):
            out[d] += c0 * w0[d]
        e += 1


@njit(**_FAST)
def _dots(x, rows, w, out):  # type: ignore[no-untyped-def]
    """out[e] = x·w[rows[e]]; four rows at a time, so that x is read less.

    What is left over at the end goes in fours too: a value does not depend on where it stands.
    """
    n = rows.shape[0]
    for e in range(0, n, 4):
        w0, w1 = w[rows[e]], w[rows[min(e + 1, n - 1)]]
        w2, w3 = w[rows[min(e + 2, n - 1)]], w[rows[min(e + 3, n - 1)]]
        s0 = s1 = s2 = s3 = np.float32(0)
        for d in range(x.shape[0]):
            s0 += x[d] * w0[d]
            s1 += x[d] * w1[d]
            s2 += x[d] * w2[d]
            s3 += x[d] * w3[d]
        out[e] = s0
        if e + 1 < n:
            out[e + 1] = s1
        if e + 2 < n:
            out[e + 2] = s2
        if e + 3 < n:
            out[e + 3] = s3


@njit(parallel=True, **_FAST)
def _decode(indices, values, offsets, w, out):  # type: ignore[no-untyped-def]
    for n in prange(out.shape[0]):
        here, end = offsets[n], offsets[n + 1]
        _add_rows(out[n], values[here:end], indices[here:end], w)


@njit(parallel=True, **_FAST)
def _entry_dots(g, indices, offsets, w, out):  # type: ignore[no-untyped-def]
    for n in prange(g.shape[0]):
        here, end = offsets[n], offsets[n + 1]
        _dots(g[n], indices[here:end], w, out[here:end])


@njit(cache=True, nogil=True)
def _by_latent(indices, offsets, values, n_latents):  # type: ignore[no-untyped-def]
    """Counting sort of the entries by latent: starts [L+1], value and token of each [nnz]."""
    starts = np.zeros(n_latents + 1, np.int64)
    for i in indices:
        starts[i + 1] += 1
    for i in range(n_latents):
        starts[i + 1] += starts[i]
    cursor = starts[:-1].copy()
    ordered = np.empty(indices.shape[0], values.dtype)
    token = np.empty(indices.shape[0], np.int64)
    for n in range(offsets.shape[0] - 1):
        for e in range(offsets[n], offsets[n + 1]):
            at = cursor[indices[e]]
            cursor[indices[e]] = at + 1
            ordered[at] = values[e]
            token[at] = n
    return starts, ordered, token


@njit(parallel=True, **_FAST)
def _row_sums(starts, values, token, g, out):  # type: ignore[no-untyped-def]
    for i in prange(out.shape[0]):
        here, end = starts[i], starts[i + 1]
        _add_rows(out[i], values[here:end], token[here:end], g)


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
    entries = _by_latent(_np(codes.indices), _np(codes.offsets), _np(coefficients), codes.d_sae)
    _row_sums(*entries, _np(g), out.numpy())
    return out
