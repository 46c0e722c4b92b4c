"""Where training batches come from: a store's stream, a tensor, or any iterator of x [N, D]."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from monoscope.errors import DataError


@runtime_checkable
class Stream(Protocol):
    """Endless batches [batch_size, D] float32 whose position can be saved and restored."""

    def __iter__(self) -> Iterator[Tensor]: ...
    def __next__(self) -> Tensor: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class TensorStream:
    """Endless shuffled batches of the rows of x [N, D]; each pass is its own permutation.

    The order follows from (seed, pass) alone, so the position is two counters.
    """

    def __init__(self, x: Tensor, batch_size: int, seed: int) -> None:
        if x.ndim != 2:
            raise DataError(
                "activations have the wrong shape", got=list(x.shape), expected="[N, D]"
            )
        if x.shape[0] < batch_size:
            raise DataError(
                "fewer activations than one batch",
                got=f"{x.shape[0]} rows",
                expected=f"at least batch_size = {batch_size}",
                hint="Lower --batch-size or collect more tokens.",
            )
        require_finite(x)
        self.x, self.batch_size, self.seed = x, batch_size, seed
        self.n_rows = x.shape[0]
        self.epoch, self.cursor = 0, 0
        self._order = self._permutation()

    def _permutation(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return torch.randperm(self.n_rows, generator=generator)

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        rows = self._order[self.cursor : self.cursor + self.batch_size]
        self.cursor += rows.numel()
        if rows.numel() < self.batch_size:
            self.epoch, self.cursor = self.epoch + 1, self.batch_size - rows.numel()
            self._order = self._permutation()
            rows = torch.cat([rows, self._order[: self.cursor]])
        return self.x[rows].float()

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "cursor": self.cursor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.cursor = int(state["epoch"]), int(state["cursor"])
        self._order = self._permutation()


class IteratorStream:
    """Batches of batch_size rows cut from any iterator of x [N, D]; it cannot be resumed."""

    def __init__(self, batches: Iterable[Tensor], batch_size: int) -> None:
        self._source, self.batch_size = iter(batches), batch_size
        self._rest: Tensor | None = None
        self._seen = 0

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        parts = [] if self._rest is None else [self._rest]
        while sum(p.shape[0] for p in parts) < self.batch_size:
            x = next(self._source)
            if x.ndim != 2:
                raise DataError(
                    "activations have the wrong shape", got=list(x.shape), expected="[N, D]"
                )
            require_finite(x, first_row=self._seen)
            self._seen += x.shape[0]
            parts.append(x.detach().float())
        joined = torch.cat(parts)
        self._rest = joined[self.batch_size :]
        return joined[: self.batch_size]

    def push_back(self, batches: list[Tensor]) -> None:
        """Put batches that were looked at back in front."""
        rest = [self._rest] if self._rest is not None else []
        self._rest = None
        self._source = itertools.chain(batches, rest, self._source)
        self._seen -= sum(b.shape[0] for b in batches + rest)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise DataError(
            "a run over an iterator cannot be resumed",
            hint="Train from a store or a tensor to be able to resume.",
        )


def make_stream(source: Any, batch_size: int, seed: int) -> Stream:
    """A Stream over a tensor, an iterator, or a store: whatever has .stream(batch_size, seed)."""
    if hasattr(source, "stream"):
        stream: Stream = source.stream(batch_size, seed)
        return stream
    if isinstance(source, Tensor):
        return TensorStream(source, batch_size, seed)
    return IteratorStream(source, batch_size)


def peek(stream: Stream, n_batches: int) -> list[Tensor]:
    """The next batches, without using them up."""
    if isinstance(stream, IteratorStream):
        batches = list(itertools.islice(stream, n_batches))
        stream.push_back(batches)
        return batches
    state = stream.state_dict()
    batches = list(itertools.islice(stream, n_batches))
    stream.load_state_dict(state)
    return batches


def require_finite(x: Tensor, first_row: int = 0) -> None:
    """Raise DataError naming the first row of x that holds NaN or Inf."""
    bad = ~torch.isfinite(x).all(dim=1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise DataError("activations hold NaN or Inf", got=f"row {first_row + row}")
