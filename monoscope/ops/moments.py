"""Streaming figures of each latent: count, mean, spread, maximum and a log-spaced histogram.

The state is a few numbers per latent whatever the number of tokens, and the states of two halves
of the data add up to the state of the whole: exactly for counts, histograms and maxima, to
rounding for the sums, which are kept in fp64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from monoscope.errors import MismatchError

PER_OCTAVE = 4  # a histogram bin spans a factor of 2 ** (1 / PER_OCTAVE)
LOWEST_OCTAVE = -10  # values below 2 ** LOWEST_OCTAVE count into the first bin
HIGHEST_OCTAVE = 14  # values from 2 ** HIGHEST_OCTAVE up count into the last bin
N_BINS = PER_OCTAVE * (HIGHEST_OCTAVE - LOWEST_OCTAVE)

_MANTISSA_BITS = 23
_EXPONENT_BIAS = 127
# The steps within an octave, rounded once to float32 so that edges and bins agree bit for bit.
_STEPS = (2.0 ** (np.arange(PER_OCTAVE) / PER_OCTAVE)).astype(np.float32)
_STEP_1, _STEP_2, _STEP_3 = (int(bits) & 0x7FFFFF for bits in _STEPS.view(np.int32)[1:])
_FIRST_BIN = PER_OCTAVE * (LOWEST_OCTAVE + _EXPONENT_BIAS)


def histogram_edges() -> NDArray[np.float64]:
    """The N_BINS+1 bin edges: bin b holds edges[b] <= value < edges[b+1]; the end bins are open."""
    octaves = 2.0 ** np.arange(LOWEST_OCTAVE, HIGHEST_OCTAVE)
    edges = (octaves[:, None] * _STEPS.astype(np.float64)).ravel()
    return np.append(edges, 2.0**HIGHEST_OCTAVE)


@njit(cache=True, nogil=True)
def quarter_octave(bits: int) -> int:
    """Which quarter octave a positive float32 lies in, from its bits: 0 … 1019, rising with it."""
    mantissa = bits & 0x7FFFFF
    step = 0
    if mantissa >= _STEP_3:
        step = 3
    elif mantissa >= _STEP_2:
        step = 2
    elif mantissa >= _STEP_1:
        step = 1
    return 4 * (bits >> _MANTISSA_BITS) + step


@njit(cache=True, nogil=True)
def _add(lo, hi, starts, values, bits, count, total, squares, peak, hist):  # type: ignore[no-untyped-def]
    for i in range(lo, hi):
        n = starts[i + 1] - starts[i]
        if n == 0:
            continue
        subtotal = 0.0
        subsquares = 0.0
        largest = peak[i]
        for j in range(starts[i], starts[i + 1]):
            value = np.float64(values[j])
            subtotal += value
            subsquares += value * value
            largest = max(largest, values[j])
            place = quarter_octave(bits[j]) - _FIRST_BIN
            hist[i, min(max(place, 0), N_BINS - 1)] += 1
        count[i] += n
        total[i] += subtotal
        squares[i] += subsquares
        peak[i] = largest


@dataclass
class Moments:
    """Per latent, over the tokens on which it is active (value > 0):

    count [L] int64, total [L] = Σv and squares [L] = Σv² in fp64, peak [L] float32 (0 where never
    active), hist [L, N_BINS] int64.
    """

    count: NDArray[np.int64]
    total: NDArray[np.float64]
    squares: NDArray[np.float64]
    peak: NDArray[np.float32]
    hist: NDArray[np.int64]

    @classmethod
    def empty(cls, n_latents: int) -> Moments:
        """The state before any data, for L latents."""
        return cls(
            np.zeros(n_latents, np.int64),
            np.zeros(n_latents, np.float64),
            np.zeros(n_latents, np.float64),
            np.zeros(n_latents, np.float32),
            np.zeros((n_latents, N_BINS), np.int64),
        )

    def update(
        self,
        starts: NDArray[np.int64],
        values: NDArray[np.float32],
        latents: tuple[int, int] | None = None,
    ) -> None:
        """Add values > 0, grouped by latent: those of latent i are values[starts[i]:starts[i+1]].

        latents: the half-open range to add (default all), so that threads can share the work.
        """
        lo, hi = latents or (0, len(self.count))
        bits = values.view(np.int32)
        _add(
            lo, hi, starts, values, bits, self.count, self.total, self.squares, self.peak, self.hist
        )  # fmt: skip

    def merge(self, other: Moments) -> None:
        """Add the state of other data.

        Raises MismatchError if the numbers of latents differ.
        """
        if len(self.count) != len(other.count):
            raise MismatchError(
                "cannot merge figures of different latents",
                got=f"{len(other.count)} latents",
                expected=len(self.count),
            )
        self.count += other.count
        self.total += other.total
        self.squares += other.squares
        np.maximum(self.peak, other.peak, out=self.peak)
        self.hist += other.hist

    def mean(self) -> NDArray[np.float64]:
        """Mean of the active values, Σv / count [L]; 0 where never active."""
        return self.total / np.maximum(self.count, 1)

    def std(self) -> NDArray[np.float64]:
        """Their standard deviation, √(Σv²/count − mean²) [L]; 0 where never active."""
        spread = self.squares / np.maximum(self.count, 1) - self.mean() ** 2
        return np.sqrt(np.maximum(spread, 0.0))
