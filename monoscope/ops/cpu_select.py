"""The selections on a CPU: candidates from a bf16 product, proved by a margin, then exact in fp32.

For ẑ = x̂·ŵ + b̂ from bf16 copies, b̂ rounded up, stored in bf16 (u = 2⁻⁸, its rounding):
    z − ẑ ≤ ‖x − x̂‖·‖ŵ‖ + ‖x‖·‖w − ŵ‖ + rounding of the sums = m                (Cauchy–Schwarz)
A latent with z ≥ t therefore has a stored ẑ of at least t − m − u·|t − m|. For t we take the least
of k exact values, which the k-th largest z cannot lie below: every latent under that cut is proved
out, and the few above it are computed in fp32. So the chosen set and the values are those of the
fp32 reference (up to the order of the additions in a dot product). A token with more candidates
than there is room for is handed to the reference itself, and counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from monoscope.ops import select
from monoscope.ops.codes import SparseCodes
from monoscope.ops.cpu import _FAST, _dots, _np, use_torch_threads
from monoscope.ops.fallbacks import count_fallbacks

TILE = 256  # tokens whose [TILE, L] bf16 pre-activations exist at one time
ROOM = 1024  # candidates a token may have before it is handed to the fp32 reference
ROWS = 16  # tokens a thread takes at a time
DEPTH = 32  # latents whose largest ẑ is found together
UNIT = 2.0**-8  # largest relative error of rounding to bf16
LOOP = {"error_model": "numpy", **_FAST}


@njit(**LOOP)
def _key(bits):  # type: ignore[no-untyped-def]
    """The bits of a bf16 as an int16 that is ordered as the values are, negative ones too."""
    return np.int16(bits ^ ((bits >> 15) & 0x7FFF))


@njit(**LOOP)
def _value(key):  # type: ignore[no-untyped-def]
    """The value of a key."""
    bits = np.int32(key) << 16 if key >= 0 else (np.int32(-1 - key) << 16) | np.int32(-(2**31))
    return np.int32(bits).view(np.float32)


@njit(**LOOP)
def _key_below(value):  # type: ignore[no-untyped-def]
    """The key of a bf16 <= value, its neighbour where it has one."""
    key = np.float32(abs(value)).view(np.int32) >> 16
    if value <= 0:
        key = -2 - key
    return np.int16(key)


@njit(**LOOP)
def _cut(t, margin):  # type: ignore[no-untyped-def]
    """Key of the least stored ẑ that a latent with z >= t can have."""
    low = t - margin
    return _key_below(np.float32(low - np.float32(UNIT) * abs(low)))


@njit(**LOOP)
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


@njit(**LOOP)
def _kth_largest_key(keys, n, k, bins):  # type: ignore[no-untyped-def]
    """The k-th largest of keys[:n], byte by byte: counts, unlike comparisons, miss no branch.

    bins: 256 numbers to count in.
    """
    bins[:] = 0
    for j in range(n):
        bins[(keys[j] >> 8) + 128] += 1
    high, left = 255, k
    while bins[high] < left:
        left -= bins[high]
        high -= 1
    bins[:] = 0
    for j in range(n):
        bins[keys[j] & 255] += (keys[j] >> 8) + 128 == high
    low = 255
    while bins[low] < left:
        left -= bins[low]
        low -= 1
    return np.int16(((high - 128) << 8) | low)


@njit(**LOOP)
def _maxima(bits, out):  # type: ignore[no-untyped-def]
    """Largest key of each group of latents j, j+n, j+2n, …: one vector maximum after another."""
    n = out.shape[0]
    for j in range(n):
        out[j] = np.int16(-32768)
    for start in range(0, bits.shape[0], n):
        part = bits[start : start + n]
        for j in range(part.shape[0]):
            out[j] = max(out[j], _key(part[j]))


@njit(**LOOP)
def _in_words(n):  # type: ignore[no-untyped-def]
    """n bytes, up to a whole number of words."""
    return (n + 7) // 8 * 8


@njit(**LOOP)
def _gather(bits, cut, marks, found, keys):  # type: ignore[no-untyped-def]
    """Latents with key >= cut, ascending, and their keys; how many, or -1 if there is no room.

    marks: _in_words(L) bytes, those beyond L zero. Most words of eight latents hold none.
    """
    for i in range(bits.shape[0]):
        marks[i] = _key(bits[i]) >= cut
    words = marks.view(np.uint64)
    n = 0
    for at in range(words.shape[0]):
        if words[at] == 0:
            continue
        for i in range(8 * at, 8 * at + 8):
            if marks[i]:
                if n == found.shape[0]:
                    return -1
                found[n] = i
                keys[n] = _key(bits[i])
                n += 1
    return n


@njit(**LOOP)
def _exact_of(n, at, rows, x, w, b, found, exact, dots):  # type: ignore[no-untyped-def]
    """exact[c] = z of the candidates c in at[:n]; rows, dots: room for as many."""
    for j in range(n):
        rows[j] = found[at[j]]
    _dots(x, rows[:n], w, dots[:n])
    for j in range(n):
        exact[at[j]] = dots[j] + b[rows[j]]


@njit(**LOOP)
def _exact_values(  # type: ignore[no-untyped-def]
    n, k, margin, x, w, b, found, keys, exact, at, rows, dots, bins
):
    """exact[:n] = z of the candidates that may be among the k largest, -inf of those proved out.

    Returns the key that every latent among the k largest has at least: if it is not below the cut
    of the gathering, none was missed.
    """
    first = _kth_largest_key(keys, n, k, bins) if n > k else np.int16(-32768)
    picked = 0
    for c in range(n):
        exact[c] = np.float32(-np.inf)
        if keys[c] >= first and picked < k:
            at[picked] = c
            picked += 1
    _exact_of(picked, at, rows, x, w, b, found, exact, dots)
    least = np.float32(np.inf)
    for j in range(picked):
        least = min(least, exact[at[j]])
    cut = _cut(max(least, np.float32(0)) if picked == k else np.float32(0), margin)
    more = 0
    for c in range(n):
        if keys[c] >= cut and exact[c] == -np.inf:
            at[more] = c
            more += 1
    _exact_of(more, at, rows, x, w, b, found, exact, dots)
    return cut


@njit(**LOOP)
def _keep_largest(n, k, found, exact, order):  # type: ignore[no-untyped-def]
    """Move the k largest positive of exact[:n] to the front, in order; how many there are.

    Among values equal to the k-th, the lowest latents win.
    """
    limit = np.float32(0)
    if n > k:
        order[:n] = exact[:n]
        limit = _kth_largest(order, n, k)
    above = 0
    for c in range(n):
        above += exact[c] > limit
    ties, kept = k - above, 0
    for c in range(n):
        take = exact[c] > limit
        if not take and exact[c] == limit and ties > 0:
            take = True
            ties -= 1
        if take and exact[c] > 0:
            found[kept] = found[c]
            exact[kept] = exact[c]
            kept += 1
    return kept


@njit(parallel=True, **LOOP)
def _topk_tile(  # type: ignore[no-untyped-def]
    bits, margins, k, depth, x, w, b, columns, values, counts
):
    n_tokens, n_latents = bits.shape
    n_groups = (n_latents + depth - 1) // depth
    room = min(n_latents, 16 * k + 256)
    for chunk in prange((n_tokens + ROWS - 1) // ROWS):
        maxima, bins = np.empty(n_groups, np.int16), np.empty(256, np.int32)
        marks = np.zeros(_in_words(n_latents), np.uint8)
        found, keys = np.empty(room, np.int32), np.empty(room, np.int16)
        exact, order = np.empty(room, np.float32), np.empty(room, np.float32)
        at, rows = np.empty(room, np.int32), np.empty(room, np.int32)
        for n in range(chunk * ROWS, min((chunk + 1) * ROWS, n_tokens)):
            margin, needed = margins[n], np.int16(0)
            _maxima(bits[n], maxima)
            loose = np.float32(0)
            if n_groups >= k:  # the k-th largest maximum is <= the k-th largest ẑ
                loose = max(_value(_kth_largest_key(maxima, n_groups, k, bins)), np.float32(0))
            cut = _cut(loose, margin)
            m = _gather(bits[n], cut, marks, found, keys)
            if m >= 0:
                needed = _exact_values(
                    m, k, margin, x[n], w, b, found, keys, exact, at, rows, order, bins
                )
                if needed < cut:  # the guess was too high: once more, with what is proved
                    m = _gather(bits[n], needed, marks, found, keys)
            if m >= 0 and needed < cut:
                _exact_values(m, k, margin, x[n], w, b, found, keys, exact, at, rows, order, bins)
            if m < 0:
                counts[n] = -1
                continue
            kept = _keep_largest(m, k, found, exact, order)
            columns[n, :kept] = found[:kept]
            values[n, :kept] = exact[:kept]
            counts[n] = kept


@njit(parallel=True, **LOOP)
def _above_tile(  # type: ignore[no-untyped-def]
    bits, margins, theta, x, w, b, columns, values, counts
):
    n_tokens, n_latents = bits.shape
    room = columns.shape[1]
    for chunk in prange((n_tokens + ROWS - 1) // ROWS):
        marks = np.zeros(_in_words(n_latents), np.uint8)
        found, keys = np.empty(room, np.int32), np.empty(room, np.int16)
        dots = np.empty(room, np.float32)
        for n in range(chunk * ROWS, min((chunk + 1) * ROWS, n_tokens)):
            cut = _cut(np.float32(0), margins[n])  # θ is in the bias of ẑ
            m = _gather(bits[n], cut, marks, found, keys)
            if m < 0:
                counts[n] = -1
                continue
            _dots(x[n], found[:m], w, dots)
            kept = 0
            for c in range(m):
                i = found[c]
                z = dots[c] + b[i]
                if z > theta[i if theta.shape[0] > 1 else 0]:
                    columns[n, kept] = i
                    values[n, kept] = z
                    kept += 1
            counts[n] = kept


@njit(parallel=True, **LOOP)
def _rounding(a, bits, norms, errors):  # type: ignore[no-untyped-def]
    """‖a‖ and ‖a − â‖ of each row, â its bf16 copy."""
    n_rows, width = a.shape
    for chunk in prange((n_rows + ROWS - 1) // ROWS):
        wide = np.empty(width, np.int32)
        copy = wide.view(np.float32)
        for n in range(chunk * ROWS, min((chunk + 1) * ROWS, n_rows)):
            row, row_bits = a[n], bits[n]
            for d in range(width):
                wide[d] = np.int32(row_bits[d]) << 16
            squares, missed = np.float32(0), np.float32(0)
            for d in range(width):
                squares += row[d] * row[d]
                missed += (row[d] - copy[d]) * (row[d] - copy[d])
            norms[n], errors[n] = np.sqrt(squares), np.sqrt(missed)


@njit(**LOOP)
def _pack(columns, values, counts, offsets, indices, flat):  # type: ignore[no-untyped-def]
    for n in range(counts.shape[0]):
        for c in range(counts[n]):
            indices[offsets[n] + c] = columns[n, c]
            flat[offsets[n] + c] = values[n, c]


@njit(**LOOP)
def _largest(values, count, out):  # type: ignore[no-untyped-def]
    """Positions of the `count` largest, ascending; the first win among equals."""
    order = values.copy()
    limit = _kth_largest(order, order.shape[0], count)
    above = 0
    for v in values:
        above += v > limit
    ties, n = count - above, 0
    for e in range(values.shape[0]):
        if values[e] > limit or (values[e] == limit and ties > 0):
            ties -= values[e] == limit
            out[n] = e
            n += 1


def _rounded_up(bias: Tensor) -> Tensor:
    """The least bf16 >= each element."""
    near = bias.bfloat16()
    bits = near.view(torch.int16)
    above = torch.where(near >= 0, bits + 1, bits - 1).to(torch.int16).view(torch.bfloat16)
    return torch.where(near.float() < bias, above, near)


def _bf16_and_rounding(a: Tensor) -> tuple[Tensor, Any, Any]:
    """a [N, D] in bf16, ‖a‖ [N] and ‖a − â‖ [N]."""
    copy = a.bfloat16()
    norms, errors = np.empty(a.shape[0], np.float32), np.empty(a.shape[0], np.float32)
    _rounding(_np(a), copy.view(torch.int16).numpy(), norms, errors)
    return copy, norms, errors


class Bf16Encoder(select.Encoder):
    """select.Encoder, with bf16 copies of the weights; made once per weight update."""

    def __init__(self, w_enc: Tensor, b_enc: Tensor) -> None:
        super().__init__(w_enc.contiguous(), b_enc.contiguous())
        use_torch_threads()
        self.w16, norms, errors = _bf16_and_rounding(self.w)
        self.w_norm, self.w_error = float(norms.max()), float(errors.max())
        self.fallbacks = 0

    def topk(self, x: Tensor, k: int) -> SparseCodes:
        """As select.Encoder.topk."""
        k = min(k, self.w.shape[0])
        depth = min(max(self.w.shape[0] // (4 * k), 1), DEPTH)
        return self._select(x, k, self.b, _topk_tile, (k, depth), lambda z: select.topk(z, k))

    def above(self, x: Tensor, theta: Tensor) -> SparseCodes:
        """As select.Encoder.above."""
        return self.wider(x, theta.detach().float().clamp_min(0))

    def wider(self, x: Tensor, low: Tensor) -> SparseCodes:
        """As select.Encoder.wider."""
        limits = low.detach().float().reshape(-1)
        setting = (_np(limits),)
        return self._select(
            x, ROOM, self.b - limits, _above_tile, setting, lambda z: select.wider(z, limits)
        )

    def largest(self, codes: SparseCodes, count: int) -> SparseCodes:
        """As select.Encoder.largest."""
        if not 0 < count < codes.indices.numel():
            return select.largest(codes, count)
        kept = np.empty(count, np.int64)
        _largest(_np(codes.values), count, kept)
        which = torch.from_numpy(kept)
        offsets = torch.searchsorted(which, codes.offsets)
        return SparseCodes(codes.indices[which], codes.values[which], offsets, codes.d_sae)

    def _margins(self, x_norm: Any, x_error: Any, bias: Tensor) -> Any:
        """m [N], an upper bound on z − ẑ before ẑ is stored; float32 sums of D terms included."""
        sums = (self.w.shape[1] + 2) * 2.0**-23
        copies = x_error * (self.w_norm + self.w_error) + x_norm * self.w_error
        largest = float(torch.where(bias > -torch.inf, bias.abs(), 0.0).max()) * 2.0**-22
        bound = copies * (1 + sums) + sums * x_norm * self.w_norm + largest
        return (1.0001 * bound).astype(np.float32)

    def _select(
        self,
        x: Tensor,
        room: int,
        bias: Tensor,
        kernel: Any,
        setting: tuple[Any, ...],
        reference: Callable[[Tensor], SparseCodes],
    ) -> SparseCodes:
        """Run a kernel tile by tile; rows it could not prove go through `reference` on their z."""
        use_torch_threads()
        n_latents = self.w.shape[0]
        x = x.detach().contiguous()
        x16, norms, errors = _bf16_and_rounding(x)
        margins, bias16 = self._margins(norms, errors, bias), _rounded_up(bias)
        room, tile = min(room, n_latents), min(TILE, max(x.shape[0], 1))
        product = torch.empty(tile, n_latents, dtype=torch.bfloat16)
        columns, values = np.empty((tile, room), np.int32), np.empty((tile, room), np.float32)
        parts = []
        for at in range(0, max(x.shape[0], 1), tile):
            here = slice(at, min(at + tile, x.shape[0]))
            n = here.stop - here.start
            z = torch.addmm(bias16, x16[here], self.w16.T, out=product[:n])
            counts = np.zeros(n, np.int64)
            kernel(z.view(torch.int16).numpy(), margins[here], *setting, _np(x[here]),
                   _np(self.w), _np(self.b), columns[:n], values[:n], counts)  # fmt: skip
            parts.append(self._finish(x[here], columns, values, counts, reference))
        return SparseCodes.concat(parts)

    def _finish(
        self, x: Tensor, columns: Any, values: Any, counts: Any,
        reference: Callable[[Tensor], SparseCodes],
    ) -> SparseCodes:  # fmt: skip
        """A tile's rows, compressed; the unproved ones computed anew, together, in fp32."""
        unproved = torch.from_numpy(np.flatnonzero(counts < 0))
        counts = np.maximum(counts, 0)
        offsets = np.concatenate([[0], counts.cumsum()])
        indices, flat = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.float32)
        _pack(columns, values, counts, offsets, indices, flat)
        n_latents = self.w.shape[0]
        codes = SparseCodes(
            torch.from_numpy(indices), torch.from_numpy(flat), torch.from_numpy(offsets), n_latents
        )
        if not unproved.numel():
            return codes
        self.fallbacks += unproved.numel()
        count_fallbacks(unproved.numel())
        more = reference(torch.addmm(self.b, x[unproved], self.w.T))
        rows = torch.cat([codes.rows, unproved[more.rows]])
        order = rows.argsort(stable=True)
        return SparseCodes.from_entries(
            rows[order],
            torch.cat([codes.indices, more.indices])[order],
            torch.cat([codes.values, more.values])[order],
            (x.shape[0], n_latents),
        )
