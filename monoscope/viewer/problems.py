"""Errors as problem+json (RFC 9457): what was wrong, got, expected, a hint; never a traceback."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from monoscope.errors import LatentError, MismatchError, MonoscopeError, OutputError

MEDIA_TYPE = "application/problem+json"
_STATUS: tuple[tuple[type[MonoscopeError], int], ...] = (
    (LatentError, 404),
    (MismatchError, 409),
    (OutputError, 409),
    (MonoscopeError, 400),
)
SHELL = Path(__file__).parent / "static" / "index.html"
_log = logging.getLogger(__name__)


class Problem(BaseModel):
    """An error: title in a few words, detail in one line; got, expected and hint where known."""

    title: str
    status: int
    detail: str
    got: str | None = None
    expected: str | None = None
    hint: str | None = None


_REFERENCE = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"content": _REFERENCE, "description": "What was wrong."}
}


def status_of(exc: MonoscopeError) -> int:
    """The HTTP status of an error; an attribute `status` of its own goes first."""
    own = getattr(exc, "status", None)
    return own if isinstance(own, int) else next(s for kind, s in _STATUS if isinstance(exc, kind))


def problem(
    status: int,
    detail: str,
    *,
    got: object = None,
    expected: object = None,
    hint: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A problem+json response."""
    body = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        got=None if got is None else str(got),
        expected=None if expected is None else str(expected),
        hint=hint,
    )
    return JSONResponse(
        body.model_dump(exclude_none=True), status, headers=headers, media_type=MEDIA_TYPE
    )


def from_error(exc: MonoscopeError) -> JSONResponse:
    """The response that an error of ours amounts to."""
    status = status_of(exc)
    return problem(
        status, exc.what, got=exc.got, expected=exc.expected, hint=exc.hint,
        headers=getattr(exc, "headers", None),
    )  # fmt: skip


def install(app: FastAPI) -> None:
    """Answer every failure of the app with a problem, and say so in its OpenAPI document."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        document = plain()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.setdefault("Problem", Problem.model_json_schema())
        return document

    app.openapi = described  # type: ignore[method-assign]

    @app.exception_handler(MonoscopeError)
    async def ours(request: Request, exc: MonoscopeError) -> JSONResponse:
        return from_error(exc)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, exc: RequestValidationError) -> JSONResponse:
        first = exc.errors()[0]
        where = " ".join(str(part) for part in first["loc"])
        got = first.get("input")
        shown = None if isinstance(got, dict | list) or got is None else repr(got)[:200]
        return problem(422, f"{where}: {first['msg']}", got=shown)

    @app.exception_handler(HTTPException)
    async def http(request: Request, exc: HTTPException) -> Response:
        if exc.status_code == 404 and _is_page(request):
            return FileResponse(SHELL, 404)  # the page says that there is no such page
        detail = exc.detail or HTTPStatus(exc.status_code).phrase
        return problem(exc.status_code, str(detail), headers=exc.headers)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, exc: Exception) -> JSONResponse:
        _log.error("%s %s failed", request.method, request.url.path, exc_info=exc)
        return problem(
            500,
            "something went wrong inside monoscope",
            hint="The terminal says what; the page goes on.",
        )


def _is_page(request: Request) -> bool:
    """Whether somebody looks for a page in a browser, rather than a program for an answer."""
    asked = request.url.path
    wanted = "text/html" in request.headers.get("accept", "")
    return (
        wanted and request.method == "GET" and not asked.startswith(("/api/", "/v1/", "/static/"))
    )
