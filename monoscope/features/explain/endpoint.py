"""One OpenAI-compatible endpoint: asks, retries, keeps to a rate, and says in a line what failed.

httpx and not the openai client: refusals, HTML in place of JSON and half an answer must each be
told apart and counted, and retries must share one clock among threads, which that client hides.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from monoscope.errors import ConfigError, EndpointError
from monoscope.features.explain.refusals import (
    FORMAT,
    SHOWN,
    question_at_fault,
    rejected_setting,
    retry_after,
    words,
)

if TYPE_CHECKING:
    import httpx

OWN_KEY, SHARED_KEY = "MONOSCOPE_EXPLAINER_KEY", "OPENAI_API_KEY"
_RETRIED = (408, 409, 425, 429, 500, 502, 503, 504, 529)
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0  # seconds, between attempts of our own accord
LONGEST_TOLD = 600.0  # seconds of a server's own Retry-After that are waited for
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

Message = dict[str, str]


class NoAnswer(Exception):
    """One question that stays without a usable answer; kind: how it is counted.

    kind: "down", "timeout", "rate_limit", "server", "html", "broken", "refusal", "too_long",
    "truncated", "format". spent: the tokens it cost all the same.
    """

    def __init__(self, kind: str, why: str, spent: Usage | None = None) -> None:
        super().__init__(why)
        self.kind, self.why, self.spent = kind, why, spent or Usage()


@dataclass(frozen=True)
class Usage:
    """Tokens in and out over a number of calls; known: whether the server counted them all."""

    n_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    known: bool = True

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.n_calls + other.n_calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.known and other.known,
        )


@dataclass(frozen=True)
class Reply:
    """An answer: its text, what it cost, and per token the likeliest tokens with log p, if told.

    cut: whether it ended for its length; what was asked for may still be whole in it.
    """

    text: str
    usage: Usage
    logprobs: tuple[tuple[str, dict[str, float]], ...] | None = None
    cut: bool = False


class Endpoint:
    """A model behind a URL. May be used from several threads.

    url: the base (".../v1"), or the address of chat/completions itself. key: by default that of
    the environment, see `find_key`. timeout: seconds an answer may take. rate: requests a minute
    (None: as fast as they are asked for). retries: further attempts after one that may pass.

    Raises ConfigError for a URL or number that cannot be, or where httpx is not installed.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str | None = None,
        timeout: float = 120.0,
        rate: float | None = None,
        retries: int = 5,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        for name, value in (("timeout", timeout), ("rate", rate)):
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is out of range", got=value, expected="above 0")
        self.url, self.model = address(url), model
        self.retries, self.timeout = retries, timeout
        self._gap = 60.0 / rate if rate else 0.0
        self._clock, self._next = threading.Lock(), 0.0
        self._stopped = threading.Event()
        self.dropped: tuple[str, ...] = ()
        self.n_retries = 0
        key = find_key(self.url) if key is None else key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = _httpx().Client(headers=headers, timeout=timeout, transport=transport)

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Break off whatever is under way."""
        self._stopped.set()
        self._client.close()

    def ask(self, messages: Sequence[Message], *, max_tokens: int, logprobs: bool = False) -> Reply:
        """The model's answer at temperature 0.

        Raises NoAnswer where this question stays unanswered, EndpointError where every other would
        fare the same: a wrong address, key or model, or a pause that is above LONGEST_TOLD.
        """
        wait = _FIRST_WAIT
        for attempt in range(self.retries + 1):
            try:
                return self._once(messages, max_tokens, logprobs)
            except _Again as exc:
                if exc.after is not None and exc.after > LONGEST_TOLD:
                    raise self._long_pause(exc) from exc
                if attempt == self.retries or self._stopped.is_set():
                    raise NoAnswer(exc.kind, exc.why) from exc
                self.n_retries += 1
                pause = wait * random.uniform(0.5, 1.0) if exc.after is None else exc.after
                wait = min(2 * wait, _LONGEST_WAIT)
                if exc.after is not None:
                    self._hold(exc.after)
                if self._stopped.wait(pause):
                    raise NoAnswer(exc.kind, exc.why) from exc
        raise AssertionError("unreachable")

    def _once(self, messages: Sequence[Message], max_tokens: int, logprobs: bool) -> Reply:
        body = self._body(messages, max_tokens, logprobs)
        self._wait_turn()
        answer = self._post(body)
        if answer.status_code == 200:
            return read_reply(answer)
        if kind := question_at_fault(answer):
            raise NoAnswer(kind, f"HTTP {answer.status_code}: {words(answer)}")
        if name := rejected_setting(answer, body):
            self.dropped = tuple(sorted({*self.dropped, name}))
            raise _Again("server", f"it does not know {name}", after=0.0)
        raise self._failure(answer)

    def _body(self, messages: Sequence[Message], most: int, logprobs: bool) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "messages": list(messages)}
        if "temperature" not in self.dropped:
            body["temperature"] = 0
        if FORMAT not in self.dropped:  # every question here asks for one JSON object
            body[FORMAT] = {"type": "json_object"}
        name = "max_completion_tokens" if "max_tokens" in self.dropped else "max_tokens"
        body[name] = most
        if logprobs and "logprobs" not in self.dropped:
            body |= {"logprobs": True, "top_logprobs": 5}
        return body

    def _post(self, body: Mapping[str, Any]) -> httpx.Response:
        httpx = _httpx()
        try:
            return self._client.post(self.url, json=body)
        except httpx.TimeoutException as exc:
            raise _Again("timeout", f"no answer within {self.timeout:g} s") from exc
        except httpx.ConnectError as exc:
            raise _Again("down", f"cannot connect: {exc}") from exc
        except (httpx.TransportError, httpx.DecodingError) as exc:
            raise _Again("broken", f"the connection broke: {exc}") from exc
        except RuntimeError as exc:  # closed under us by another thread's failure
            raise NoAnswer("down", "stopped") from exc

    def _failure(self, answer: httpx.Response) -> Exception:
        code, said = answer.status_code, words(answer)
        if code in _RETRIED:
            kind = "rate_limit" if code in (429, 529) else "server"
            return _Again(kind, f"HTTP {code}: {said}", retry_after(answer))
        hint = {
            401: f"Set {OWN_KEY} or {SHARED_KEY} to a key that is valid there.",
            403: f"Set {OWN_KEY} or {SHARED_KEY} to a key that may use this model.",
            404: f"Check the address, and that the server has a model named {self.model!r}.",
        }.get(code, "Check --explainer-url and --explainer-model.")
        return EndpointError(
            f"the endpoint {self.url} refused", got=f"HTTP {code}: {said}", hint=hint
        )

    def _long_pause(self, exc: _Again) -> EndpointError:
        return EndpointError(
            f"the endpoint {self.url} asks for a long pause",
            got=f"{exc.after:,.0f} s: {exc.why}",
            expected=f"at most {LONGEST_TOLD:g} s, which would be waited",
            hint="Every answer so far is kept; run the same command again then to go on.",
        )

    def _wait_turn(self) -> None:
        with self._clock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._gap
        self._stopped.wait(max(0.0, turn - now))

    def _hold(self, seconds: float) -> None:
        """Nobody asks before `seconds` are over: the limit is the server's, not a thread's."""
        with self._clock:
            self._next = max(self._next, time.monotonic() + seconds)


class _Again(Exception):
    """An attempt that failed in a way that may pass; after: seconds the server asked for."""

    def __init__(self, kind: str, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.kind, self.why, self.after = kind, why, after


def read_reply(answer: httpx.Response) -> Reply:
    """What a 200 says; raises NoAnswer for a refusal, _Again for what is no chat completion."""
    if "html" in answer.headers.get("content-type", "") or answer.text.lstrip()[:1] == "<":
        raise _Again("html", "it answers with a web page, not JSON; is this an API's address?")
    try:
        data = answer.json()
        choice = data["choices"][0]
        message = choice["message"]
        text = message.get("content")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as exc:
        raise _Again("broken", f"no whole chat completion: {answer.text[:SHOWN]!r}") from exc
    usage = _usage(data)
    reason = choice.get("finish_reason")
    if message.get("refusal") or reason == "content_filter":
        raise NoAnswer("refusal", str(message.get("refusal") or "filtered")[:SHOWN], usage)
    if not isinstance(text, str) or not text.strip():
        kind = "truncated" if reason == "length" else "refusal"
        raise NoAnswer(kind, "an empty answer", usage)
    return Reply(text, usage, _logprobs(choice), cut=reason == "length")


def address(url: str) -> str:
    """The address of chat/completions under a base URL.

    Raises ConfigError for what is no http(s) URL or carries a password.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise ConfigError(
            "--explainer-url is not the address of an endpoint",
            got=repr(url if not parts.username else "a URL with a name or password in it"),
            expected="such as http://localhost:8000/v1",
            hint=f"Keys come from {OWN_KEY} or {SHARED_KEY}.",
        )
    base = url.rstrip("/")
    if base.endswith("/chat/completions"):
        return base
    return (base if parts.path.strip("/") else base + "/v1") + "/chat/completions"


def find_key(url: str) -> str | None:
    """The key for `url`: MONOSCOPE_EXPLAINER_KEY, else OPENAI_API_KEY.

    The second was not set with this address in mind, so it never travels unencrypted: it is used
    over https and to this machine only.
    """
    parts = urlsplit(url)
    own = os.environ.get(OWN_KEY)
    if own or not (parts.scheme == "https" or parts.hostname in _LOOPBACK):
        return own or None
    return os.environ.get(SHARED_KEY) or None


def _httpx() -> Any:
    try:
        import httpx
    except ImportError as exc:
        raise ConfigError(
            "asking a language model needs httpx", hint="pip install 'monoscope[explain]'"
        ) from exc
    return httpx


def _usage(data: Mapping[str, Any]) -> Usage:
    told = data.get("usage")
    try:
        assert isinstance(told, dict)
        return Usage(1, int(told["prompt_tokens"]), int(told["completion_tokens"]))
    except (AssertionError, KeyError, TypeError, ValueError):
        return Usage(1, known=False)


def _logprobs(choice: Mapping[str, Any]) -> tuple[tuple[str, dict[str, float]], ...] | None:
    """Each token of the answer with the log-probabilities of what could have stood there."""
    try:
        told = choice["logprobs"]["content"]
        return tuple(
            (
                str(t["token"]),
                {str(o["token"]): float(o["logprob"]) for o in [*t["top_logprobs"], t]},
            )
            for t in told
        )
    except (KeyError, TypeError, ValueError):
        return None
