"""Steered generation beside the default one, with the size of the edit and its effect in nats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monoscope.errors import ConfigError
from monoscope.lm.protocol import LM
from monoscope.lm.session import draw
from monoscope.sae.trained import check_fits
from monoscope.steer.apply import Meter, hooks_for
from monoscope.steer.edits import Edit

Prompt = str | Sequence[dict[str, str]]


@dataclass(frozen=True)
class TokenScore:
    """One token of the steered text, with its log-probability (nats) under both models."""

    token_id: int
    text: str
    logp_steered: float
    logp_default: float


@dataclass(frozen=True)
class Generation:
    """What the model says by itself and what it says under edits, after the same prompt.

    default, steered: the continuations, without the prompt.
    relative_norm: mean ‖Δ‖/‖x‖ over the positions that the edits name and the mask keeps, in
    prompt and steered text; 0 without edits.
    kl: KL(steered ‖ default) = Σ_v p_s(v)·(log p_s(v) − log p_d(v)) of the two models' next-token
    distributions, both reading the steered text; mean over its tokens, in nats a token.
    tokens: the steered text token by token.
    """

    prompt: Prompt
    default: str
    steered: str
    edits: tuple[Edit, ...]
    relative_norm: float
    kl: float
    tokens: tuple[TokenScore, ...] = ()

    def to_json(self) -> dict[str, object]:
        """default, steered, edits (one object each), relative_norm, kl."""
        return {
            "default": self.default,
            "steered": self.steered,
            "edits": [edit.to_json() for edit in self.edits],
            "relative_norm": self.relative_norm,
            "kl": self.kl,
        }


def generate(
    lm: LM,
    prompt: Prompt,
    *,
    edits: Sequence[Edit] = (),
    max_new_tokens: int = 60,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    chat: bool = False,
) -> Generation:
    """Continue one prompt with and without edits, and measure how far apart the two models are.

    prompt: a text, or chat messages; a text with chat=True is sent as one user message.
    temperature 0 is greedy; otherwise both continuations are drawn with the same seed, from the
    likeliest tokens that together have probability top_p.
    Raises ConfigError for an empty prompt and for what `draw` refuses (counts out of range, more
    text than the context holds), MismatchError where an SAE does not fit the model.
    """
    edits = tuple(edits)
    for edit in edits:
        check_fits(lm, edit.sae)
    given = prompt_ids(lm, prompt, chat=chat)
    texts = []
    for hooks in ({}, hooks_for(edits)):
        drawn = draw(
            lm, given, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p,
            seed=seed, hooks=hooks,
        )  # fmt: skip
        texts.append([new.token_id for new in drawn if new.token_id not in lm.eos_ids])
    default, steered = texts
    meter = Meter()
    kl, tokens = _compare(lm, given, steered, edits, meter)
    return Generation(prompt, lm.decode(default), lm.decode(steered), edits, meter.mean, kl, tokens)


def prompt_ids(lm: LM, prompt: Prompt, *, chat: bool = False) -> list[int]:
    """A prompt's ids with the model's prefix or chat template. Raises ConfigError if empty."""
    if isinstance(prompt, str):
        if not prompt:
            raise ConfigError(
                "the prompt is empty", hint="Give at least one character to continue."
            )
        if not chat:
            return [*lm.prefix_ids, *lm.encode([prompt])[0].ids]
        prompt = [{"role": "user", "content": prompt}]
    messages = list(prompt)
    shaped = all(isinstance(m, dict) and {"role", "content"} <= set(m) for m in messages)
    if not messages or not shaped:
        raise ConfigError(
            "bad chat messages",
            got=repr(messages)[:80],
            expected='[{"role": "user", "content": "..."}, ...]',
        )
    return lm.chat(messages)


@torch.no_grad()
def _compare(
    lm: LM, given: list[int], steered: list[int], edits: tuple[Edit, ...], meter: Meter
) -> tuple[float, tuple[TokenScore, ...]]:
    """KL(steered ‖ default) a token, and each token's log-probabilities under both models."""
    ids = torch.tensor([given + steered[:-1]], device=lm.device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    generated = torch.arange(ids.shape[1], device=lm.device)[None] >= len(given)
    hooks = hooks_for(edits, generated=generated, meter=meter)
    # the distributions that produced the text: from the prompt's last token on
    p_default = _log_probs(lm.logits(ids, mask), len(given))
    p_steered = _log_probs(lm.logits(ids, mask, hooks), len(given))
    kl = float((p_steered.exp() * (p_steered - p_default)).sum(-1).mean())
    tokens = tuple(
        TokenScore(
            token, lm.token_text(token), float(p_steered[i, token]), float(p_default[i, token])
        )
        for i, token in enumerate(steered)
    )
    return kl, tokens


def _log_probs(logits: Tensor, n_given: int) -> Tensor:
    return torch.log_softmax(logits[0, n_given - 1 :].float(), dim=-1)
