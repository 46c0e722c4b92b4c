"""Which tokens of a store an evaluation looks at: whole held-out documents, and a train sample."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from monoscope.errors import DataError

if TYPE_CHECKING:
    from monoscope.data.store import ActivationStore

TILE = 2048  # tokens encoded at once
_SHARDS = 16  # a small sample still draws from this many shards, for they follow the corpus's order


def choose_documents(lengths: dict[int, int], n_tokens: int | None, seed: int) -> list[int]:
    """Documents in a seeded random order until they hold n_tokens (all of them for None).

    lengths: tokens by document. The last document is taken whole, so its tokens may overshoot.
    Raises DataError if there are no documents.
    """
    if not lengths:
        raise DataError(
            "the store has no held-out tokens to evaluate on",
            hint="Harvest it again with held_out above 0, or from more documents.",
        )
    docs = np.array(sorted(lengths), dtype=np.int64)
    order = np.random.default_rng(seed).permutation(docs).tolist()
    if n_tokens is None:
        return order
    cumulative = np.cumsum([lengths[d] for d in order])
    return order[: int(np.searchsorted(cumulative, n_tokens)) + 1]


def held_out_lengths(store: ActivationStore) -> dict[int, int]:
    """Kept tokens by held-out document."""
    lengths: Counter[int] = Counter()
    for batch in store.batches("held_out", TILE):
        docs, counts = batch.doc.unique(return_counts=True)
        lengths.update(dict(zip(docs.tolist(), counts.tolist(), strict=True)))
    return dict(lengths)


def held_out_tiles(
    store: ActivationStore, docs: Collection[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Tiles of x [n,D] float32 and doc [n] over the held-out tokens of `docs`."""
    wanted = torch.tensor(sorted(docs), dtype=torch.int64)
    for batch in store.batches("held_out", TILE):
        mine = torch.isin(batch.doc, wanted)
        if mine.any():
            yield batch.acts[mine].float(), batch.doc[mine]


def train_tiles(store: ActivationStore, n_tokens: int, seed: int) -> Iterator[Tensor]:
    """Tiles of x [n,D] float32: a random sample of about n_tokens train tokens, none twice.

    The sample spreads over at least 16 shards (all, if there are fewer) and is every train token
    where the store has no more than n_tokens.
    """
    total, shards = store.n_tokens("train"), store.shards("train")
    if not shards or n_tokens < 1:
        return
    rng = np.random.default_rng(seed)
    n_shards = min(len(shards), max(_SHARDS, math.ceil(len(shards) * n_tokens / total)))
    share = min(1.0, n_tokens / total * len(shards) / n_shards)
    left = n_tokens
    for i in rng.permutation(len(shards))[:n_shards].tolist():
        acts = store.read(shards[i]).acts
        take = min(left, math.ceil(share * len(acts)))
        rows = torch.from_numpy(np.sort(rng.permutation(len(acts))[:take]))
        left -= take
        for part in rows.split(TILE):
            yield acts[part].float()
