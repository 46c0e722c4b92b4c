"""The fast path on a CPU: numba loops over sparse codes, as decode.py and select.py have them.

Selection finds candidates in bf16 and proves them: for ẑ computed from bf16 copies x̂, ŵ,
    |z − ẑ| ≤ ‖x − x̂‖·‖ŵ‖ + ‖x‖·‖w − ŵ‖ + rounding(ẑ)                  (Cauchy–Schwarz)
so every latent whose exact z is among the k largest has ẑ within twice that margin of the k-th
largest ẑ. Only those few are computed in fp32, and the exact k largest of them are kept: the chosen
set and the values are those of the fp32 reference (up to the order of the additions in a dot
product).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from monoscope.ops import select
from monoscope.ops.codes import SparseCodes

TILE = 256
ROOM = 1024  # candidates a token may have before it is handed to the fp32 reference
BLOCK = 32  # latents whose largest ẑ is found together
BF16_ULP = 2.0**-8  # relative distance of neighbouring bf16 numbers
_FAST = {"fastmath": {"reassoc", "contract", "nsz"}, "cache": True, "nogil": True}


def use_torch_threads() -> None:
    """Give numba as many threads as torch has been given."""
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))


def _np(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().contiguous().numpy()


# ---------------------------------------------------------------- decode and its gradients


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


# ---------------------------------------------------------------- selection


@njit(cache=True, nogil=True)
def _kth_largest(values, n, k):  # type: ignore[no-untyped-def]
    """The k-th largest of values[:n], by quickselect in place."""
    low, high, target = 0, n - 1, k - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if target <= j:
            high = j
        elif target >= i:
            low = i
        else:
            break
    return values[target]


@njit(**_FAST)
def _dot(x, w):  # type: ignore[no-untyped-def]
    s = np.float32(0)
    for d in range(x.shape[0]):
        s += x[d] * w[d]
    return s


@njit(cache=True, nogil=True)
def _gather_above(bits, block_max, cut, out, room):  # type: ignore[no-untyped-def]
    """Write the columns with ẑ >= cut into out; returns how many, or -1 if over room."""
    if cut <= 0:  # where bf16 leaves the sign open, small negative ẑ are candidates too
        return _gather_near_zero(bits, cut, out, room)
    cut_bits = _to_bits(cut)
    n = 0
    for b in range(block_max.shape[0]):
        if block_max[b] >= cut_bits:
            for i in range(b * BLOCK, min((b + 1) * BLOCK, bits.shape[0])):
                if bits[i] >= cut_bits:
                    if n == room:
                        return -1
                    out[n] = i
                    n += 1
    return n


@njit(cache=True, nogil=True)
def _block_maxima(bits, out):  # type: ignore[no-untyped-def]
    for b in range(out.shape[0]):
        top = np.int16(-32768)
        for i in range(b * BLOCK, min((b + 1) * BLOCK, bits.shape[0])):
            top = max(top, bits[i])
        out[b] = top


@njit(cache=True, nogil=True)
def _to_float(bits):  # type: ignore[no-untyped-def]
    """The value of a non-negative bf16 from its bits as int16 (ordered as the values are)."""
    return np.array([np.int32(bits) << 16], np.int32).view(np.float32)[0]


@njit(cache=True, nogil=True)
def _to_bits(value):  # type: ignore[no-untyped-def]
    """Bits of the largest bf16 <= value, for value > 0; the smallest positive one otherwise."""
    if value <= 0:
        return np.int16(1)
    return np.int16(max(np.array([value], np.float32).view(np.int32)[0] >> 16, 1))


@njit(cache=True, nogil=True)
def _gather_near_zero(bits, cut, out, room):  # type: ignore[no-untyped-def]
    """_gather_above for cut <= 0: negative bf16 have the bits -2**15 + those of their magnitude."""
    low_bits = np.int32(-32768) + np.int32(_to_bits(-cut)) + 1  # rounded up
    n = 0
    for i in range(bits.shape[0]):
        if bits[i] >= 0 or bits[i] <= low_bits:
            if n == room:
                return -1
            out[n] = i
            n += 1
    return n


@njit(cache=True, nogil=True)
def _topk_row(  # type: ignore[no-untyped-def]
    bits, margin, k, x, w, b, block_max, columns, exact, scratch
):
    """Exact top-k of one token into columns, exact; returns how many, or -1 without proof."""
    _block_maxima(bits, block_max)
    room = columns.shape[0]
    if block_max.shape[0] >= k:
        scratch[: block_max.shape[0]] = block_max
        floor_bits = max(_kth_largest(scratch, block_max.shape[0], k), np.int16(1))
    else:
        floor_bits = np.int16(1)
    # the k-th largest block maximum is <= the k-th largest value: this cut keeps all it should
    loose = _to_float(floor_bits)
    loose_cut = loose - 2 * (margin + BF16_ULP * loose)
    n = _gather_above(bits, block_max, loose_cut, columns, room)
    if n < 0:
        return -1
    if n > k:
        for c in range(n):
            scratch[c] = bits[columns[c]]
        kth = _to_float(max(_kth_largest(scratch, n, k), np.int16(1)))
        cut = kth - 2 * (margin + BF16_ULP * kth)
        if cut > 0:
            cut_bits = _to_bits(cut)
            kept = 0
            for c in range(n):
                if bits[columns[c]] >= cut_bits:
                    columns[kept] = columns[c]
                    kept += 1
            n = kept
    for c in range(n):
        exact[c] = _dot(x, w[columns[c]]) + b[columns[c]]
    limit = np.float32(0)
    if n > k:
        order = exact[:n].copy()
        limit = _kth_largest(order, n, k)
    above = 0
    for c in range(n):
        above += exact[c] > limit
    ties = k - above  # equal values at the limit: the lowest latents win
    kept = 0
    for c in range(n):
        take = exact[c] > limit
        if not take and exact[c] == limit and ties > 0:
            take = True
            ties -= 1
        if take and exact[c] > 0:
            columns[kept] = columns[c]
            exact[kept] = exact[c]
            kept += 1
    return kept


@njit(parallel=True, cache=True, nogil=True)
def _topk_tile(bits, margins, k, x, w, b, columns, values, counts):  # type: ignore[no-untyped-def]
    n_blocks = (bits.shape[1] + BLOCK - 1) // BLOCK
    room = min(bits.shape[1], 16 * k + 256)
    for n in prange(bits.shape[0]):
        block_max = np.empty(n_blocks, np.int16)
        scratch = np.empty(max(n_blocks, room), np.int16)
        found = np.empty(room, np.int32)
        exact = np.empty(room, np.float32)
        kept = _topk_row(bits[n], margins[n], k, x[n], w, b, block_max, found, exact, scratch)
        counts[n] = kept
        if kept > 0:
            columns[n, :kept] = found[:kept]
            values[n, :kept] = exact[:kept]


@njit(parallel=True, cache=True, nogil=True)
def _above_tile(bits, margins, theta, x, w, b, columns, values, counts):  # type: ignore[no-untyped-def]
    n_blocks = (bits.shape[1] + BLOCK - 1) // BLOCK
    room = columns.shape[1]
    low = theta.min()
    for n in prange(bits.shape[0]):
        block_max = np.empty(n_blocks, np.int16)
        found = np.empty(room, np.int32)
        _block_maxima(bits[n], block_max)
        cut = low - 2 * (margins[n] + BF16_ULP * abs(low))
        m = _gather_above(bits[n], block_max, cut, found, room)
        counts[n] = min(m, 0)
        for c in range(m):
            i = found[c]
            z = _dot(x[n], w[i]) + b[i]
            if z > theta[i if theta.shape[0] > 1 else 0]:
                columns[n, counts[n]] = i
                values[n, counts[n]] = z
                counts[n] += 1


class Bf16Encoder(select.Encoder):
    """select.Encoder, with bf16 copies of the weights; made once per weight update."""

    def __init__(self, w_enc: Tensor, b_enc: Tensor) -> None:
        super().__init__(w_enc, b_enc)
        self.w16, self.b16 = self.w.bfloat16(), self.b.bfloat16()
        self.w_norm = float(self.w.norm(dim=1).max()) * (1 + BF16_ULP)
        self.w_error = float((self.w - self.w16.float()).norm(dim=1).max())
        self.b_max = float(self.b.abs().max())
        self.fallbacks = 0

    def _margins(self, x: Tensor, x16: Tensor) -> Tensor:
        """An upper bound [N] on |z - ẑ|, apart from the rounding of ẑ itself to bf16."""
        x_norm = x.norm(dim=1)
        sums = 2.0**-12 * x_norm * self.w_norm  # fp32 additions, with room to spare
        rounding = (x - x16.float()).norm(dim=1) * self.w_norm + x_norm * self.w_error
        return rounding + sums + BF16_ULP * self.b_max

    def _select(self, x: Tensor, room: int, kernel: Any, setting: Any, exact: Any) -> SparseCodes:
        """Run a kernel over tiles; rows it could not prove go through `exact` on their fp32 z."""
        use_torch_threads()
        x = x.detach().contiguous()
        x16 = x.bfloat16()
        margins = _np(self._margins(x, x16))
        columns = np.empty((x.shape[0], room), np.int32)
        values = np.empty((x.shape[0], room), np.float32)
        counts = np.empty(x.shape[0], np.int64)
        w, b = _np(self.w), _np(self.b)
        for at in range(0, x.shape[0], TILE):
            tile = slice(at, at + TILE)
            bits = torch.addmm(self.b16, x16[tile], self.w16.T).view(torch.int16).numpy()
            kernel(
                bits, margins[tile], setting, _np(x[tile]), w, b,
                columns[tile], values[tile], counts[tile],
            )  # fmt: skip
        unproved = {
            int(n): exact(torch.addmm(self.b, x[n : n + 1], self.w.T))
            for n in np.flatnonzero(counts < 0)
        }
        self.fallbacks += len(unproved)
        return _pack(columns, values, counts, unproved, self.w.shape[0])

    def topk(self, x: Tensor, k: int) -> SparseCodes:
        """As select.Encoder.topk."""
        k = min(k, self.w.shape[0])
        return self._select(x, k, _topk_tile, k, lambda z: select.topk(z, k))

    def above(self, x: Tensor, theta: Tensor) -> SparseCodes:
        """As select.Encoder.above."""
        limits = theta.detach().float().clamp_min(0).reshape(-1)
        room = min(self.w.shape[0], ROOM)
        return self._select(x, room, _above_tile, _np(limits), lambda z: select.above(z, limits))


def _pack(
    columns: Any, values: Any, counts: Any, unproved: dict[int, SparseCodes], d_sae: int
) -> SparseCodes:
    """Rows of fixed room, with their counts, as compressed rows."""
    for n, codes in unproved.items():
        counts[n] = codes.indices.numel()
        if counts[n] > columns.shape[1]:  # a dense row: widen once, rarely
            extra = int(counts[n]) - columns.shape[1]
            columns = np.pad(columns, ((0, 0), (0, extra)))
            values = np.pad(values, ((0, 0), (0, extra)))
        columns[n, : counts[n]] = codes.indices.numpy()
        values[n, : counts[n]] = codes.values.numpy()
    offsets = torch.zeros(counts.shape[0] + 1, dtype=torch.int64)
    offsets[1:] = torch.from_numpy(counts).cumsum(0)
    if int(offsets[-1]) == columns.size:
        flat_columns, flat_values = columns.ravel(), values.ravel()
    else:
        keep = np.arange(columns.shape[1])[None, :] < counts[:, None]
        flat_columns, flat_values = columns[keep], values[keep]
    return SparseCodes(
        torch.from_numpy(flat_columns), torch.from_numpy(flat_values), offsets, d_sae
    )
