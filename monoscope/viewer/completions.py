"""One completion, piece by piece: its text up to a stop, log-probabilities, and counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from monoscope.steer.edits import Edit
    from monoscope.viewer.engine import Loaded

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Asked:
    """A completion to write: the prompt's ids, the edits, and how to draw.

    stop: texts at which to end; they are not part of the answer.  top_logprobs: how many of the
    likeliest tokens to tell at every step; None tells no log-probabilities at all.
    """

    ids: list[int]
    edits: Sequence[Edit]
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: Sequence[str] = ()
    top_logprobs: int | None = None


@dataclass(frozen=True)
class TokenLogp:
    """A token as the vocabulary has it, the text it added, its log-probability, the likeliest."""

    text: str
    piece: str
    logp: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Piece:
    """Text to add to the answer, with the tokens it came from, and on the last one why it ends."""

    text: str
    tokens: tuple[TokenLogp, ...] = ()
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class Usage:
    """Told last: tokens in and out, and what the edits were and moved, mean ‖Δ‖/‖x‖."""

    prompt_tokens: int
    completion_tokens: int
    edits: tuple[str, ...]
    relative_norm: float

    def counts(self) -> dict[str, int]:
        """As OpenAI counts."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }

    def extra(self) -> dict[str, Any]:
        """What an answer says beside OpenAI's fields."""
        return {"edits": list(self.edits), "relative_norm": self.relative_norm}


@dataclass
class Holdback:
    """Passes text on, but for what may be the beginning of a stop string, until that is known."""

    stops: Sequence[str]
    held: str = field(default="", init=False)
    stopped: bool = field(default=False, init=False)

    def push(self, text: str) -> str:
        """What may be passed on now. After a stop string was met, nothing ever more."""
        if self.stopped:
            return ""
        self.held += text
        found = [at for stop in self.stops if (at := self.held.find(stop)) >= 0]
        if found:
            self.stopped = True
            safe, self.held = self.held[: min(found)], ""
            return safe
        keep = max((_overlap(self.held, stop) for stop in self.stops), default=0)
        cut = len(self.held) - keep
        safe, self.held = self.held[:cut], self.held[cut:]
        return safe

    def rest(self) -> str:
        """What was held back, when no more comes."""
        rest, self.held = self.held, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next(
        (n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0
    )


def write(loaded: Loaded, asked: Asked) -> Iterator[Piece | Usage]:
    """Write the answer, a Piece a token, the last with its finish_reason; then the Usage.

    Raises what `draw` raises for settings and lengths, and MismatchError for edits of another
    model's SAE, all before the first piece.
    """
    from monoscope.errors import ConfigError
    from monoscope.lm.session import Spelling, draw
    from monoscope.sae.trained import check_fits
    from monoscope.steer.apply import Meter, hooks_for

    lm = loaded.lm
    if any(not stop for stop in asked.stop):
        raise ConfigError("a stop text is empty", expected="at least one character")
    for edit in asked.edits:
        check_fits(lm, edit.sae)
    meter = Meter()
    drawn = draw(
        lm,
        asked.ids,
        max_new_tokens=asked.max_new_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=asked.seed,
        hooks=hooks_for(asked.edits, meter=meter),
    )
    spelling, holdback, n = Spelling(lm.decode), Holdback(asked.stop), 0
    reason: FinishReason = "length"
    for new in drawn:
        n += 1
        if new.token_id in lm.eos_ids:
            reason = "stop"
            break
        piece = spelling.push(new.token_id)
        tokens = (
            () if asked.top_logprobs is None else (_logp(loaded, new, piece, asked.top_logprobs),)
        )
        yield Piece(holdback.push(piece), tokens)
        if holdback.stopped:
            reason = "stop"
            break
    rest = holdback.push(spelling.rest()) + holdback.rest()
    yield Piece(rest, finish_reason="stop" if holdback.stopped else reason)
    yield Usage(len(asked.ids), n, tuple(str(edit) for edit in asked.edits), meter.mean)


def _logp(loaded: Loaded, new: Any, piece: str, top: int) -> TokenLogp:
    import torch

    log_p = torch.log_softmax(new.logits.float(), dim=-1)
    values, ids = log_p.topk(min(top, len(log_p)))
    lm = loaded.lm
    likeliest = tuple((lm.token_text(int(i)), float(v)) for v, i in zip(values, ids, strict=True))
    return TokenLogp(lm.token_text(new.token_id), piece, float(log_p[new.token_id]), likeliest)
