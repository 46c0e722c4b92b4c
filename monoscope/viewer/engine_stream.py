"""What a job tells, as server-sent events; an error after the first of them is an event as well."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi.responses import StreamingResponse

from monoscope.errors import MonoscopeError
from monoscope.viewer import problems
from monoscope.viewer.engine_jobs import Gone

HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "Server-sent events."}
}
Encode = Callable[[Any], str]


def event(name: str, data: Any) -> str:
    """One server-sent event with a name, its data as JSON on one line."""
    return f"event: {name}\n{data_line(data)}"


def data_line(data: Any) -> str:
    """One server-sent event without a name."""
    return f"data: {json.dumps(data, allow_nan=False, ensure_ascii=False)}\n\n"


def problem_event(exc: MonoscopeError) -> str:
    """An error as an event named `problem`, with the body that a response would have had."""
    body = bytes(problems.from_error(exc).body).decode()
    return f"event: problem\ndata: {body}\n\n"


def stream(
    first: Any, rest: AsyncIterator[Any], encode: Encode, failed: Encode = problem_event,
    last: str = "",
) -> StreamingResponse:  # fmt: skip
    """A response of everything told, each made text by `encode`; `last` ends what went well."""

    async def body() -> AsyncIterator[str]:
        try:
            yield encode(first)
            async for what in rest:
                yield encode(what)
            yield last
        except Gone:
            return
        except MonoscopeError as exc:
            yield failed(exc)
        finally:
            await rest.aclose()  # type: ignore[attr-defined]

    return StreamingResponse(body(), media_type="text/event-stream", headers=HEADERS)
