"""Windows of text with every token's activations measured: what explanations are tested on."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from monoscope.errors import DataError
from monoscope.features.label_sample import ENCODE_BATCH, OVERSAMPLE, some_shards
from monoscope.ops.codes import SparseCodes

if TYPE_CHECKING:
    from monoscope.data.manifest import Split
    from monoscope.data.store import ActivationStore

OPEN, CLOSE = "<<", ">>"  # around marked tokens; windows that hold either are left out


class Encoder(Protocol):
    """What is asked of an SAE, trained or random."""

    def encode(self, x: torch.Tensor) -> SparseCodes: ...


@dataclass(frozen=True)
class Window:
    """Consecutive tokens of one document: their text, piece by piece, and one latent on each."""

    doc: int
    start: int
    pieces: tuple[str, ...]
    values: tuple[float, ...]

    @property
    def text(self) -> str:
        """The pieces joined."""
        return "".join(self.pieces)

    @property
    def peak(self) -> float:
        """The latent's largest value here."""
        return max(self.values, default=0.0)


@dataclass(frozen=True)
class Windows:
    """All windows of a sample, W tokens each, and where any latent fires in them.

    doc, start [n]: the document and number of a window's first token. texts: its pieces. Entry e:
    latent[e] fires at value[e] on token at[e] of window window[e]; sorted by latent.
    """

    width: int
    doc: NDArray[np.int64]
    start: NDArray[np.int64]
    texts: list[tuple[str, ...]]
    latent: NDArray[np.int64]
    window: NDArray[np.int64]
    at: NDArray[np.int64]
    value: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.doc)

    def peaks(self, latent: int) -> NDArray[np.float64]:
        """The latent's largest value in every window, [n]; exactly 0 where it is silent."""
        out = np.zeros(len(self))
        own = self._own(latent)
        np.maximum.at(out, self.window[own], self.value[own])
        return out

    def show(self, latent: int, window: int) -> Window:
        """One window with one latent's values."""
        values = np.zeros(self.width)
        own = self._own(latent)
        here = self.window[own] == window
        values[self.at[own][here]] = self.value[own][here]
        return Window(
            int(self.doc[window]), int(self.start[window]), self.texts[window],
            tuple(values.tolist()),
        )  # fmt: skip

    def _own(self, latent: int) -> slice:
        low, high = np.searchsorted(self.latent, [latent, latent + 1])
        return slice(int(low), int(high))


def cut_windows(
    store: ActivationStore,
    split: Split,
    encoders: dict[str, Encoder],
    n_tokens: int,
    *,
    width: int = 32,
    seed: int = 0,
) -> dict[str, Windows]:
    """Windows of about n_tokens tokens of whole documents of a split, read by each encoder.

    Only runs of consecutive tokens that the store kept are cut, so that every token of a window
    has an activation: a latent that is 0 there was measured and found silent. Windows do not
    overlap, copies of an earlier one are left out.

    Raises DataError if not one window comes of it.
    """
    rng = np.random.default_rng([seed, 11])
    tokens = _Tokens(width, {name: [] for name in encoders})
    share = n_tokens / _opened(store, split, n_tokens)
    for info in some_shards(store.shards(split), n_tokens * OVERSAMPLE, rng):
        tokens.add(store, store.read(info), encoders, share, rng)
    if not tokens.doc:
        raise DataError(
            f"the {split} split holds no run of {width} kept tokens",
            got=str(store.path),
            hint="Harvest more text.",
        )
    return {name: tokens.windows(parts) for name, parts in tokens.entries.items()}


class _Tokens:
    """Windows being gathered, shard by shard."""

    def __init__(self, width: int, entries: dict[str, list[Any]]) -> None:
        self.width, self.entries = width, entries
        self.doc: list[int] = []
        self.start: list[int] = []
        self.texts: list[tuple[str, ...]] = []
        self.seen: set[str] = set()

    def add(
        self, store: Any, shard: Any, encoders: dict[str, Encoder], share: float, rng: Any
    ) -> None:
        """Cut the windows of some of a shard's documents and encode their tokens."""
        doc, pos = shard.doc.numpy().astype(np.int64), shard.pos.numpy().astype(np.int64)
        ids = np.unique(doc)
        picked = ids[rng.random(len(ids)) < share] if share < 1 else ids
        documents = store.get_documents(picked.tolist())
        firsts = []
        for first in _starts(doc, pos, np.isin(doc, picked), self.width):
            pieces = _pieces(documents[int(doc[first])], int(pos[first]), self.width)
            text = "".join(pieces)
            key = " ".join(text.split()).lower()
            if key and key not in self.seen and OPEN not in text and CLOSE not in text:
                self.seen.add(key)
                firsts.append(first)
                self.texts.append(pieces)
        base = len(self.doc)
        self.doc += doc[firsts].tolist()
        self.start += pos[firsts].tolist()
        rows = (np.array(firsts, np.int64)[:, None] + np.arange(self.width)).ravel()
        for begin in range(0, len(rows), ENCODE_BATCH):
            part = rows[begin : begin + ENCODE_BATCH]
            x = shard.acts[torch.from_numpy(part)]
            for name, encoder in encoders.items():
                self.entries[name].append(_entries(encoder, x, base * self.width + begin))

    def windows(self, parts: list[Any]) -> Windows:
        latent, token, value = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.lexsort((token, latent))
        return Windows(
            self.width, np.array(self.doc), np.array(self.start), self.texts, latent[order],
            token[order] // self.width, token[order] % self.width, value[order],
        )  # fmt: skip


def _entries(encoder: Encoder, x: torch.Tensor, first: int) -> tuple[NDArray[Any], ...]:
    with torch.no_grad():
        codes = encoder.encode(x.to(getattr(encoder, "W_dec", x).device))
    fired = codes.values > 0
    return (
        codes.indices[fired].cpu().numpy().astype(np.int64),
        codes.rows[fired].cpu().numpy() + first,
        codes.values[fired].double().cpu().numpy(),
    )


def _starts(
    doc: NDArray[np.int64], pos: NDArray[np.int64], picked: NDArray[np.bool_], width: int
) -> list[int]:
    """First rows of the windows: each run of consecutive kept tokens cut from its beginning."""
    breaks = np.flatnonzero((np.diff(doc) != 0) | (np.diff(pos) != 1)) + 1
    bounds = [0, *breaks.tolist(), len(doc)]
    return [
        first
        for low, high in pairwise(bounds)
        if low < high and picked[low]
        for first in range(low, high - width + 1, width)
    ]


def _pieces(document: Any, start: int, width: int) -> tuple[str, ...]:
    ends = [document.ends[start - 1] if start else 0, *document.ends[start : start + width]]
    return tuple(document.text[a:b] for a, b in pairwise(ends))


def _opened(store: Any, split: str, n_tokens: int) -> int:
    """Tokens in the shards that `some_shards` picks, at least n_tokens where there are so many."""
    total = sum(info.n_tokens for info in store.shards(split))
    return max(1, min(total, n_tokens * OVERSAMPLE))
