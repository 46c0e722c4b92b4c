"""The Triton kernels of cuda.py: one program a token or a latent, no atomics, one order of sums.

W, G, X are row-major fp32 with contiguous rows. BLOCK_D is a power of two: a row is walked in
pieces of it, or held whole where a kernel says so. Entries of padded codes that hold nothing have
index L (n_latents) and cost no memory traffic.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def decode_kernel(indices, values, offsets, w, out, width, n_latents, BLOCK_D: tl.constexpr):
    """out[n] = Σ values_e · w[indices_e] over the entries of token n."""
    n = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = at < width
    total = tl.zeros((BLOCK_D,), tl.float32)
    for e in range(tl.load(offsets + n), tl.load(offsets + n + 1)):
        i = tl.load(indices + e)
        held = at < tl.where(i < n_latents, width, 0)
        row = i.to(tl.int64) * width
        total += tl.load(values + e) * tl.load(w + row + at, mask=held, other=0.0)
    tl.store(out + n * width + at, total, mask=inside)


@triton.jit
def entry_dots_kernel(g, indices, offsets, w, out, width, n_latents, BLOCK_D: tl.constexpr):
    """out[e] = g[n] · w[indices_e] for the entries e of token n; 0 for those that hold nothing."""
    n = tl.program_id(0).to(tl.int64)
    for e in range(tl.load(offsets + n), tl.load(offsets + n + 1)):
        i = tl.load(indices + e)
        row = i.to(tl.int64) * width
        held = tl.where(i < n_latents, width, 0)
        total = tl.zeros((BLOCK_D,), tl.float32)
        for start in range(0, width, BLOCK_D):
            at = start + tl.arange(0, BLOCK_D)
            inside = at < held
            left = tl.load(g + n * width + at, mask=inside, other=0.0)
            total += left * tl.load(w + row + at, mask=inside, other=0.0)
        tl.store(out + e, tl.sum(total, axis=0))


@triton.jit
def row_sums_kernel(starts, order, token, coefficients, g, out, width, BLOCK_D: tl.constexpr):
    """out[i] = Σ coefficients_e · g[token_e] over the entries of latent i, in token order."""
    i = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = at < width
    total = tl.zeros((BLOCK_D,), tl.float32)
    for e in range(tl.load(starts + i), tl.load(starts + i + 1)):
        c = tl.load(coefficients + tl.load(order + e))
        row = tl.load(token + e).to(tl.int64) * width
        total += c * tl.load(g + row + at, mask=inside, other=0.0)
    tl.store(out + i * width + at, total, mask=inside)


@triton.jit
def adam_rows_kernel(
    starts, order, token, coefficients, g, dense, w, m, v, constants, width,
    HAS_DENSE: tl.constexpr, UNIT: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The walk of cpu_adam.py over row i, held whole in registers.

    constants [8], on the device so that a captured graph sees new ones: as fixed.constants_of has
    them; nothing is written where the last is 0.
    """
    i = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK_D)
    inside = at < width
    written = at < tl.where(tl.load(constants + 7) > 0.0, width, 0)
    here = i * width + at
    slope = tl.zeros((BLOCK_D,), tl.float32)
    if HAS_DENSE:
        slope += tl.load(dense + here, mask=inside, other=0.0)
    for e in range(tl.load(starts + i), tl.load(starts + i + 1)):
        c = tl.load(coefficients + tl.load(order + e))
        row = tl.load(token + e).to(tl.int64) * width
        slope += c * tl.load(g + row + at, mask=inside, other=0.0)
    old = tl.load(w + here, mask=inside, other=0.0)
    if UNIT:
        slope -= tl.sum(slope * old, axis=0) * old
    slope *= tl.load(constants)
    beta1, beta2 = tl.load(constants + 2), tl.load(constants + 3)
    first = beta1 * tl.load(m + here, mask=inside, other=0.0) + (1.0 - beta1) * slope
    second = beta2 * tl.load(v + here, mask=inside, other=0.0) + (1.0 - beta2) * slope * slope
    root = tl.sqrt(second) * tl.load(constants + 4) + tl.load(constants + 5)
    new = old - tl.load(constants + 1) * first / root
    if UNIT:
        new = new / tl.maximum(tl.sqrt(tl.sum(new * new, axis=0)), tl.load(constants + 6))
    tl.store(m + here, first, mask=written)
    tl.store(v + here, second, mask=written)
    tl.store(w + here, new, mask=written)


@triton.jit
def candidates_kernel(
    z, margins, counts, found, n_latents, k, room, floor,
    GROUPS: tl.constexpr, BISECTIONS: tl.constexpr, FIND_KTH: tl.constexpr,
):  # fmt: skip
    """Latents of token n whose stored ẑ (bf16) may have z >= t: found[n, :counts[n]], ascending.

    FIND_KTH: t is bounded from below by bisection on the maxima of groups j, j+GROUPS, …, of which
    at least k must lie above it; otherwise t is `floor`. counts[n] may pass room: then the row is
    not proved and its candidates are not all there.
    """
    n = tl.program_id(0).to(tl.int64)
    group = tl.arange(0, GROUPS)
    margin = tl.load(margins + n)
    unit = 1.0 / 256.0
    t = floor
    if FIND_KTH:
        top = tl.full((GROUPS,), -float("inf"), tl.float32)
        for start in range(0, n_latents, GROUPS):
            at = start + group
            near = tl.load(z + n * n_latents + at, mask=at < n_latents, other=-float("inf"))
            top = tl.maximum(top, near.to(tl.float32))
        low, high = 0.0 * margin, tl.maximum(tl.max(top, axis=0), 0.0)
        for _ in range(BISECTIONS):  # at least k maxima are >= low, or low is 0
            middle = 0.5 * (low + high)
            enough = tl.sum((top >= middle).to(tl.int32), axis=0) >= k
            low = tl.where(enough, middle, low)
            high = tl.where(enough, high, middle)
        t = tl.maximum(low - unit * low - margin, 0.0)
    least = t - margin
    least = least - unit * tl.abs(least)
    n_found = tl.full((), 0, tl.int32)
    for start in range(0, n_latents, GROUPS):
        at = start + group
        near = tl.load(z + n * n_latents + at, mask=at < n_latents, other=-float("inf"))
        take = (near.to(tl.float32) >= least) & (at < n_latents)
        place = n_found + tl.cumsum(take.to(tl.int32), axis=0) - 1
        tl.store(found + n * room + place, at, mask=take & (place < room))
        n_found += tl.sum(take.to(tl.int32), axis=0)
    tl.store(counts + n, n_found)


@triton.jit
def exact_kernel(x, w, b, counts, found, values, width, room, BLOCK_D: tl.constexpr):
    """values[n, c] = x[n] · w[found[n, c]] + b in fp32, for the candidates there are."""
    n = tl.program_id(0).to(tl.int64)
    for c in range(tl.minimum(tl.load(counts + n), room)):
        i = tl.load(found + n * room + c).to(tl.int64)
        total = tl.zeros((BLOCK_D,), tl.float32)
        for start in range(0, width, BLOCK_D):
            at = start + tl.arange(0, BLOCK_D)
            inside = at < width
            left = tl.load(x + n * width + at, mask=inside, other=0.0)
            total += left * tl.load(w + i * width + at, mask=inside, other=0.0)
        tl.store(values + n * room + c, tl.sum(total, axis=0) + tl.load(b + i))


@triton.jit
def choose_kernel(
    found, values, counts, indices, chosen, k, room, n_latents, ROOM: tl.constexpr
):  # fmt: skip
    """The k largest positive values of token n, by ascending latent; the lowest win among equals.

    The k-th largest is found bit by bit: positive floats ascend with their bits. What is left of
    the k entries holds nothing. ROOM: a power of two, at least room and k.
    """
    n = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, ROOM)
    inside = at < tl.minimum(tl.load(counts + n), room)
    latent = tl.load(found + n * room + at, mask=inside, other=0)
    value = tl.maximum(tl.load(values + n * room + at, mask=inside, other=0.0), 0.0)
    bits = value.to(tl.int32, bitcast=True)
    least = tl.full((), 0, tl.int32)
    step = least + 1073741824
    for _ in range(31):
        more = least + step
        enough = tl.sum((bits >= more).to(tl.int32), axis=0) >= k
        least = tl.where(enough, more, least)
        step = step // 2
    over = bits > least
    equal = (bits == least) & (bits > 0)
    spare = k - tl.sum(over.to(tl.int32), axis=0)
    take = over | (equal & (tl.cumsum(equal.to(tl.int32), axis=0) <= spare))
    place = tl.cumsum(take.to(tl.int32), axis=0) - 1
    tl.store(indices + n * k + place, latent, mask=take)
    tl.store(chosen + n * k + place, value, mask=take)
    empty = (at >= tl.sum(take.to(tl.int32), axis=0)) & (at < k)
    nothing = tl.zeros((ROOM,), tl.int32) + n_latents
    tl.store(indices + n * k + at, nothing, mask=empty)
    tl.store(chosen + n * k + at, tl.zeros((ROOM,), tl.float32), mask=empty)
