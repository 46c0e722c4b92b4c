"""create_app: from settings to the whole viewer as one ASGI app."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI

from monoscope import __version__
from monoscope.features.atlas import Atlas, load_atlas
from monoscope.viewer import api, pages, problems
from monoscope.viewer.config import ViewerConfig
from monoscope.viewer.security import Guard
from monoscope.viewer.state import Engine, ViewerState

_ABOUT = "Read an atlas of features, ask the model about text, and steer it. All on this machine."


def create_app(config: ViewerConfig, *, engine: Engine | None = None) -> FastAPI:
    """The viewer of one atlas. Nothing but its manifest is read until the app is started.

    engine: what answers for the model; by default the one of `engine.py` where config.sae is set,
    which begins to load when the app is started.

    Raises FormatError if the atlas is missing or damaged.
    """
    atlas = load_atlas(config.atlas)
    state = ViewerState(config, atlas, engine or _engine(config, atlas))

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        state.catalogue.prepare()
        if state.engine is not None:
            state.engine.start()
        try:
            yield
        finally:
            state.catalogue.close()
            if state.engine is not None:
                state.engine.close()

    app = FastAPI(
        title="monoscope", version=__version__, summary=_ABOUT, lifespan=lifespan,
        openapi_url="/api/openapi.json", docs_url=None, redoc_url=None,
        redirect_slashes=False, responses=problems.RESPONSES,
    )  # fmt: skip
    app.state.viewer = state
    problems.install(app)
    for router in api.routers(state):
        app.include_router(router)
    pages.install(app)
    app.add_middleware(Guard, config=config)
    return app


def _engine(config: ViewerConfig, atlas: Atlas) -> Engine | None:
    if config.sae is None:
        return None
    from monoscope.viewer.engine import Engine as LoadingEngine

    return LoadingEngine(config, atlas)
