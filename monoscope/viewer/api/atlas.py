"""What the atlas is: the facts at the head of every page."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from monoscope.viewer.state import ViewerState


class AtlasFacts(BaseModel):
    """What an atlas is of and what its figures rest on; the fields are those of atlas.json."""

    n_features: int
    n_alive: int
    n_tokens: int
    n_documents: int
    l0: float
    model: dict[str, str]
    site: str
    sae: dict[str, Any]
    mask_policy: dict[str, Any]
    norm_stats: dict[str, float]
    corpus: dict[str, Any]
    attribution: list[str]
    histogram_edges: list[float]
    definitions: dict[str, str]
    folder: str
    sae_folder: str | None


def router(state: ViewerState) -> APIRouter:
    """GET /api/v1/atlas."""
    api = APIRouter(prefix="/api/v1", tags=["atlas"])

    @api.get("/atlas")
    def facts() -> AtlasFacts:
        """What the atlas is of: model, site, SAE, corpus, attribution, mask policy, tokens."""
        said = state.atlas.manifest
        known = {name: said[name] for name in AtlasFacts.model_fields if name in said}
        return AtlasFacts(
            n_features=state.atlas.n_features,
            folder=str(state.config.atlas.resolve()),  # whoever copies it is in another folder
            sae_folder=None if state.config.sae is None else str(state.config.sae.resolve()),
            **known,
        )

    return api
