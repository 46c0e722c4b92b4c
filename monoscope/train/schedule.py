"""Schedules: pure functions of the share of the run that is done."""

from __future__ import annotations


def lr_factor(done: float, warmup: float, decay: float) -> float:
    """Linear rise over the first `warmup` of the run, 1, linear fall to 0 over the last `decay`."""
    rise = min(1.0, done / warmup) if warmup > 0 else 1.0
    fall = min(1.0, (1.0 - done) / decay) if decay > 0 else 1.0
    return max(0.0, min(rise, fall))


def ramp(done: float, over: float) -> float:
    """Linear rise from 0 to 1 over the first `over` of the run, then 1."""
    return min(1.0, done / over) if over > 0 else 1.0


def annealed_k(done: float, k: int, k_start: int | None, over: float) -> int:
    """Linear change from k_start to k over the first `over` of the run (Makhzani 2013, 4.2.1)."""
    if k_start is None:
        return k
    return round(k_start + (k - k_start) * ramp(done, over))
