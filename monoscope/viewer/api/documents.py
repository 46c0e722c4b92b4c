"""A document read anew by the model, so that one latent's value is known on every token of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi import Path as PathParam
from pydantic import BaseModel

from monoscope.errors import MismatchError
from monoscope.viewer import reading
from monoscope.viewer import schemas as s
from monoscope.viewer.engine import Loaded, answer
from monoscope.viewer.state import ViewerState


class DocumentValues(BaseModel):
    """A latent's value on every token of a document, null where the mask leaves the token out.

    context_length: tokens of the windows that it was read in, those of the harvest.
    """

    doc: int
    latent: int
    values: list[float | None]
    context_length: int


def router(state: ViewerState) -> APIRouter:
    """GET /api/v1/documents/D/values."""
    api = APIRouter(prefix="/api/v1/documents", tags=["features"])

    @api.get("/{doc}/values")
    async def values(
        request: Request,
        doc: Annotated[int, PathParam(ge=0, lt=2**62)],
        latent: Annotated[s.Latent, Query(description="The latent whose values are asked for.")],
    ) -> DocumentValues:
        """A latent on every token of a document, as the running model reads it now."""
        state.atlas.require(latent)

        def work(loaded: Loaded) -> Iterator[DocumentValues]:
            yield _read(state, loaded, doc, latent)

        told = await answer(state, request, work)
        assert isinstance(told, DocumentValues)
        return told

    return api


def _read(state: ViewerState, loaded: Loaded, doc: int, latent: int) -> DocumentValues:
    """Read in the windows of the harvest, so that values agree with those the atlas recorded."""
    from monoscope.features.text import CONTEXT_LENGTH, features_on_ids

    held = reading.document(state.catalogue, doc, None)
    text = "".join(held.pieces)
    encoded = loaded.lm.encode([text])[0]
    pieces = encoded.pieces(text)
    if pieces != held.pieces:
        raise MismatchError(
            "the model's tokenizer cuts this document otherwise than the atlas",
            got=f"{len(pieces)} tokens",
            expected=f"the {len(held.pieces)} tokens of document {doc}",
        )
    length = int(loaded.sae.provenance.get("context_length") or CONTEXT_LENGTH)
    found = features_on_ids(
        loaded.lm, loaded.sae, encoded.ids, pieces, prefix=loaded.lm.prefix_ids,
        context_length=length,
    )  # fmt: skip
    values = [
        round(value, 4) if token.kept else None
        for token, value in zip(found.tokens, found.values(latent), strict=True)
    ]
    return DocumentValues(doc=doc, latent=latent, values=values, context_length=length)
