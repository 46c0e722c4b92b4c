"""What an explanation is made from: the strongest places of a latent and samples of weaker ones."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from monoscope.features.explain.items import mark
from monoscope.features.explain.windows import CLOSE, OPEN, Window, Windows

if TYPE_CHECKING:
    from monoscope.features.feature import Example, Feature

N_TOP, N_WEAKER = 10, 10


@dataclass(frozen=True)
class Evidence:
    """Marked excerpts as the model is shown them, and the documents they are from."""

    excerpts: str
    docs: frozenset[int]
    n: int


def from_feature(feature: Feature) -> Evidence:
    """Of an atlas's examples: the 10 strongest, and two of each activation band."""
    top = [_window(example) for example in feature.top]
    bands = [
        [_window(example) for example in feature.band(band)][: N_WEAKER // 5]
        for band in (4, 3, 2, 1, 0)
    ]
    return _evidence(top, [window for band in bands for window in band], feature.max)


def from_windows(windows: Windows, latent: int) -> Evidence:
    """The same for a latent that no atlas knows: its strongest windows, then a spread of others."""
    peaks = windows.peaks(latent)
    order = [int(i) for i in np.argsort(-peaks, kind="stable") if peaks[i] > 0]
    rest = order[N_TOP:]
    spread = rest[:: max(1, math.ceil(len(rest) / N_WEAKER))]
    shown = [windows.show(latent, i) for i in (*order[:N_TOP], *spread)]
    return _evidence(shown[:N_TOP], shown[N_TOP:], float(peaks.max(initial=0.0)))


def _evidence(top: Sequence[Window], weaker: Sequence[Window], scale: float) -> Evidence:
    shown = [*_readable(top)[:N_TOP], *_readable(weaker)]
    lines = []
    for i, window in enumerate(shown, 1):
        strength = min(10, math.ceil(10 * window.peak / scale)) if scale > 0 else 0
        lines.append(f"{i}. strength {strength}: {json.dumps(mark(window), ensure_ascii=False)}")
    return Evidence("\n".join(lines), frozenset(window.doc for window in shown), len(shown))


def _readable(windows: Sequence[Window]) -> list[Window]:
    return [w for w in windows if w.peak > 0 and OPEN not in w.text and CLOSE not in w.text]


def _window(example: Example) -> Window:
    return Window(example.doc, example.start, tuple(example.pieces), tuple(example.values))
