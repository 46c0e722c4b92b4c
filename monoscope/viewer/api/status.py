"""Whether the viewer is up and the model can be asked."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from monoscope import __version__
from monoscope.viewer.state import ModelStatus, ViewerState


class Status(BaseModel):
    """The viewer's version, and where loading the model stands."""

    version: str
    model: ModelStatus


def router(state: ViewerState) -> APIRouter:
    """GET /api/v1/status."""
    api = APIRouter(prefix="/api/v1", tags=["status"])

    @api.get("/status")
    def status() -> Status:
        """The viewer's version, and whether the model is absent, loading, ready or failed."""
        return Status(version=__version__, model=state.model_status())

    return api
