"""One text read and written token by token, with the logits that each token was drawn from.

`generate.stream` continues many prompts and tells only what it chose; this continues one, and shows
what it chose from. Both run the very same steps, so they write the same text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from monoscope.errors import ConfigError
from monoscope.lm.generate import check, choose
from monoscope.lm.protocol import LM, Hook, Positions
from monoscope.sites import Site

if TYPE_CHECKING:
    from monoscope.lm.hf import HFModel

_REPLACEMENT = "\ufffd"


class Reader(Protocol):
    """One text being read; what `LM.session` gives."""

    def feed(self, ids: Sequence[int], *, generated: bool = False) -> Tensor:
        """Read these tokens after all earlier ones; logits [V] of the token that comes next."""


class Session:
    """A text read piece by piece by one model under one set of hooks, with a key-value cache."""

    def __init__(self, lm: HFModel, hooks: Mapping[Site, Hook] | None = None) -> None:
        self._lm, self._hooks = lm, hooks
        self._ids = torch.empty(1, 0, dtype=torch.int64, device=lm.device)
        self._generated = torch.empty(1, 0, dtype=torch.bool, device=lm.device)
        self._cache: Any = None
        self._done = 0  # tokens that the cache holds

    def feed(self, ids: Sequence[int], *, generated: bool = False) -> Tensor:
        """Read these tokens after all earlier ones; logits [V] of the token that comes next.

        generated: whether hooks are to take them for the model's own.
        Raises ConfigError where the text outgrows the model's context.
        """
        n = self._ids.shape[1] + len(ids)
        if not ids or n > self._lm.context_length:
            raise ConfigError(
                "a text that cannot be read on",
                got=f"{len(ids)} more tokens, {n} in all",
                expected=f"at least one, at most {self._lm.context_length} in all",
            )
        new = torch.tensor([list(ids)], dtype=torch.int64, device=self._ids.device)
        self._ids = torch.cat([self._ids, new], dim=1)
        marks = torch.full_like(new, generated, dtype=torch.bool)
        self._generated = torch.cat([self._generated, marks], dim=1)
        attend = torch.ones_like(self._generated)
        position = attend.cumsum(-1) - 1
        seen = Positions(
            *(t[:, self._done :] for t in (self._ids, attend, self._generated, position))
        )
        logits, self._cache = self._lm.step(seen, attend, self._cache, self._hooks)
        self._done = n if self._cache is not None else 0
        return logits[0]


@dataclass(frozen=True)
class Drawn:
    """A new token, and the logits [V] it was drawn from. The last one may be an end of text."""

    token_id: int
    logits: Tensor


def draw(
    lm: LM,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    hooks: Mapping[Site, Hook] | None = None,
) -> Iterator[Drawn]:
    """Continue one prompt, token by token; the same tokens as `LM.stream` with the same settings.

    top_p: only the likeliest tokens that together have this probability can be drawn.
    Raises ConfigError for settings out of range or text beyond the context, DataError for a prompt
    that is empty or holds ids outside the vocabulary; all before the first token.
    """
    check(lm, [prompt], max_new_tokens, temperature)
    if not 0 < top_p <= 1:
        raise ConfigError("top_p", got=top_p, expected="above 0, at most 1")
    return _draw(lm, list(prompt), max_new_tokens, temperature, top_p, seed, hooks)


def _draw(
    lm: LM,
    prompt: list[int],
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    hooks: Mapping[Site, Hook] | None,
) -> Iterator[Drawn]:
    rng = torch.Generator(device=lm.device).manual_seed(seed)
    reader = lm.session(hooks)
    logits = reader.feed(prompt)
    for left in reversed(range(max_new_tokens)):
        token = int(choose(logits[None], temperature, rng, top_p)[0])
        yield Drawn(token, logits)
        if token in lm.eos_ids or not left:
            return
        logits = reader.feed([token], generated=True)


class Spelling:
    """Turns ids that come one by one into text, never cutting a character in two.

    decode: as `LM.decode`. The pieces join to the decoded ids.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._start = self._read = 0  # ids from start give context to those from read

    def push(self, token_id: int) -> str:
        """The text that is complete with this token; "" while a character is still unfinished."""
        self._ids.append(token_id)
        piece = self._unread()
        if piece.endswith(_REPLACEMENT):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return piece

    def rest(self) -> str:
        """What was held back, as the decoder spells an unfinished character; "" if nothing."""
        piece = self._unread() if self._read < len(self._ids) else ""
        self._start = self._read = len(self._ids)
        return piece

    def _unread(self) -> str:
        known = self._decode(self._ids[self._start : self._read])
        return self._decode(self._ids[self._start :])[len(known) :]
