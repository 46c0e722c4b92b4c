"""Ahead: batches read, and moved to where the weights are, while the steps before them run.

A thread reads DEPTH batches ahead. On an NVIDIA GPU it copies them through pinned memory on a
stream of its own, so that neither reading nor copying holds up a step.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from monoscope.train.source import IteratorStream, Stream

DEPTH = 2  # batches read but not yet taken: one that waits, one that is under way


@dataclass(frozen=True)
class _Read:
    """A batch that was read, or why there is none, and where the stream stood after it."""

    batch: Tensor | None
    error: BaseException | None = None
    place: dict[str, Any] | None = None
    n_ahead: int | None = None
    copied: torch.cuda.Event | None = None


def reads_ahead(device: str | None) -> bool:
    """Whether a run on this device gains by it: the steps of a GPU leave the host free."""
    return torch.device(device or "cpu").type == "cuda"


class Ahead:
    """A Stream that reads another ahead; the same batches in the same order, on `device`.

    Its place is that of the last batch taken, whatever has been read since, and an error of the
    stream is raised where its batch would have come. Nothing is read before the first batch is
    asked for. After `rewind` the stream itself may be used, until the next batch is asked for.
    """

    def __init__(
        self, stream: Stream, device: torch.device | str = "cpu", depth: int = DEPTH
    ) -> None:
        self.stream, self.device, self.depth = stream, torch.device(device), depth
        self.n_ahead: int | None = getattr(stream, "n_ahead", None)
        self._place: dict[str, Any] | None = None  # None: the stream stands where it is wanted
        self._ready: deque[_Read] = deque()
        self._changed = threading.Condition()
        self._stop = False
        self._thread: threading.Thread | None = None

    def __iter__(self) -> Ahead:
        return self

    def __next__(self) -> Tensor:
        if self._thread is None and not self._ready:
            self._start()
        with self._changed:
            self._changed.wait_for(lambda: bool(self._ready))
            read = self._ready[0]
            if read.error is None:
                self._ready.popleft()
                self._changed.notify_all()
        if read.error is not None:  # it stays there: who asks again gets it again
            self._join()
            raise read.error
        assert read.batch is not None
        self._place, self.n_ahead = read.place, read.n_ahead
        if read.copied is not None:
            now = torch.cuda.current_stream(self.device)
            now.wait_event(read.copied)
            read.batch.record_stream(now)  # its memory is not given away before it was used
        return read.batch

    @property
    def reached(self) -> tuple[int, ...] | None:
        """That of the stream itself, a few batches ahead; see `Stream`."""
        reached: tuple[int, ...] | None = getattr(self.stream, "reached", None)
        return reached

    def state_dict(self) -> dict[str, Any]:
        """Where the last batch taken leaves the stream."""
        return self.stream.state_dict() if self._place is None else self._place

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where `state_dict` was taken; what was read ahead is forgotten."""
        self._join()
        self._ready.clear()
        self._place = None
        self.stream.load_state_dict(state)
        self.n_ahead = getattr(self.stream, "n_ahead", None)

    def rewind(self) -> None:
        """Stop reading, and set the stream itself to where the last batch taken leaves it.

        An iterator cannot go back: what was read of it waits here instead.
        """
        self._join()
        if self._place is not None and not isinstance(self.stream, IteratorStream):
            self.load_state_dict(self._place)

    def close(self) -> None:
        """Stop reading; no thread is left, and the stream is closed if it can be."""
        self._join()
        if hasattr(self.stream, "close"):
            self.stream.close()

    def _start(self) -> None:
        self._stop = False
        if self._place is None:
            self._place = self.stream.state_dict()
        self._thread = threading.Thread(target=self._run, name="read ahead", daemon=True)
        self._thread.start()

    def _join(self) -> None:
        if self._thread is None:
            return
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        self._thread.join()
        self._thread = None

    def _run(self) -> None:
        copies = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stop or len(self._ready) < self.depth)
                if self._stop:
                    return
            read = self._next(copies)
            with self._changed:
                self._ready.append(read)
                self._changed.notify_all()
            if read.error is not None:
                return

    def _next(self, copies: torch.cuda.Stream | None) -> _Read:
        try:
            batch = next(self.stream)
            place, n_ahead = self.stream.state_dict(), getattr(self.stream, "n_ahead", None)
            if copies is None or batch.device.type == "cuda":
                return _Read(batch.to(self.device), None, place, n_ahead)
            with torch.cuda.stream(copies):
                moved = batch.pin_memory().to(self.device, non_blocking=True)
                copied = torch.cuda.Event()
                copied.record(copies)
            return _Read(moved, None, place, n_ahead, copied)
        except BaseException as error:  # raised again where the batch is asked for
            return _Read(None, error)
