"""The lens: the latents that fire on a text or a chat, strongest first, and two texts compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from monoscope.viewer.engine import Loaded, answer
from monoscope.viewer.engine_edits import Latent
from monoscope.viewer.engine_lens import (
    Difference,
    Fact,
    LensText,
    facts,
    mentioned,
    read,
    shown,
)
from monoscope.viewer.state import ViewerState

Text = Annotated[str, Field(max_length=200_000)]


class Turn(BaseModel):
    """One turn of a chat."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "user", "assistant"]
    content: Text


Messages = Annotated[list[Turn], Field(min_length=1, max_length=500)]


class Given(BaseModel):
    """What to read: a text, or a chat in the model's own template. Exactly one of them."""

    model_config = ConfigDict(extra="forbid")
    text: Text | None = None
    messages: Messages | None = None

    @model_validator(mode="after")
    def _one(self) -> Given:
        if (self.text is None) == (self.messages is None):
            raise ValueError("give text or messages, one of them")
        return self

    def plain(self) -> str | list[dict[str, str]]:
        """As the engine takes it."""
        if self.messages is None:
            return self.text or ""
        return [turn.model_dump() for turn in self.messages]


class LensRequest(Given):
    """per_token: latents told of each token; limit: in total, the first by `by`. Those in total,
    and those pinned, are told wherever they fire."""

    per_token: int = Field(default=16, ge=1, le=1024)
    limit: int = Field(default=60, ge=1, le=1000)
    by: Literal["sum", "max", "n_tokens"] = "sum"
    pinned: Annotated[list[Latent], Field(max_length=64)] = []


class LensAnswer(LensText):
    """One text, and what the atlas knows of every latent named. site: where x was read."""

    site: str
    features: dict[int, Fact]


class CompareRequest(BaseModel):
    """Two texts. limit: latents told each way; pinned: told wherever they fire."""

    model_config = ConfigDict(extra="forbid")
    a: Given
    b: Given
    per_token: int = Field(default=16, ge=1, le=1024)
    limit: int = Field(default=40, ge=1, le=1000)
    pinned: Annotated[list[Latent], Field(max_length=64)] = []


class CompareAnswer(BaseModel):
    """Both texts, and the latents by how much higher their mean is in a than in b."""

    a: LensText
    b: LensText
    differences: list[Difference]
    site: str
    features: dict[int, Fact]


def router(state: ViewerState) -> APIRouter:
    """POST /api/v1/lens and /api/v1/lens/compare."""
    api = APIRouter(prefix="/api/v1", tags=["lens"])

    @api.post("/lens")
    async def lens(body: LensRequest, request: Request) -> LensAnswer:
        """The latents that fire on each token and in total, strongest first."""

        def work(loaded: Loaded) -> Iterator[LensAnswer]:
            found = read(loaded, body.plain())
            text = shown(
                found, per_token=body.per_token, limit=body.limit, by=body.by, pinned=body.pinned
            )
            known = facts(state.catalogue, [*mentioned(text), *body.pinned])
            yield LensAnswer(**dict(text), site=found.site, features=known)

        return _typed(LensAnswer, await answer(state, request, work))

    @api.post("/lens/compare")
    async def compare(body: CompareRequest, request: Request) -> CompareAnswer:
        """What fires more in a than in b, by mean value over the tokens that count."""

        def work(loaded: Loaded) -> Iterator[CompareAnswer]:
            from monoscope.features.text import differences

            found = [read(loaded, given.plain()) for given in (body.a, body.b)]
            told = differences(found[0], found[1], body.limit)
            rows = [Difference(**asdict(row)) for row in told]
            pinned = [*(row.latent for row in rows), *body.pinned]
            a, b = (
                shown(f, per_token=body.per_token, limit=body.limit, pinned=pinned) for f in found
            )
            known = facts(state.catalogue, [*mentioned(a, b), *pinned])
            yield CompareAnswer(a=a, b=b, differences=rows, site=found[0].site, features=known)

        return _typed(CompareAnswer, await answer(state, request, work))

    return api


def _typed(kind: type[Any], what: Any) -> Any:
    assert isinstance(what, kind)
    return what
