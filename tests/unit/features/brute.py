"""What the streaming state should hold, worked out from dense codes in plain Python."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monoscope.features.sample_kernels import N_FLOOR, N_RANDOM, N_TOP, REACH, RING_BINS, WINDOW

MASK = 2**64 - 1


def splitmix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def token_hash(seed: int, doc: int, pos: int) -> int:
    return splitmix(splitmix(splitmix(seed & MASK) ^ doc) ^ pos)


def quarter(value: float) -> int:
    """Quarter octaves of a float32, counted from 1; steps rounded to float32."""
    mantissa, exponent = np.frexp(np.float64(value))
    steps = (2.0 ** (np.arange(1, 4) / 4)).astype(np.float32).astype(np.float64)
    return 4 * (int(exponent) - 1) + int((2 * mantissa >= steps).sum())


@dataclass
class Token:
    """An active token of one latent."""

    value: float
    doc: int
    pos: int
    row: int
    priority: int

    @property
    def key(self) -> tuple[int, int]:
        return self.doc, self.pos


def active(z: np.ndarray, doc: np.ndarray, pos: np.ndarray, latent: int, seed: int) -> list[Token]:
    """The active tokens of a latent; z [N, L] float32."""
    return [
        Token(
            float(z[r, latent]), int(doc[r]), int(pos[r]), int(r),
            splitmix(token_hash(seed, int(doc[r]), int(pos[r])) ^ latent),
        )
        for r in np.flatnonzero(z[:, latent] > 0)
    ]  # fmt: skip


def top(tokens: list[Token]) -> list[Token]:
    """The strongest, one per document: value descending, then document and position."""
    best: dict[int, Token] = {}
    for token in sorted(tokens, key=lambda t: (-t.value, t.doc, t.pos)):
        best.setdefault(token.doc, token)
    return list(best.values())[:N_TOP]


def kept(tokens: list[Token]) -> dict[str, set[tuple[int, int]]]:
    """By bin ("b7/low", "b7/high", "b7/random") and "floor": which tokens stay."""
    if not tokens:
        return {}
    ceiling = max(quarter(t.value) for t in tokens)
    bins: dict[int, list[Token]] = {}
    for token in tokens:
        bins.setdefault(quarter(token.value), []).append(token)
    out: dict[str, set[tuple[int, int]]] = {}
    floor: list[Token] = []
    for b, held in bins.items():
        if b <= ceiling - RING_BINS:
            floor += held
            continue
        out[f"{b}/low"] = {min(held, key=lambda t: (t.value, t.doc, t.pos)).key}
        out[f"{b}/high"] = {min(held, key=lambda t: (-t.value, t.doc, t.pos)).key}
        out[f"{b}/random"] = smallest(held, N_RANDOM)
    if floor:
        out["floor"] = smallest(floor, N_FLOOR)
    return out


def smallest(tokens: list[Token], n: int) -> set[tuple[int, int]]:
    return {t.key for t in sorted(tokens, key=lambda t: t.priority)[:n]}


def window(
    z: np.ndarray, doc: np.ndarray, pos: np.ndarray, latent: int, at: tuple[int, int]
) -> np.ndarray:
    """The latent on the tokens of the same document within REACH; 0 where there is no row."""
    out = np.zeros(WINDOW, np.float32)
    for r in np.flatnonzero(doc == at[0]):
        place = int(pos[r]) - at[1] + REACH
        if 0 <= place < WINDOW:
            out[place] = max(z[r, latent], 0)
    return out
