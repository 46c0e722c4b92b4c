"""The default and the steered answer written side by side, token by token, with what they cost.

After the same prompt three readers go on: the model as it is, writing the default answer; the model
under the edits, writing the steered answer; and the model as it is, reading the steered answer. The
two distributions over each steered token give its change of log-probability and the KL.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from monoscope.lm.protocol import LM
from monoscope.lm.session import Spelling, draw
from monoscope.sae.trained import check_fits
from monoscope.steer.apply import Meter, hooks_for
from monoscope.steer.edits import Edit

Side = Literal["default", "steered"]


@dataclass(frozen=True)
class LiveToken:
    """One new token of one side. An end of text is a token like others, with ended set.

    text: what it adds to the answer ("" while a character is unfinished, and for an end of text).
    logp: log-probability (nats) under the model that wrote it.  logp_default: under the unedited
    model reading the same text.  kl: KL(steered ‖ default) of the two distributions it could have
    been drawn from, nats.  relative_norm: mean ‖Δ‖/‖x‖ over the positions edited so far; both 0 on
    the default side.
    """

    side: Side
    index: int
    token_id: int
    text: str
    logp: float
    logp_default: float
    kl: float
    relative_norm: float
    ended: bool = False


def side_by_side(
    lm: LM,
    given: Sequence[int],
    *,
    edits: Sequence[Edit] = (),
    max_new_tokens: int = 60,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Iterator[LiveToken]:
    """Write both answers after the prompt's ids, a token of each in turn until both have ended.

    The texts are those of `generate` with the same settings; without edits the sides are equal,
    token for token. Raises as `draw`, and MismatchError where an SAE does not fit the model, all
    before the first token.
    """
    for edit in edits:
        check_fits(lm, edit.sae)
    default = draw(
        lm, given, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed
    )
    meter = Meter()
    steered = draw(
        lm, given, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed,
        hooks=hooks_for(edits, meter=meter),
    )  # fmt: skip

    def default_side() -> Iterator[LiveToken]:
        spelling = Spelling(lm.decode)
        for i, drawn in enumerate(default):
            ended = drawn.token_id in lm.eos_ids
            logp = float(_log_p(drawn.logits)[drawn.token_id])
            text = spelling.rest() if ended else spelling.push(drawn.token_id)
            yield LiveToken("default", i, drawn.token_id, text, logp, logp, 0.0, 0.0, ended)

    def steered_side() -> Iterator[LiveToken]:
        spelling, reader, unread = Spelling(lm.decode), lm.session(), list(given)
        for i, drawn in enumerate(steered):
            p = _log_p(drawn.logits)
            q = _log_p(reader.feed(unread, generated=i > 0))
            unread = [drawn.token_id]
            ended = drawn.token_id in lm.eos_ids
            yield LiveToken(
                side="steered",
                index=i,
                token_id=drawn.token_id,
                text=spelling.rest() if ended else spelling.push(drawn.token_id),
                logp=float(p[drawn.token_id]),
                logp_default=float(q[drawn.token_id]),
                kl=max(0.0, float((p.exp() * (p - q)).sum())),
                relative_norm=meter.mean,
                ended=ended,
            )

    return _in_turn(default_side(), steered_side())


def _in_turn(*sides: Iterator[LiveToken]) -> Iterator[LiveToken]:
    """One token of each side after the other, until all have run out."""
    going = list(sides)
    while going:
        for side in list(going):
            token = next(side, None)
            if token is None:
                going.remove(side)
            else:
                yield token


def _log_p(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits.float(), dim=-1)
