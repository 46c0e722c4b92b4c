"""The OpenAI-compatible endpoints: models, completions and chat completions, steered by `edits`.

What is asked for and not supported is refused by name, never ignored. Errors have OpenAI's shape.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from monoscope.errors import ConfigError, MonoscopeError
from monoscope.viewer import engine_stream, problems
from monoscope.viewer.completions import Asked, Piece, Usage, write
from monoscope.viewer.completions_shape import ChatShape, TextShape
from monoscope.viewer.engine import Loaded, ask, engine_of
from monoscope.viewer.engine_edits import Edits, edits_of
from monoscope.viewer.state import ViewerState

DEFAULT_COMPLETION_TOKENS = 16  # as OpenAI's
DEFAULT_CHAT_TOKENS = 1024  # a small model may ramble to the end of its context
Tokens = Annotated[int, Field(ge=1, le=2**31, strict=True)]
Stop = str | Annotated[list[str], Field(max_length=4)] | None


class ErrorBody(BaseModel):
    """What was wrong, and with which parameter."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class OpenAIError(BaseModel):
    """An error in OpenAI's shape."""

    error: ErrorBody


class StreamOptions(BaseModel):
    """include_usage: whether a last chunk tells how many tokens there were."""

    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False
    include_obfuscation: bool | None = None


class _Sampling(BaseModel):
    """What both kinds of completion take."""

    model_config = ConfigDict(extra="allow")  # the rest is looked at by name, in `_refuse_rest`

    model: str
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    temperature: float | None = Field(default=1.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=1.0, gt=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63, strict=True)
    stop: Stop = None
    n: int | None = None
    edits: Edits = []


class CompletionRequest(_Sampling):
    """POST /v1/completions. prompt: one text, or the ids of one; edits: changes to latents."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: int | None = Field(default=None, ge=0, le=20, strict=True)
    echo: bool | None = False


class TextPart(BaseModel):
    """A part of a message that is text, the only kind there is here."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: None = None
    refusal: None = None


class ChatRequest(_Sampling):
    """POST /v1/chat/completions, in the model's own template. edits: changes to latents."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=2000)]
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = Field(default=None, ge=0, le=20, strict=True)


# What a client may send that changes nothing here: a name with the values that ask for nothing.
_ABOUT_THE_CLIENT = ("user", "safety_identifier", "prompt_cache_key", "metadata")
_NEUTRAL: dict[str, Any] = {
    "best_of": (1,),
    "suffix": ("",),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none",),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "parallel_tool_calls": (True, False),
}


def router(state: ViewerState) -> APIRouter:
    """GET /v1/models, POST /v1/completions, POST /v1/chat/completions."""
    api = APIRouter(
        prefix="/v1", tags=["openai"], route_class=_OpenAIRoute,
        responses={"4XX": {"model": OpenAIError, "description": "What was wrong."}},
    )  # fmt: skip

    @api.get("/models")
    def models() -> dict[str, Any]:
        """The one model there is, once it is loaded or being loaded."""
        return {"object": "list", "data": [_model(name) for name in _names(state)]}

    @api.get("/models/{model:path}")
    def model(model: str) -> dict[str, Any]:
        """One model by its name."""
        _known(state, model)
        return _model(model)

    @api.post("/completions", responses={200: {"content": {"text/event-stream": {}}}})
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue a text."""
        _check(state, body)
        if body.echo:
            raise _Unsupported("echo")
        prompt = _one_prompt(body.prompt)
        shape = TextShape(body.model, body.logprobs)

        def asked(loaded: Loaded) -> Asked:
            from monoscope.steer.generate import prompt_ids

            ids = prompt if isinstance(prompt, list) else prompt_ids(loaded.lm, prompt)
            n = DEFAULT_COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
            return _asked(body, loaded, ids, n, body.logprobs)

        return await _respond(state, request, body, asked, shape)

    @api.post("/chat/completions", responses={200: {"content": {"text/event-stream": {}}}})
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation, in the model's own template."""
        _check(state, body)
        if body.top_logprobs is not None and not body.logprobs:
            raise ConfigError("top_logprobs needs logprobs", expected="logprobs: true")
        limit = body.max_completion_tokens or body.max_tokens
        shape = ChatShape(body.model, bool(body.logprobs))

        def asked(loaded: Loaded) -> Asked:
            ids = loaded.lm.chat([_turn(m) for m in body.messages])
            room = max(1, loaded.lm.context_length - len(ids))
            n = min(DEFAULT_CHAT_TOKENS, room) if limit is None else limit
            return _asked(body, loaded, ids, n, (body.top_logprobs or 0) if body.logprobs else None)

        return await _respond(state, request, body, asked, shape)

    return api


# What was asked


def _asked(body: _Sampling, loaded: Loaded, ids: list[int], n: int, top: int | None) -> Asked:
    return Asked(
        ids=ids,
        edits=edits_of(body.edits, loaded),
        max_new_tokens=n,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=secrets.randbits(31) if body.seed is None else body.seed,
        stop=[body.stop] if isinstance(body.stop, str) else list(body.stop or ()),
        top_logprobs=top,
    )


def _turn(message: ChatMessage) -> dict[str, str]:
    text = message.content
    role = "system" if message.role == "developer" else message.role
    if not isinstance(text, str):
        text = "".join(part.text for part in text)
    return {"role": role, "content": text}


def _one_prompt(prompt: str | list[str] | list[int] | list[list[int]]) -> str | list[int]:
    if isinstance(prompt, str):
        return prompt
    if prompt and isinstance(prompt[0], int):
        return [i for i in prompt if isinstance(i, int)]
    if len(prompt) == 1 and isinstance(prompt[0], str | list):
        return prompt[0]
    raise ConfigError(
        "one prompt a request", got=f"{len(prompt)} prompts", expected="one text or one list of ids"
    )


class _Unsupported(ConfigError):
    """A setting that this server does not have."""

    def __init__(self, name: str, got: object = None) -> None:
        self.param = name
        super().__init__(
            f"{name} is not supported here", got=None if got is None else repr(got)[:80],
            hint="Leave it out.",
        )  # fmt: skip


class _NoSuchModel(MonoscopeError):
    """A model that this viewer does not run."""

    status = 404
    param, code = "model", "model_not_found"


def _check(state: ViewerState, body: _Sampling) -> None:
    """Raise for another model, and for every setting that would have to be ignored."""
    engine_of(state)
    _known(state, body.model)
    if body.n not in (None, 1):
        raise _Unsupported("n", body.n)
    if body.stream_options is not None and not body.stream:
        raise ConfigError("stream_options needs stream", expected="stream: true")
    for name, value in (body.model_extra or {}).items():
        told = value is not None and name not in _ABOUT_THE_CLIENT
        if told and not _asks_nothing(value, _NEUTRAL.get(name, ())):
            raise _Unsupported(name, value)


def _asks_nothing(value: Any, neutral: Any) -> bool:
    """Whether a setting has one of its neutral values; False is not 0 here, nor True 1."""
    same = (v for v in neutral if v == value and isinstance(v, bool) == isinstance(value, bool))
    return any(True for _ in same)


def _names(state: ViewerState) -> list[str]:
    status = state.model_status()
    if status.state in ("absent", "failed"):
        return []
    named = status.model or state.config.model or state.atlas.manifest["model"]["model"]
    return [str(named)]


def _known(state: ViewerState, name: str) -> None:
    names = _names(state)
    if names and name not in names:
        raise _NoSuchModel(f"the model {name!r} does not exist here", expected=" or ".join(names))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _STARTED, "owned_by": "monoscope"}


# What is answered


async def _respond(
    state: ViewerState,
    request: Request,
    body: _Sampling,
    asked: Callable[[Loaded], Asked],
    shape: ChatShape | TextShape,
) -> Response:
    def work(loaded: Loaded) -> Iterator[Piece | Usage]:
        return write(loaded, asked(loaded))

    first, rest = await ask(state, request, work)
    base = {
        "id": f"{shape.prefix}-{secrets.token_hex(12)}", "created": int(time.time()),
        "model": shape.model,
    }  # fmt: skip
    if not body.stream:
        told = [first, *[piece async for piece in rest]]
        usage: Usage = told.pop()
        return JSONResponse(
            {
                **base, "object": shape.kind, "choices": [shape.whole(told)],
                "usage": usage.counts(), "monoscope": usage.extra(),
            }
        )  # fmt: skip
    base["object"] = shape.chunk
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    opening = shape.opening()

    end: dict[str, Any] = {}

    def chunk(choices: list[Any], usage: Any = None, **more: Any) -> str:
        counted = {"usage": usage} if with_usage else {}
        return engine_stream.data_line({**base, "choices": choices, **counted, **more})

    def encode(piece: Piece | Usage) -> str:
        nonlocal opening, end
        if isinstance(piece, Usage):  # known when all is written: the last choice waits for it
            last = chunk([end], monoscope=piece.extra())
            return last + (chunk([], piece.counts()) if with_usage else "")
        begin = chunk([opening]) if opening else ""
        opening = None
        if piece.finish_reason is not None:
            end = shape.part(piece)
            return begin
        return begin + chunk([shape.part(piece)])

    return engine_stream.stream(
        first, rest, encode, failed=lambda exc: engine_stream.data_line(_error_of(exc)),
        last="data: [DONE]\n\n",
    )  # fmt: skip


# What went wrong


class _OpenAIRoute(APIRoute):
    """A route whose errors have OpenAI's shape."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await inner(request)
            except RequestValidationError as exc:
                first = exc.errors()[0]
                where = ".".join(str(p) for p in first["loc"] if p != "body")
                body = _error(f"{where}: {first['msg']}" if where else first["msg"], 400, where)
                return JSONResponse(body, 400)
            except HTTPException as exc:  # a body that is no text at all
                return JSONResponse(_error(str(exc.detail), exc.status_code), exc.status_code)
            except MonoscopeError as exc:
                return JSONResponse(
                    _error_of(exc), _status(exc), headers=getattr(exc, "headers", None)
                )

        return handler


def _status(exc: MonoscopeError) -> int:
    own = getattr(exc, "status", None)
    return own if isinstance(own, int) else 400 if problems.status_of(exc) < 500 else 500


def _error_of(exc: MonoscopeError) -> dict[str, Any]:
    too_long = isinstance(exc, ConfigError) and "context" in exc.what
    code = getattr(exc, "code", "context_length_exceeded" if too_long else None)
    return _error(str(exc), _status(exc), getattr(exc, "param", None), code)


def _error(
    message: str, status: int, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    kinds = {429: "rate_limit_error", 500: "server_error", 503: "server_error"}
    kind = kinds.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param or None, "code": code}}


_STARTED = int(time.time())
