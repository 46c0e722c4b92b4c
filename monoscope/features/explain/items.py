"""What a judge is asked: windows where the latent fires, and windows or marks where it does not."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monoscope.features.explain.windows import CLOSE, OPEN, Window, Windows

MARKED = 0.25  # of a window's own peak, from which a token is marked


@dataclass(frozen=True)
class Item:
    """One excerpt to judge. kind: "positive", "random", "hard", "marked" or "mismarked"."""

    kind: str
    text: str
    doc: int
    start: int

    @property
    def truth(self) -> bool:
        """Whether a good explanation should have the judge say yes."""
        return self.kind in ("positive", "marked")


@dataclass(frozen=True)
class Exam:
    """All that one latent's explanation is tested on, cut into batches that are asked at once."""

    detect: tuple[tuple[Item, ...], ...] = ()
    fuzz: tuple[tuple[Item, ...], ...] = ()

    @property
    def n_calls(self) -> int:
        """Questions to a judge."""
        return len(self.detect) + len(self.fuzz)


def set_exam(
    windows: Windows,
    latent: int,
    neighbours: Sequence[int],
    barred: Collection[int],
    *,
    n: int,
    batch: int,
    seed: int,
) -> Exam:
    """n windows each where the latent fires, where it is silent, and where only neighbours fire.

    Positives are spread evenly over the order of their peaks, so that weak firings count as much
    as strong ones. A negative is silent on every token of its window; a hard one is where one of
    `neighbours` fires most. barred: documents that the explanation was made from.
    """
    rng = np.random.default_rng([seed, 13, latent])
    peaks = windows.peaks(latent)
    free = ~np.isin(windows.doc, np.array(sorted(barred), np.int64))
    firing = np.flatnonzero(free & (peaks > 0))
    positive = _spread(firing[np.argsort(peaks[firing], kind="stable")], n, rng)
    silent = free & (peaks == 0)
    hard = _hard(windows, neighbours, silent, n)
    silent[hard] = False
    random = _per_document(windows, rng.permutation(np.flatnonzero(silent)), n)
    shown = [windows.show(latent, i) for i in positive.tolist()]
    detect = [Item("positive", window.text, window.doc, window.start) for window in shown]
    for kind, picked in (("random", random), ("hard", hard)):
        for window in (windows.show(latent, int(i)) for i in picked):
            assert window.peak == 0.0, "a negative on which the latent fires"
            detect.append(Item(kind, window.text, window.doc, window.start))
    order = rng.permutation(len(detect)).tolist()
    return Exam(_batches([detect[i] for i in order], batch), _fuzz(shown, batch, rng))


def mark(window: Window, tokens: Collection[int] | None = None) -> str:
    """The window's text with runs of marked tokens between << and >>.

    tokens: those to mark; by default the ones from a quarter of the window's peak on. A mark that
    would split a character is moved to its end.
    """
    if tokens is None:
        tokens = [i for i, v in enumerate(window.values) if v > 0 and v >= MARKED * window.peak]
    chosen = set(tokens)
    out, inside = [], False
    for i, piece in enumerate(window.pieces):
        if not piece and i in chosen and i + 1 < len(window.pieces):
            chosen.add(i + 1)  # part of a character whose text stands at its last token
        if piece and (i in chosen) != inside:
            out.append(CLOSE if inside else OPEN)
            inside = not inside
        out.append(piece)
    return "".join(out) + (CLOSE if inside else "")


def as_list(texts: Sequence[str]) -> str:
    """Numbered excerpts, a JSON string a line, so that no text can break out of its line."""
    lines = [f"{i}. {json.dumps(text, ensure_ascii=False)}" for i, text in enumerate(texts, 1)]
    return "\n".join(lines)


def _fuzz(shown: Sequence[Window], batch: int, rng: np.random.Generator) -> tuple[
    tuple[Item, ...], ...
]:  # fmt: skip
    """Every window once with its own marks and once with as many on silent tokens.

    Both forms of a window never share a batch, and the content is the same on both sides, so only
    the marks can tell. Windows without a silent token that can be marked are left out.
    """
    pairs = []
    for window in shown:
        silent = [i for i, v in enumerate(window.values) if v == 0 and window.pieces[i].strip()]
        n_marks = sum(v > 0 and v >= MARKED * window.peak for v in window.values)
        if not silent:
            continue
        wrong = rng.choice(silent, min(n_marks, len(silent)), replace=False).tolist()
        texts = (mark(window), mark(window, wrong))
        pairs.append(
            [Item(k, t, window.doc, window.start) for k, t in zip(_MARKS, texts, strict=True)]
        )
    out: list[tuple[Item, ...]] = []
    for half in (0, 1):
        items = [pair[(i + half) % 2] for i, pair in enumerate(pairs)]
        out += _batches([items[i] for i in rng.permutation(len(items)).tolist()], batch)
    return tuple(out)


_MARKS = ("marked", "mismarked")


def _hard(
    windows: Windows, neighbours: Sequence[int], silent: NDArray[np.bool_], n: int
) -> NDArray[np.int64]:
    """Silent windows where neighbours fire most, the neighbours taking turns, the nearest first."""
    queues = []
    for other in neighbours:
        peaks = np.where(silent, windows.peaks(other), 0.0)
        order = np.argsort(-peaks, kind="stable")
        queues.append([int(i) for i in order[: 4 * n] if peaks[i] > 0])
    picked: list[int] = []
    while len(picked) < n and any(queues):
        for queue in queues:
            while queue and queue[0] in picked:
                queue.pop(0)
            if queue and len(picked) < n:
                picked.append(queue.pop(0))
    return np.array(picked, np.int64)


def _spread(ordered: NDArray[np.int64], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """One at random from each of n equal stretches, or all where there are no more than n."""
    if len(ordered) <= n:
        return ordered
    return np.array([rng.choice(part) for part in np.array_split(ordered, n)])


def _per_document(windows: Windows, order: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """The first n in order, from different documents while there are any."""
    _, first = np.unique(windows.doc[order], return_index=True)
    lead = np.zeros(len(order), bool)
    lead[first] = True
    return np.concatenate([order[lead], order[~lead]])[:n]


def _batches(items: Sequence[Item], size: int) -> tuple[tuple[Item, ...], ...]:
    return tuple(tuple(items[i : i + size]) for i in range(0, len(items), size))
