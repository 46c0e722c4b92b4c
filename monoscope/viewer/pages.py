"""The page itself: one shell for every address of the page, and the static files behind it."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(__file__).parent / "static"
PAGES = ("/", "/f/{latent}", "/lens", "/steer", "/run", "/compare")


class _Files(StaticFiles):
    """Static files that the browser asks about again each time (answered 304 while unchanged)."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        answer = await super().get_response(path, scope)
        answer.headers["cache-control"] = "no-cache"
        return answer


def install(app: FastAPI) -> None:
    """Serve the shell under each page's address, the API's page, and /static."""

    async def shell() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    async def docs() -> FileResponse:
        return FileResponse(STATIC / "docs.html", headers={"cache-control": "no-cache"})

    for path in PAGES:
        app.add_api_route(path, shell, include_in_schema=False, methods=["GET", "HEAD"])
    app.add_api_route("/api/docs", docs, include_in_schema=False, methods=["GET", "HEAD"])
    app.mount("/static", _Files(directory=STATIC), name="static")
