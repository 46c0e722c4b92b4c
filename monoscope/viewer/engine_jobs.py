"""One piece of work for the model: run on the engine's thread, watched from the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from fastapi import Request

from monoscope.errors import MonoscopeError

if TYPE_CHECKING:
    from monoscope.viewer.engine import Loaded

Work = Callable[["Loaded"], Iterator[Any]]
"""What a job does: an iterator of what to tell; between two such things it can be stopped."""

POLL_SECONDS = 0.25  # how soon it is noticed that a client has gone


class Unavailable(MonoscopeError):
    """The model cannot be asked: none was given, it could not be loaded, or the viewer closes."""

    status: ClassVar[int] = 503


class Busy(MonoscopeError):
    """As much work is waiting as the engine takes."""

    status: ClassVar[int] = 429

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(
            "the model is busy",
            got=f"{waiting} requests before this one",
            hint=f"Try again in {retry_after} s.",
        )
        self.headers = {"Retry-After": str(retry_after)}


class Crashed(MonoscopeError):
    """The model stumbled over this one request; the viewer and its other requests go on."""

    status: ClassVar[int] = 500


class Gone(MonoscopeError):
    """Nobody waits for the answer any more."""

    status: ClassVar[int] = 400


class Job:
    """A piece of work and what it has told so far.

    Made on the event loop, which takes what is told with `told`; run on the engine's thread, which
    stops between two things told once `cancel` was called.
    """

    def __init__(self, work: Work, loop: asyncio.AbstractEventLoop) -> None:
        self.work, self._loop = work, loop
        self._news: deque[tuple[str, Any]] = deque()
        self._awake = asyncio.Event()
        self._cancelled = threading.Event()
        self.finished = threading.Event()
        self.forget: Callable[[Job], None] = lambda job: None  # what takes it out of the queue

    @property
    def cancelled(self) -> bool:
        """Whether nobody wants the answer any more."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Stop as soon as may be: before it begins, or before the next thing it would tell."""
        self._cancelled.set()
        self.forget(self)

    # On the engine's thread:

    def run(self, loaded: Loaded) -> None:
        """Do the work, telling what comes; whatever it raises is told too, and not raised."""
        import torch

        try:
            with torch.no_grad():
                events = iter(self.work(loaded))
                try:
                    while not self.cancelled:
                        event = next(events, _END)
                        if event is _END:
                            break
                        self._tell("event", event)
                finally:
                    close = getattr(events, "close", None)
                    if close is not None:
                        close()
        except BaseException as exc:  # whatever it is, the next request must find a living thread
            self.fail(exc)
        else:
            self._tell("end", None)
        finally:
            self.finished.set()

    def fail(self, exc: BaseException) -> None:
        """Tell that there will be no answer, and why."""
        self._tell("error", exc)
        self.finished.set()

    def _tell(self, kind: str, what: Any) -> None:
        def put() -> None:
            self._news.append((kind, what))
            self._awake.set()

        try:
            self._loop.call_soon_threadsafe(put)
        except RuntimeError:  # the loop has ended, and with it whoever asked
            self._cancelled.set()

    # On the event loop:

    async def told(self, request: Request) -> AsyncIterator[Any]:
        """What the work tells, one by one. Cancels it when its client has gone.

        Raises what the work raised; Gone where the client has gone.
        """
        try:
            while True:
                while not self._news:
                    self._awake.clear()
                    try:
                        await asyncio.wait_for(self._awake.wait(), POLL_SECONDS)
                    except TimeoutError:
                        if await request.is_disconnected():
                            raise Gone("the client has gone") from None
                kind, what = self._news.popleft()
                if kind == "end":
                    return
                if kind == "error":
                    raise what
                yield what
        finally:
            self.cancel()


_END = object()
