"""Stream: an endless shuffled walk over the train rows of a store, resumable bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from monoscope.data.manifest import ShardInfo, Split
from monoscope.data.shards import Shard
from monoscope.errors import ConfigError, DataError, MismatchError

MAX_BYTES = 4 * 2**30

_SHARD_ORDER, _ROW_ORDER = 0, 1  # which of the two kinds of permutation a seed is for


class ShardSource(Protocol):
    """What a stream needs of a store."""

    @property
    def d_in(self) -> int: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def shards(self, split: Split) -> Sequence[ShardInfo]: ...
    def read(self, shard: ShardInfo) -> Shard: ...


class Stream:
    """Batches x [batch_size, D] float32; in each epoch every train row comes exactly once.

    An epoch permutes the shards, loads as many of them as fit into max_bytes (a window, of at
    least one shard) and permutes their rows; a store that fits whole is shuffled perfectly. A
    batch may reach into the next window or epoch. All permutations follow from (seed, epoch,
    window), so three counters are the whole state.

    about: what the rows come from, name by name, where the store says so.
    n_rows: rows of an epoch.  epoch: how many have been gone through.

    Raises ConfigError for a number out of range, DataError if n_rows < batch_size.
    """

    def __init__(
        self, store: ShardSource, batch_size: int, seed: int, *, max_bytes: int = MAX_BYTES,
        about: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("seed", seed, 0),
            ("max_bytes", max_bytes, 1),
        ):
            if value < least:
                raise ConfigError(f"{name} is out of range", got=value, expected=f">= {least}")
        self._store, self._shards = store, list(store.shards("train"))
        self.batch_size, self.seed, self.max_bytes = batch_size, seed, max_bytes
        self.n_rows = sum(shard.n_tokens for shard in self._shards)
        if self.n_rows < batch_size:
            raise DataError(
                "the store has too few train tokens for one batch",
                got=f"{self.n_rows} tokens",
                expected=f"at least batch_size = {batch_size}",
                hint="Harvest more tokens or use a smaller batch.",
            )
        shards = "".join(shard.sha256 for shard in self._shards)
        digest = hashlib.sha256(shards.encode()).hexdigest()
        self._identity = {"kind": "store", **(about or {}), "shards": digest}
        self._row_bytes = store.d_in * store.dtype.itemsize
        self._fits = self.n_rows * self._row_bytes <= max_bytes
        self._epoch = self._window = self._cursor = 0
        self._rows: Tensor | None = None  # [≥ rows of a window, D], one buffer for all windows
        self._loaded: list[int] = []  # the shards in _rows
        self._order: Tensor | None = None  # rows of the current window in the order they come
        self._windows = self._plan(0)

    @property
    def epoch(self) -> int:
        """Whole passes over the train rows so far."""
        return self._epoch

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        before = self._epoch, self._window, self._cursor
        parts, missing = [], self.batch_size
        try:
            while missing:
                rows, order = self._current()
                picked = order[self._cursor : self._cursor + missing]
                parts.append(rows.index_select(0, picked))
                missing -= picked.numel()
                self._advance(picked.numel())
        except BaseException:  # half a batch was taken: the place is the one before it
            self._go_to(*before)
            raise
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).float()

    def identity(self) -> dict[str, str]:
        """What the rows are, by name: the model, site and corpus they come from, and a hash."""
        return dict(self._identity)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, and what the walk depends on; JSON-able."""
        return self._walk() | {
            "epoch": self._epoch,
            "window": self._window,
            "cursor": self._cursor,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where `state_dict` was taken; the next batch is the one that followed it.

        A state that does not say which rows it was taken on is believed.

        Raises MismatchError if that stream had another seed, store or max_bytes.
        """
        for name, value in self._walk().items():
            if state.get(name, value if name in self._identity else None) != value:
                raise MismatchError(
                    f"the stream to resume had another {name}",
                    got=value,
                    expected=state.get(name),
                    hint="Resume with the same store, seed and memory limit.",
                )
        self._go_to(int(state["epoch"]), int(state["window"]), int(state["cursor"]))

    def _go_to(self, epoch: int, window: int, cursor: int) -> None:
        self._epoch, self._window, self._cursor = epoch, window, cursor
        self._windows = self._plan(epoch)
        self._order = None

    def _walk(self) -> dict[str, Any]:
        numbers = {"seed": self.seed, "n_rows": self.n_rows, "max_bytes": self.max_bytes}
        return numbers | self._identity

    def _plan(self, epoch: int) -> list[list[int]]:
        """The windows of an epoch, each a list of shard numbers."""
        if self._fits:
            return [list(range(len(self._shards)))]
        order = _permutation(len(self._shards), self.seed, epoch, _SHARD_ORDER)
        windows: list[list[int]] = []
        room = 0
        for shard in order.tolist():
            size = self._shards[shard].n_tokens * self._row_bytes
            if not windows or size > room:
                windows.append([])
                room = self.max_bytes
            windows[-1].append(shard)
            room -= size
        return windows

    def _current(self) -> tuple[Tensor, Tensor]:
        """The rows of the current window and the order they come in, loaded if need be."""
        if self._rows is None or self._order is None:
            shards = self._windows[self._window]
            n = sum(self._shards[shard].n_tokens for shard in shards)
            if self._rows is None or self._loaded != shards:
                self._rows = self._load(shards)
            self._order = _permutation(n, self.seed, self._epoch, _ROW_ORDER, self._window)
        return self._rows, self._order

    def _load(self, shards: list[int]) -> Tensor:
        """Copy the rows of some shards into the one buffer."""
        rows, self._loaded = self._rows, []
        if rows is None:
            largest = max(shard.n_tokens for shard in self._shards)
            most = min(self.n_rows, max(self.max_bytes // self._row_bytes, largest))
            rows = torch.empty(most, self._store.d_in, dtype=self._store.dtype)
        at = 0
        for shard in shards:
            acts = self._store.read(self._shards[shard]).acts
            rows[at : at + acts.shape[0]] = acts
            at += acts.shape[0]
        self._loaded = shards
        return rows

    def _advance(self, n: int) -> None:
        self._cursor += n
        if self._order is not None and self._cursor == self._order.numel():
            self._cursor, self._window, self._order = 0, self._window + 1, None
            if self._window == len(self._windows):
                self._window, self._epoch = 0, self._epoch + 1
                self._windows = self._plan(self._epoch)


def _permutation(n: int, *key: int) -> Tensor:
    """The permutation of n things [n] int64 that belongs to a key of non-negative integers."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))
