"""Compiled loops that keep each latent's examples while tokens stream by.

A latent owns N_SLOTS slots. The first N_TOP hold its strongest contexts, one per document. Then
come RING_BINS quarter octaves of value, counted down from the one of its maximum, with BIN_SLOTS
slots each: the lowest value, the highest, and N_RANDOM chosen by smallest priority. The last
N_FLOOR slots are chosen alike from everything weaker than the ring. A priority is a hash of
(seed, latent, document, position), so what is kept does not depend on the order of the data.

RING_BINS reach below a fifth of the maximum, and a bin is narrower than any of the equal-width
bands that examples are shown by; so a band edge cuts a bin at most once, and keeping the ends of
each bin means that no band with a token in it is ever left without an example.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from monoscope.ops.moments import quarter_octave

REACH = 20  # tokens shown on each side of an example
WINDOW = 2 * REACH + 1
N_TOP = 20
RING_BINS = 11
N_RANDOM = 4
LOW, HIGH, RANDOM = 0, 1, 2  # places within a bin
BIN_SLOTS = RANDOM + N_RANDOM
N_FLOOR = N_RANDOM  # no more: a bin that falls to the floor brings only so many
RING = N_TOP
FLOOR = RING + RING_BINS * BIN_SLOTS
N_SLOTS = FLOOR + N_FLOOR
EMPTY = -1


@njit(cache=True, nogil=True)
def mix(x):  # type: ignore[no-untyped-def]
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): uint64 to well-spread uint64."""
    x = np.uint64(x) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(cache=True, nogil=True)
def _stronger(value, doc, pos, other_value, other_doc, other_pos):  # type: ignore[no-untyped-def]
    """Whether one example goes before another: by value, then by document and position."""
    if value != other_value:
        return value > other_value
    if doc != other_doc:
        return doc < other_doc
    return pos < other_pos


@njit(cache=True, nogil=True)
def _top_slot(i, v, d, p, value, doc, pos):  # type: ignore[no-untyped-def]
    """The slot of latent i that a strong example may take, or EMPTY; one slot per document."""
    weakest = 0
    for s in range(N_TOP):
        if doc[i, s] == d:
            return s if _stronger(v, d, p, value[i, s], d, pos[i, s]) else EMPTY
    for s in range(N_TOP):
        if doc[i, s] == EMPTY:
            return s
        if _stronger(value[i, weakest], doc[i, weakest], pos[i, weakest],
                     value[i, s], doc[i, s], pos[i, s]):  # fmt: skip
            weakest = s
    w = weakest
    return w if _stronger(v, d, p, value[i, w], doc[i, w], pos[i, w]) else EMPTY


@njit(cache=True, nogil=True)
def _bar(i, value, doc):  # type: ignore[no-untyped-def]
    """The value that a document's best must reach to be among the top; 0 while there is room."""
    bar = value[i, 0]
    for s in range(N_TOP):
        if doc[i, s] == EMPTY:
            return np.float32(0)
        bar = min(bar, value[i, s])
    return bar


@njit(cache=True, nogil=True)
def _random_slot(i, first, n, h, doc, priority):  # type: ignore[no-untyped-def]
    """The slot among n from `first` that an example of priority h may take, or EMPTY."""
    last = first
    for s in range(first, first + n):
        if doc[i, s] == EMPTY:
            return s
        if priority[i, s] > priority[i, last]:
            last = s
    return last if h < priority[i, last] else EMPTY


@njit(cache=True, nogil=True)
def _copy(i, to, source, at, priority, value, doc, pos, window, source_window):  # type: ignore[no-untyped-def]
    """Copy slot `at` of latent i from a state's arrays (`source`) into slot `to`."""
    source_value, source_doc, source_pos, source_priority = source
    value[i, to] = source_value[i, at]
    doc[i, to] = source_doc[i, at]
    pos[i, to] = source_pos[i, at]
    priority[i, to] = source_priority[i, at]
    for w in range(WINDOW):
        window[i, to, w] = source_window[i, at, w]


@njit(cache=True, nogil=True)
def _raise_ceiling(i, new, value, doc, pos, priority, window, ceiling):  # type: ignore[no-untyped-def]
    """Move latent i's ring up to bin `new`; what falls off its lower end goes to the floor."""
    old = ceiling[i]
    ceiling[i] = new
    if old == EMPTY:
        return
    for b in range(old - RING_BINS + 1, min(old, new - RING_BINS) + 1):
        ring = b % RING_BINS
        first = RING + ring * BIN_SLOTS
        for s in range(first, first + BIN_SLOTS):
            if doc[i, s] != EMPTY and s >= first + RANDOM:
                to = _random_slot(i, FLOOR, N_FLOOR, priority[i, s], doc, priority)
                if to != EMPTY:
                    _copy(i, to, (value, doc, pos, priority), s,
                          priority, value, doc, pos, window, window)  # fmt: skip
            doc[i, s] = EMPTY


@njit(cache=True, nogil=True)
def _fill(i, s, j, first, last, rows, values, token_doc, token_pos, window):  # type: ignore[no-untyped-def]
    """Write the latent's values on the tokens around entry j of its column into slot s."""
    for w in range(WINDOW):
        window[i, s, w] = 0
    window[i, s, REACH] = values[j]
    d, p = token_doc[rows[j]], token_pos[rows[j]]
    k = j - 1
    while k >= first and token_doc[rows[k]] == d and p - token_pos[rows[k]] <= REACH:
        window[i, s, REACH - (p - token_pos[rows[k]])] = values[k]
        k -= 1
    k = j + 1
    while k < last and token_doc[rows[k]] == d and token_pos[rows[k]] - p <= REACH:
        window[i, s, REACH + (token_pos[rows[k]] - p)] = values[k]
        k += 1


@njit(cache=True, nogil=True)
def _ring_slot(i, place, ring, v, d, p, h, value, doc, pos, priority):  # type: ignore[no-untyped-def]
    """The slot for an example at a place (LOW, HIGH or RANDOM) of a bin of the ring, or EMPTY.

    Below the ring (`ring` is EMPTY) only RANDOM has a place, on the floor.
    """
    if ring == EMPTY:
        return _random_slot(i, FLOOR, N_FLOOR, h, doc, priority) if place == RANDOM else EMPTY
    first = RING + ring * BIN_SLOTS
    if place == RANDOM:
        return _random_slot(i, first + RANDOM, N_RANDOM, h, doc, priority)
    s = first + place
    if doc[i, s] == EMPTY:
        return s
    if place == HIGH:
        return s if _stronger(v, d, p, value[i, s], doc[i, s], pos[i, s]) else EMPTY
    return s if _stronger(-v, d, p, -value[i, s], doc[i, s], pos[i, s]) else EMPTY


@njit(cache=True, nogil=True)
def add_columns(  # type: ignore[no-untyped-def]
    lo, hi, starts, rows, values, bits, token_doc, token_pos, token_hash,
    value, doc, pos, priority, window, ceiling,
):  # fmt: skip
    """Offer every entry of latents lo … hi-1 of a block to their slots."""
    for i in range(lo, hi):
        first, last = starts[i], starts[i + 1]
        bar = _bar(i, value, doc)
        best = first
        for j in range(first, last):
            r = rows[j]
            d, p, v = token_doc[r], token_pos[r], values[j]
            if v > values[best]:
                best = j
            if j + 1 == last or token_doc[rows[j + 1]] != d:  # the document ends: offer its best
                if values[best] >= bar:
                    at = rows[best]
                    s = _top_slot(i, values[best], d, token_pos[at], value, doc, pos)
                    if s != EMPTY:
                        value[i, s], doc[i, s], pos[i, s] = values[best], d, token_pos[at]
                        _fill(i, s, best, first, last, rows, values, token_doc, token_pos, window)
                        bar = _bar(i, value, doc)
                best = j + 1
            b = quarter_octave(bits[j])
            if b > ceiling[i]:
                _raise_ceiling(i, b, value, doc, pos, priority, window, ceiling)
            inside = b > ceiling[i] - RING_BINS
            ring = b % RING_BINS
            h = mix(token_hash[r] ^ np.uint64(i))
            for place in range(0 if inside else RANDOM, RANDOM + 1):
                s = _ring_slot(i, place, ring if inside else EMPTY, v, d, p, h,
                               value, doc, pos, priority)  # fmt: skip
                if s != EMPTY:
                    value[i, s], doc[i, s], pos[i, s], priority[i, s] = v, d, p, h
                    _fill(i, s, j, first, last, rows, values, token_doc, token_pos, window)


@njit(cache=True, nogil=True)
def add_slots(  # type: ignore[no-untyped-def]
    value, doc, pos, priority, window, ceiling,
    o_value, o_bits, o_doc, o_pos, o_priority, o_window, o_ceiling,
):  # fmt: skip
    """Offer every example that another state (o_…) kept to the slots of this one."""
    source = (o_value, o_doc, o_pos, o_priority)
    for i in range(len(value)):
        if o_ceiling[i] > ceiling[i]:
            _raise_ceiling(i, o_ceiling[i], value, doc, pos, priority, window, ceiling)
        for at in range(N_SLOTS):
            d, p = o_doc[i, at], o_pos[i, at]
            if d == EMPTY:
                continue
            v, h = o_value[i, at], o_priority[i, at]
            if at < RING:
                s = _top_slot(i, v, d, p, value, doc, pos)
            else:
                place = min((at - RING) % BIN_SLOTS, RANDOM) if at < FLOOR else RANDOM
                b = quarter_octave(o_bits[i, at])
                ring = b % RING_BINS if b > ceiling[i] - RING_BINS else EMPTY
                s = _ring_slot(i, place, ring, v, d, p, h, value, doc, pos, priority)
            if s != EMPTY:
                _copy(i, s, source, at, priority, value, doc, pos, window, o_window)
