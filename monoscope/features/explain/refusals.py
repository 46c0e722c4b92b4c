"""What a server's refusal is about: this one question, a setting it does not know, or everything.

No standard says how; the shapes read here are those of OpenAI, Azure, vLLM, llama.cpp, FastAPI and
the services that copy them. A field that names the matter decides; words only where there is none.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

SHOWN = 160  # characters of a server's own words in an error
FORMAT = "response_format"
OPTIONAL = ("logprobs", "temperature", "max_tokens", FORMAT)
"""Settings that some models reject; the first refusal of one takes it out for the whole run."""
_TOO_LARGE = 413
_BAD = (400, 403, 413, 422)  # the last is FastAPI's; 403 is also how some say what they filter
_FILTERED = {"content_filter", "content_policy_violation", "moderation_blocked", "invalid_prompt",
             "responsibleaipolicyviolation"}  # fmt: skip
_LONG = {"context_length_exceeded", "string_above_max_length", "exceed_context_size_error",
         "request_too_large", "tokens_limit_reached"}  # fmt: skip
_VALUE = {"invalid_value", "integer_above_max_value", "integer_below_min_value"}
_FILTERED_WORDS = re.compile(r"content (management )?policy|content.filter|flagged|moderation")
_LONG_WORDS = re.compile(
    r"context (length|size|window)|(prompt|input) is too long|input token count|"
    r"too many (input )?tokens|reduce the length"
)
_UNKNOWN_WORDS = (
    r"(?:unsupported|not support|n't support|unknown|unrecogni[sz]ed|unexpected|not permitted|"
    r"not allowed|does not know)"
)


def question_at_fault(answer: httpx.Response) -> str | None:
    """How a refusal that is about this one question is counted: "refusal" or "too_long"; or None.

    None: any other question would fare the same.
    """
    if answer.status_code not in _BAD:
        return None
    error = _error(answer)
    inner = error.get("innererror")
    codes = {str(e.get(key)).lower() for e in (error, inner) if isinstance(e, Mapping)
             for key in ("code", "type")}  # fmt: skip
    said = _said(answer).lower()
    if codes & _FILTERED or _FILTERED_WORDS.search(said):
        return "refusal"
    if answer.status_code == _TOO_LARGE or codes & _LONG:
        return "too_long"
    return "too_long" if answer.status_code != 403 and _LONG_WORDS.search(said) else None


def rejected_setting(answer: httpx.Response, sent: Mapping[str, Any]) -> str | None:
    """The optional setting that a 400 or 422 says it does not know, if it was sent.

    Its `param`, or FastAPI's `loc`, names it; without one, words that say "not supported" beside
    the name do. A value out of range is no such case, and the name alone says nothing; but of
    response_format it says enough, since servers differ in which formats they take.
    """
    if answer.status_code not in (400, 422):
        return None
    error = _error(answer)
    param = error.get("param")
    if isinstance(param, str) and param:
        parts = [part.removeprefix("top_") for part in param.split(".")]
        name = next((part for part in parts if part in OPTIONAL and part in sent), None)
        known = str(error.get("code")) not in _VALUE and "too large" not in _said(answer)
        return name if known or name == FORMAT else None
    said = _said(answer).lower()
    if FORMAT in sent and FORMAT in said:
        return FORMAT
    for name in OPTIONAL:
        named = rf"\b(?:top_)?{name}\b"
        beside = rf"{_UNKNOWN_WORDS}.{{0,40}}{named}|{named}.{{0,40}}{_UNKNOWN_WORDS}"
        if name in sent and re.search(beside, said):
            return name
    return None


def words(answer: httpx.Response) -> str:
    """What a server says of its failure, on one short line."""
    return _said(answer)[:SHOWN]


def retry_after(answer: httpx.Response) -> float | None:
    """Seconds from a Retry-After header, which holds a number or a date."""
    told = answer.headers.get("retry-after")
    if told is None:
        return None
    try:
        return max(0.0, float(told))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(told).timestamp() - time.time())
    except ValueError:
        return None


def _error(answer: httpx.Response) -> dict[str, Any]:
    """The object that tells of the failure; one with a message alone where there is none."""
    try:
        data = answer.json()
    except ValueError:
        return {}
    told = data.get("error", data.get("detail", data)) if isinstance(data, dict) else data
    if isinstance(told, list) and told and isinstance(told[0], dict) and "loc" in told[0]:
        loc = told[0]["loc"]  # FastAPI: where in the request, and what of it
        return {"message": told[0].get("msg"), "param": str(loc[-1]) if loc else None}
    return dict(told) if isinstance(told, dict) else {"message": told}


def _said(answer: httpx.Response) -> str:
    """All of it, on one line."""
    try:
        answer.json()
    except ValueError:
        said = "a web page" if "<" in answer.text[:200] else answer.text
        return " ".join(said.split())
    error = _error(answer)
    return " ".join(str(error.get("message", error)).split())
