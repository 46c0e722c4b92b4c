"""Where training batches come from: a store's stream, a tensor, or any iterator of x [N, D].

Every value is taken as the nearest float32, by itself, whatever floating dtype it comes in; so a
stream whose batches have several dtypes trains as the same stream in float32 does.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from monoscope.errors import DataError, MismatchError

LOOKAHEAD_TOKENS = 65_536  # how soon a run learns that an iterator is about to end
_TILE_ROWS = 65_536  # converted at a time to be looked at


@runtime_checkable
class Stream(Protocol):
    """Endless batches [batch_size, D] float32 whose position can be saved and restored.

    A batch that raises leaves the position as it was before.  A stream may further have n_rows,
    rows of a pass over data that have an end; origin, what to call a wait for it; provenance();
    and identity() -> dict, what its rows are, name by name, so that a run is never resumed on
    others: "kind" says what the data are, the other names depend on it.  reached, a tuple that
    only grows along the data, is for streams that share a reading and are to keep close in it.
    """

    def __iter__(self) -> Iterator[Tensor]: ...
    def __next__(self) -> Tensor: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class TensorStream:
    """Endless shuffled batches of the rows of x [N, D]; each pass is its own permutation.

    The order follows from (seed, pass) alone, so the position is two counters.
    """

    def __init__(self, x: Tensor, batch_size: int, seed: int) -> None:
        require_activations(x)
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

    def identity(self) -> dict[str, Any]:
        """How many rows there are, and a checksum of some of them; JSON-able."""
        walk = self._walk()
        return {"kind": "tensor", "n_rows": walk["n_rows"], "sample": walk["sample"]}

    def state_dict(self) -> dict[str, Any]:
        return self._walk() | {"epoch": self.epoch, "cursor": self.cursor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where `state_dict` was taken.

        Raises MismatchError if the rows, or the seed that orders them, were others.
        """
        _same_walk(self._walk(), state)
        self.epoch, self.cursor = int(state["epoch"]), int(state["cursor"])
        self._order = self._permutation()

    def _walk(self) -> dict[str, Any]:
        rows = torch.linspace(0, self.n_rows - 1, min(64, self.n_rows)).long()
        return {"seed": self.seed, "n_rows": self.n_rows, "sample": _crc(self.x[rows].float())}


class IteratorStream:
    """Batches of batch_size rows cut from any iterator of x [N, D], in its order.

    It reads LOOKAHEAD_TOKENS ahead. n_ahead: rows still to come, known once the iterator has ended;
    what is left over for less than a batch is not used.  A run over it can be resumed when the
    iterator gives the same rows again: they are skipped, and compared by their checksum.
    """

    def __init__(self, batches: Iterable[Tensor], batch_size: int) -> None:
        self._source, self.batch_size = iter(batches), batch_size
        self._ahead: deque[Tensor] = deque()
        self._rest: list[Tensor] = []
        self._read = 0  # rows taken from the source
        self._given, self._crc = 0, 0
        self._ended = False
        self._like: Tensor | None = None

    @property
    def n_ahead(self) -> int | None:
        """Rows of the batches still to come; None while the end is not in sight."""
        return self.batch_size * len(self._ahead) if self._ended else None

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        self._fill(1 + LOOKAHEAD_TOKENS // self.batch_size)
        if not self._ahead:
            raise StopIteration
        batch = self._ahead.popleft()
        self._given += self.batch_size
        self._crc = _crc(batch, self._crc)
        return batch

    def look(self, n_batches: int) -> list[Tensor]:
        """The next batches, or as many as there are, without using them up."""
        self._fill(n_batches)
        return list(islice(self._ahead, n_batches))

    def _fill(self, n_batches: int) -> None:
        """Read on until n_batches lie ready, or the source has ended."""
        while len(self._ahead) < n_batches and not self._ended:
            x = next(self._source, None)
            if x is None:
                self._ended = True
                return
            self._rest.append(self._checked(x))
            if sum(part.shape[0] for part in self._rest) >= self.batch_size:
                *whole, rest = _cut(torch.cat(self._rest), self.batch_size)
                self._ahead.extend(whole)
                self._rest = [rest]

    def _checked(self, x: Tensor) -> Tensor:
        """x as float32 on the device of the first, its values and width checked."""
        x = _tensor(x)
        require_activations(x)
        if self._like is None:
            self._like = x[:0]
        if x.shape[1] != self._like.shape[1]:
            raise DataError(
                "activations change their width",
                got=f"{x.shape[1]} at row {self._read}",
                expected=f"{self._like.shape[1]}, as before",
            )
        require_finite(x, first_row=self._read)
        self._read += x.shape[0]
        return x.detach().to(self._like.device, torch.float32)

    def identity(self) -> dict[str, Any]:
        """That it is an iterator; what its rows are is known once they have come."""
        return {"kind": "iterator"}

    def state_dict(self) -> dict[str, Any]:
        return {"given": self._given, "crc": self._crc}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Skip the rows that were given when `state_dict` was taken.

        Raises MismatchError if the iterator does not give the same rows again.
        """
        if self._given > int(state["given"]):
            raise MismatchError("an iterator cannot go back", got=self._given, expected=state)
        try:
            while self._given < int(state["given"]):
                next(self)
        except StopIteration:
            pass
        got = self.state_dict()
        if got != {"given": int(state["given"]), "crc": int(state["crc"])}:
            raise MismatchError(
                "the iterator does not give the rows it gave before",
                got=f"other values in the first {got['given']} rows",
                expected=f"the {state['given']} rows that were trained on",
                hint="Make it anew so that it begins at its start, or train from a store.",
            )


def make_stream(source: Any, batch_size: int, seed: int) -> Stream:
    """A Stream over whatever has .stream(batch_size, seed), a tensor or array [N, D], a list of
    tensors, which are joined, or an iterator of them."""
    if hasattr(source, "stream"):
        stream: Stream = source.stream(batch_size, seed)
        return stream
    if isinstance(source, list | tuple):
        parts = IteratorStream(source, 1)
        source = torch.cat([parts._checked(x) for x in source]) if source else torch.zeros(0, 0)
    if isinstance(source, Tensor | np.ndarray):
        return TensorStream(_tensor(source), batch_size, seed)
    if not isinstance(source, Iterable):
        raise DataError(
            "cannot train on this",
            got=type(source).__name__,
            expected="a store, activations [N, D], or an iterator of them",
        )
    return IteratorStream(source, batch_size)


def peek(stream: Stream, n_batches: int) -> list[Tensor]:
    """The next batches, without using them up; DataError if there is not one."""
    if isinstance(stream, IteratorStream):
        batches = stream.look(n_batches)
        if not batches:
            raise DataError(
                "fewer activations than one batch",
                got=f"{stream._read} rows in all",
                expected=f"at least batch_size = {stream.batch_size}",
                hint="Use a smaller batch.",
            )
        return batches
    state = stream.state_dict()
    try:
        return list(islice(stream, n_batches))
    finally:
        stream.load_state_dict(state)


def require_activations(x: Tensor) -> None:
    """Raise DataError unless x is [N, D] of a floating dtype, with values."""
    if x.ndim != 2:
        raise DataError("activations have the wrong shape", got=list(x.shape), expected="[N, D]")
    if not x.is_floating_point():
        raise DataError(
            "activations have the wrong dtype",
            got=x.dtype,
            expected="float32, float64, bfloat16 or float16",
        )
    if x.is_meta:
        raise DataError(
            "activations are on the meta device, where tensors have no values",
            expected="cpu or a GPU",
            hint="Compute them outside of torch.device('meta').",
        )


def require_finite(x: Tensor, first_row: int = 0) -> None:
    """Raise DataError naming the first row of x that holds NaN or Inf, or would as float32."""
    for start in range(0, x.shape[0], _TILE_ROWS):
        tile = x[start : start + _TILE_ROWS]
        bad = ~torch.isfinite(tile.float()).all(dim=1)
        if bad.any():
            row = int(bad.nonzero()[0])
            too_large = bool(torch.isfinite(tile[row]).all())
            raise DataError(
                "activations are too large for float32" if too_large
                else "activations hold NaN or Inf",
                got=f"row {first_row + start + row}",
                expected="values below 3.4e38" if too_large else None,
            )  # fmt: skip


def _tensor(x: Any) -> Tensor:
    if isinstance(x, Tensor):
        return x
    if isinstance(x, np.ndarray):
        return torch.from_numpy(x)
    raise DataError("cannot train on this", got=type(x).__name__, expected="tensors [N, D]")


def _cut(x: Tensor, size: int) -> list[Tensor]:
    """Blocks of `size` rows, then what is left over (it may be empty)."""
    n = x.shape[0] // size
    return [*x[: n * size].split(size), x[n * size :]]


def _crc(x: Tensor, before: int = 0) -> int:
    return zlib.crc32(x.detach().cpu().contiguous().numpy().data, before)


def _same_walk(now: dict[str, Any], then: dict[str, Any]) -> None:
    for name, value in now.items():
        if then.get(name) != value:
            raise MismatchError(
                f"the data to resume with have another {name.replace('_', ' ')}",
                got=value,
                expected=then.get(name),
                hint="Resume with the same activations and seed.",
            )
