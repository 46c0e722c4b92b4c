"""Puts questions to the endpoint and reads strict JSON from its answers, mending what can be."""

from __future__ import annotations

import json
import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from monoscope.errors import EndpointError
from monoscope.features.explain.cost import Budget
from monoscope.features.explain.endpoint import Endpoint, Message, NoAnswer, Reply, Usage
from monoscope.features.explain.items import Item, as_list
from monoscope.features.explain.journal import Journal
from monoscope.features.explain.prompts import Prompts

LONGEST = 300  # characters of an explanation
ITEM_TOKENS = 6  # of an answer, for each excerpt judged
GIVE_UP = 5  # questions in a row lost to the endpoint, after which it counts as gone
_ITS_FAULT = ("down", "timeout", "rate_limit", "server", "html", "broken")
_FENCE = re.compile(r"^\s*```[a-zA-Z]*\s*(.*?)\s*```\s*$", re.DOTALL)
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
_COMMA = re.compile(r",(\s*[\]}])")

T = TypeVar("T")


class Judge:
    """Asks for explanations and verdicts. May be used from several threads.

    failures: questions without a usable answer, by kind; they are never scored. spent, reused:
    what this run paid for, and what the journal already had. n_repaired: answers that needed a
    second question, n_logprobs: batches judged by log-probabilities. answer_tokens: the longest
    answer; a model that thinks aloud before it answers needs more.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        prompts: Prompts,
        journal: Journal,
        budget: Budget,
        answer_tokens: int = 300,
    ) -> None:
        self.endpoint, self.prompts, self.journal = endpoint, prompts, journal
        self.budget, self.answer_tokens = budget, answer_tokens
        self.failures: Counter[str] = Counter()
        self.spent, self.reused = Usage(), Usage()
        self.n_repaired = self.n_logprobs = self.n_batches = 0
        self._lock, self._lost = threading.Lock(), 0

    def explain(self, excerpts: str) -> str | None:
        """An explanation of marked excerpts, on one line; None where none came."""
        messages = self.prompts.messages("explain", excerpts=excerpts)
        return self._settle(messages, self.answer_tokens, read_explanation, logprobs=False)

    def verdicts(self, prompt: str, explanation: str, batch: Sequence[Item]) -> list[float] | None:
        """P(yes) for each item of a batch, 0 or 1 where no log-probabilities come; None: failed."""
        excerpts = as_list([item.text for item in batch])
        messages = self.prompts.messages(
            prompt, n=len(batch), explanation=explanation, excerpts=excerpts
        )
        most = self.answer_tokens + ITEM_TOKENS * len(batch)

        def read(reply: Reply) -> tuple[list[float], bool]:
            return read_verdicts(reply, len(batch))

        found = self._settle(messages, most, read, logprobs=True)
        if found is None:
            return None
        with self._lock:
            self.n_batches += 1
            self.n_logprobs += found[1]
        return found[0]

    def _settle(
        self, messages: list[Message], most: int, read: Callable[[Reply], T], *, logprobs: bool
    ) -> T | None:
        """The answer as `read` understands it, after one repair if need be; None and counted."""
        try:
            reply = self._ask(messages, most, logprobs, read)
            try:
                return read(reply)
            except ValueError as problem:
                if reply.cut:
                    raise NoAnswer("truncated", "cut off at its longest") from problem
                again = [
                    *messages,
                    {"role": "assistant", "content": reply.text},
                    *self.prompts.messages("repair", problem=problem),
                ]
                found = read(self._ask(again, most, logprobs, read))
            with self._lock:
                self.n_repaired += 1
            return found
        except NoAnswer as exc:
            self._failed(exc.kind, exc)
        except ValueError:
            self._failed("format", None)
        return None

    def _ask(
        self, messages: list[Message], most: int, logprobs: bool, read: Callable[[Reply], Any]
    ) -> Reply:
        settings = {"max_tokens": most, "logprobs": logprobs}
        key = self.journal.key(self.endpoint.model, self.endpoint.url, messages, settings)
        held = self.journal.get(key)
        if held is not None:
            with self._lock:
                self.reused += held.usage
            return held
        self.budget.check(self.spent)
        reply = self.endpoint.ask(messages, max_tokens=most, logprobs=logprobs)
        with self._lock:
            self._lost = 0
            self.spent += reply.usage
        try:
            read(reply)
        except ValueError:
            return reply  # not kept: the next run asks again
        self.journal.put(key, reply)
        return reply

    def _failed(self, kind: str, exc: NoAnswer | None) -> None:
        with self._lock:
            self.failures[kind] += 1
            if exc is None:
                return
            self.spent += exc.spent
            self._lost = self._lost + 1 if kind in _ITS_FAULT else 0
            lost = self._lost
        if lost >= GIVE_UP or (kind in _ITS_FAULT and not self.spent.n_calls):
            raise gone(self.endpoint, exc)


def gone(endpoint: Endpoint, exc: NoAnswer) -> EndpointError:
    """The error for an endpoint that does not answer."""
    what = {
        "down": "cannot be reached",
        "timeout": "is too slow",
        "rate_limit": "keeps refusing for its rate limit",
        "html": "is not an API",
        "broken": "breaks off its answers",
    }.get(exc.kind, "keeps failing")
    hint = {
        "timeout": "Raise --timeout or lower --concurrency.",
        "rate_limit": "Set --rate to the requests a minute that it allows.",
    }.get(exc.kind, "Check --explainer-url.")
    return EndpointError(
        f"the endpoint {endpoint.url} {what}",
        got=exc.why,
        hint=f"{hint} Every answer so far is kept; run the same command again to go on.",
    )


def read_json(text: str) -> dict[str, Any]:
    """The one JSON object in an answer, also where it stands in a fence or in other words.

    Raises ValueError, saying what is wrong, where there is none.
    """
    text = _THOUGHT.sub("", text)
    fenced = _FENCE.match(text)
    text = fenced[1] if fenced else text
    begin, end = text.find("{"), text.rfind("}")
    if begin < 0 or end < begin:
        raise ValueError("no JSON object in it")
    body = text[begin : end + 1]
    for attempt in (body, _COMMA.sub(r"\1", body)):
        try:
            found = json.loads(attempt)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    raise ValueError("the JSON is not valid")


def read_explanation(reply: Reply) -> str:
    """The "explanation" of an answer on one line; ValueError where it is not there or too long."""
    found = read_json(reply.text).get("explanation")
    if not isinstance(found, str) or not found.strip():
        raise ValueError('no "explanation" that is text')
    line = " ".join(found.split())
    if len(line) > LONGEST:
        raise ValueError(f"the explanation is longer than {LONGEST} characters")
    return line


def read_verdicts(reply: Reply, n: int) -> tuple[list[float], bool]:
    """P(yes) for n answers, and whether log-probabilities gave them.

    With the likeliest tokens at each 0 or 1 of the answer, P = p(1) / (p(0) + p(1)).
    Raises ValueError unless there are exactly n answers, each 0 or 1.
    """
    found = read_json(reply.text).get("answers")
    if not isinstance(found, list) or any(
        isinstance(a, float | str) or a not in (0, 1) for a in found
    ):
        raise ValueError('no "answers" that is a list of 0 and 1')
    if len(found) != n:
        raise ValueError(f"{len(found)} answers instead of {n}")
    hard = [float(a) for a in found]
    soft = _by_logprobs(reply, hard)
    return (hard, False) if soft is None else (soft, True)


def _by_logprobs(reply: Reply, hard: list[float]) -> list[float] | None:
    """P(1) at each digit of the answers; None unless every digit is a token of its own."""
    if reply.logprobs is None:
        return None
    found, begun = [], False
    for token, others in reply.logprobs:
        if not begun:
            begun = "[" in token
            continue
        digit = token.strip(" ,\n[]")
        if digit in ("0", "1"):
            found.append((float(digit), _share(others)))
        if "]" in token:
            break
    if [digit for digit, _ in found] != hard or any(p is None for _, p in found):
        return None
    return [p for _, p in found if p is not None]


def _share(others: dict[str, float]) -> float | None:
    mass = {"0": 0.0, "1": 0.0}
    for token, logp in others.items():
        digit = token.strip(" ,\n[]")
        if digit in mass:
            mass[digit] += math.exp(logp)
    total = mass["0"] + mass["1"]
    return mass["1"] / total if total > 0 else None
