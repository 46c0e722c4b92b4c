"""Steering as it happens: default and steered answers side by side, and sweeps over strength."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from monoscope.viewer import engine_stream
from monoscope.viewer.api.lens import Messages, Text
from monoscope.viewer.engine import Loaded, answer, ask
from monoscope.viewer.engine_edits import Edits, Latent, edits_of
from monoscope.viewer.state import ViewerState

if TYPE_CHECKING:
    from monoscope.steer.live import LiveToken

NewTokens = Annotated[int, Field(ge=1, le=100_000, strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
Event = tuple[str, dict[str, Any]]


class _Prompt(BaseModel):
    """A text to continue, or a chat to answer in the model's own template. Exactly one of them."""

    model_config = ConfigDict(extra="forbid")
    prompt: Text | None = None
    messages: Messages | None = None

    @model_validator(mode="after")
    def _one(self) -> _Prompt:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give prompt or messages, one of them")
        return self

    def plain(self) -> str | list[dict[str, str]]:
        """As the engine takes it."""
        if self.messages is None:
            return self.prompt or ""
        return [turn.model_dump() for turn in self.messages]


class SteerRequest(_Prompt):
    """What to write and how: as `monoscope steer` takes it. temperature 0 is greedy."""

    edits: Edits = []
    max_new_tokens: NewTokens = 60
    temperature: float = Field(default=0.0, ge=0, le=10, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0, le=1, allow_inf_nan=False)
    seed: Seed = 0


class SweepRequest(_Prompt):
    """One latent at several strengths, × the median norm at the site.

    words: what to count the effect by, best first; by default what the latent promises. ask: the
    words of the control that only asks; by default made of those that are counted.
    """

    latent: Latent
    strengths: Annotated[
        list[Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]],
        Field(min_length=1, max_length=12),
    ] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8]
    words: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=80)]], Field(max_length=24)
    ] = []
    ask: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    neutral: bool = True
    max_new_tokens: Annotated[int, Field(ge=1, le=512, strict=True)] = 24
    seed: Seed = 0


class Promise(BaseModel):
    """What a sweep would count: tokens, best first, and where they are from."""

    latent: int
    tokens: list[str]
    basis: str


def router(state: ViewerState) -> APIRouter:
    """POST /api/v1/steer and /api/v1/sweep."""
    api = APIRouter(prefix="/api/v1", tags=["steer"])

    @api.post("/steer", response_class=StreamingResponse, responses=engine_stream.RESPONSES)
    async def steer(body: SteerRequest, request: Request) -> StreamingResponse:
        """Default and steered answers, a token of each in turn, as they are written.

        Events: `start` (n_prompt_tokens, edits as they are understood), `token` (side, index, text,
        logp, logp_default, kl, relative_norm, ended), `done` (for each side its text, n_tokens and
        finish; relative_norm, kl), and `problem`.
        """

        def work(loaded: Loaded) -> Iterator[Event]:
            return _steered(loaded, body)

        first, rest = await ask(state, request, work)
        return engine_stream.stream(first, rest, _encode)

    @api.post("/sweep", response_class=StreamingResponse, responses=engine_stream.RESPONSES)
    async def sweep(body: SweepRequest, request: Request) -> StreamingResponse:
        """A latent tried at rising strengths beside its controls, as it is written.

        Events: `start` (what is counted, what the asking control says), `progress` (done, total),
        `point` (kind default, prompt, steered, random or reversed, with its figures, what it cost
        as relative_norm, ‖Δ‖/‖x‖, and kl, nats a token, and its texts),
        `sweetspot` (found, best, control, prompt), and `problem`.
        """

        def work(loaded: Loaded) -> Iterator[Event]:
            return _swept(loaded, body)

        first, rest = await ask(state, request, work)
        return engine_stream.stream(first, rest, _encode)

    @api.get("/sweep/promise")
    async def promise(latent: Annotated[int, Query(ge=0, lt=2**31)], request: Request) -> Promise:
        """The tokens by which a sweep of this latent would count its effect."""

        def work(loaded: Loaded) -> Iterator[Promise]:
            from monoscope.steer.promises import promised

            _, tokens, basis = promised(loaded.lm, loaded.atlas.feature(latent))
            yield Promise(latent=latent, tokens=tokens, basis=basis)

        found: Promise = await answer(state, request, work)
        return found

    return api


def _encode(event: Event) -> str:
    return engine_stream.event(*event)


def _steered(loaded: Loaded, body: SteerRequest) -> Iterator[Event]:
    from monoscope.steer.generate import prompt_ids
    from monoscope.steer.live import side_by_side

    edits = edits_of(body.edits, loaded)
    given = prompt_ids(loaded.lm, body.plain())
    tokens = side_by_side(
        loaded.lm,
        given,
        edits=edits,
        max_new_tokens=body.max_new_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        seed=body.seed,
    )
    yield "start", {"n_prompt_tokens": len(given), "edits": [edit.to_json() for edit in edits]}
    told: dict[str, list[LiveToken]] = {"default": [], "steered": []}
    for token in tokens:
        told[token.side].append(token)
        yield "token", asdict(token)
    scored = [t for t in told["steered"] if not t.ended]
    yield (
        "done",
        {
            **{side: _side(those) for side, those in told.items()},
            "relative_norm": told["steered"][-1].relative_norm,
            "kl": sum(t.kl for t in scored) / max(1, len(scored)),
        },
    )


def _side(tokens: Sequence[LiveToken]) -> dict[str, Any]:
    n = sum(not t.ended for t in tokens)
    return {
        "text": "".join(t.text for t in tokens),
        "n_tokens": n,
        "finish": "stop" if tokens[-1].ended else "length",
    }


def _swept(loaded: Loaded, body: SweepRequest) -> Iterator[Event]:
    from monoscope.steer.feature_sweep import sweep_feature
    from monoscope.steer.sweep import Point, Progress

    task = sweep_feature(
        loaded.lm,
        loaded.sae,
        loaded.atlas.feature(body.latent),
        body.plain(),
        words=body.words,
        ask=body.ask,
        neutral=body.neutral,
        strengths=body.strengths,
        max_new_tokens=body.max_new_tokens,
        seed=body.seed,
    )
    yield "start", task.to_json()
    for event in task.events:
        if isinstance(event, Progress):
            yield "progress", asdict(event)
        else:
            yield "point" if isinstance(event, Point) else "sweetspot", event.to_json()
