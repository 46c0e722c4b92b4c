"""The one pass over a store: encode each block of documents once, gather everything from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from monoscope.errors import DataError
from monoscope.features.statistics import Statistics

BLOCK_TOKENS = 16_384  # tokens (of whole documents) whose codes are held at once
Progress = Callable[[int, int], None]  # tokens done, tokens in all


@dataclass(frozen=True)
class Pass:
    """What one pass gave, and the seconds it spent encoding, gathering, and in all."""

    statistics: Statistics
    encode_seconds: float
    gather_seconds: float
    seconds: float


@dataclass(frozen=True)
class Block:
    """Rows of one shard, of whole documents: x [n,D], doc [n], pos [n].

    first: number of the first row in the shard; meta: of the shard's documents, by number.
    """

    shard: Any
    first: int
    x: torch.Tensor
    doc: NDArray[np.int64]
    pos: NDArray[np.int32]
    meta: dict[int, dict[str, str]]


def collect_statistics(
    sae: Any,
    store: Any,
    *,
    n_tokens: int | None = None,
    seed: int = 0,
    batch_size: int = 4096,
    progress: Progress | None = None,
) -> Pass:
    """Stream the train split of `store` through `sae.encode` and gather its statistics.

    n_tokens: stop after so many (default and at most: all there are). batch_size: tokens encoded
    at once.

    Raises DataError if the train split is empty, or if an activation or code is NaN or infinite,
    naming the shard and row.
    """
    available = store.n_tokens("train")
    total = available if n_tokens is None else min(n_tokens, available)
    if total == 0:
        raise DataError("there is nothing to index: the store's train split is empty")
    statistics: Statistics | None = None
    encoding, gathering, begun = 0.0, 0.0, time.perf_counter()
    threads = numba.get_num_threads()
    for block in _blocks(store, total):
        start = time.perf_counter()
        indices, values, offsets = _encode(sae, block, batch_size)
        encoded = time.perf_counter()
        if statistics is None:
            l0 = len(indices) / len(block.doc)
            statistics = Statistics(sae.config.d_sae, seed=seed, expected_l0=l0)
        statistics.update(
            indices, values, offsets, block.doc, block.pos, block.meta, threads=threads
        )  # fmt: skip
        encoding += encoded - start
        gathering += time.perf_counter() - encoded
        if progress is not None:
            progress(statistics.n_tokens, total)
    assert statistics is not None
    return Pass(statistics, encoding, gathering, time.perf_counter() - begun)


def _blocks(store: Any, total: int) -> Iterator[Block]:
    """Blocks of whole documents, about BLOCK_TOKENS each, until `total` tokens are read."""
    done = 0
    for info in store.shards("train"):
        if done >= total:
            return
        shard = store.read(info)
        doc = np.ascontiguousarray(shard.doc, dtype=np.int64)
        pos = np.ascontiguousarray(shard.pos, dtype=np.int32)
        n = min(len(doc), total - done)
        begins = np.flatnonzero(np.diff(doc[:n], prepend=-1))
        documents = store.get_documents(doc[begins].tolist())
        meta = {number: document.meta for number, document in documents.items()}
        cuts = np.append(begins, n)
        first = 0
        while first < n:
            cut = int(np.searchsorted(cuts, first + BLOCK_TOKENS))
            last = int(cuts[min(cut, len(cuts) - 1)])
            rows = slice(first, last)
            yield Block(info, first, shard.acts[rows], doc[rows], pos[rows], meta)
            first = last
        done += n


def _encode(
    sae: Any, block: Block, batch_size: int
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
    """The codes of a block in compressed rows, encoded in equal batches of at most batch_size."""
    device = sae.W_dec.device
    indices, values, lengths = [], [], []
    cuts = np.linspace(0, len(block.doc), -(-len(block.doc) // batch_size) + 1).astype(int)
    for first, last in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        x = block.x[first:last]
        finite = torch.isfinite(x).all(dim=-1)
        if not finite.all():
            raise _not_finite("an activation", block, first + int((~finite).nonzero()[0, 0]))
        with torch.inference_mode():
            codes = sae.encode(x.to(device))
        indices.append(codes.indices.cpu().numpy())
        values.append(codes.values.float().cpu().numpy())
        lengths.append(codes.offsets.diff().cpu().numpy())
        if not np.isfinite(values[-1]).all():
            rows = np.repeat(np.arange(last - first), lengths[-1])
            row = int(rows[~np.isfinite(values[-1])][0])
            raise _not_finite("the SAE's code of a row", block, first + row)
    offsets = np.concatenate([[0], *lengths]).cumsum()
    return np.concatenate(indices), np.concatenate(values), offsets


def _not_finite(what: str, block: Block, row: int) -> DataError:
    name = getattr(block.shard, "file", block.shard)
    place = f"document {block.doc[row]}, token {block.pos[row]}"
    return DataError(
        f"{what} is NaN or infinite",
        got=f"shard {name}, row {block.first + row} ({place})",
        hint="Harvest the store again, in a wider dtype if the model overflows.",
    )
