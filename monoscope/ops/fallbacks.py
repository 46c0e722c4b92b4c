"""Fallbacks: how many rows the fast selections could not prove, counted over whatever runs inside.

An encoder lives for one update of the weights, so its own count is lost with it. Inside
`with Fallbacks() as handed:` every encoder of this thread adds to handed.rows too.
"""

from __future__ import annotations

from contextvars import ContextVar, Token

_OPEN: ContextVar[Fallbacks | None] = ContextVar("open_fallbacks", default=None)


class Fallbacks:
    """rows: those handed to the fp32 reference while this was the innermost one open."""

    def __init__(self) -> None:
        self.rows = 0
        self._token: Token[Fallbacks | None] | None = None

    def __enter__(self) -> Fallbacks:
        self._token = _OPEN.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._token is not None
        _OPEN.reset(self._token)


def count_fallbacks(rows: int) -> None:
    """Add to the innermost `Fallbacks` of this thread, if there is one."""
    counter = _OPEN.get()
    if counter is not None:
        counter.rows += rows
