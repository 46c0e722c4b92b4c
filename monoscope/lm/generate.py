"""Batched text generation with a key-value cache and edited activations.

Prompts of different lengths are padded on the left. Hooks see the whole prompt once, then one
new token a step; a row that has ended is fed padding, which hooks see as mask False.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from monoscope.errors import ConfigError, DataError
from monoscope.lm.protocol import LM, Hook, Positions
from monoscope.sites import Site

if TYPE_CHECKING:
    from monoscope.lm.hf import HFModel


def stream(
    lm: HFModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    hooks: Mapping[Site, Hook] | None = None,
) -> Iterator[Tensor]:
    """Yield the next ids [B] until every row has ended or `max_new_tokens` are written.

    temperature 0 takes the likeliest token; above 0 samples softmax(logits / temperature) with a
    generator of its own, seeded with `seed`. A row's last id before `pad_id` is its end of text.
    Raises ConfigError for settings out of range or text beyond the context, DataError for prompts
    that are empty or hold ids outside the vocabulary.
    """
    check(lm, prompts, max_new_tokens, temperature)
    ids, mask = _left_padded(prompts, lm.pad_id, lm.device)
    return _steps(lm, ids, mask, max_new_tokens, temperature, seed, hooks)


def cut(rows: Sequence[Tensor], n_rows: int, eos_ids: frozenset[int]) -> list[list[int]]:
    """Steps [B] of a stream as one list a row, each ending before its first end of text."""
    out: list[list[int]] = [[] for _ in range(n_rows)]
    ended = [False] * n_rows
    for step in rows:
        for row, token in enumerate(step.tolist()):
            ended[row] = ended[row] or token in eos_ids
            if not ended[row]:
                out[row].append(token)
    return out


def _steps(
    lm: HFModel,
    ids: Tensor,
    mask: Tensor,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    hooks: Mapping[Site, Hook] | None,
) -> Iterator[Tensor]:
    rng = torch.Generator(device=lm.device).manual_seed(seed)
    eos = torch.tensor(sorted(lm.eos_ids), dtype=torch.int64, device=lm.device)
    alive = torch.ones(len(ids), dtype=torch.bool, device=lm.device)
    # Attention goes on in rows that have ended; only what hooks see, `mask`, says they are over.
    attend, generated = mask, torch.zeros_like(mask)
    cache, done = None, 0
    for _ in range(max_new_tokens):
        position = (attend.cumsum(-1) - 1).clamp(min=0)
        seen = Positions(ids[:, done:], mask[:, done:], generated[:, done:], position[:, done:])
        logits, cache = lm.step(seen, attend, cache, hooks)
        chosen = torch.where(alive, choose(logits, temperature, rng), lm.pad_id)
        yield chosen
        alive = alive & ~torch.isin(chosen, eos)
        if not alive.any():
            return
        done = ids.shape[1] if cache is not None else 0
        ids = torch.cat([ids, chosen[:, None]], dim=1)
        mask = torch.cat([mask, alive[:, None]], dim=1)
        attend = torch.cat([attend, torch.ones_like(alive)[:, None]], dim=1)
        generated = torch.cat([generated, torch.ones_like(alive)[:, None]], dim=1)


def choose(logits: Tensor, temperature: float, rng: torch.Generator, top_p: float = 1.0) -> Tensor:
    """Next ids [B] from logits [B,V].

    top_p below 1 draws from the smallest set of likeliest tokens whose probabilities reach it.
    """
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    if top_p < 1:
        sorted_p, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = sorted_p.cumsum(-1) - sorted_p  # the likeliest token is always kept
        probabilities = probabilities.scatter(-1, order, sorted_p.where(before < top_p, 0.0))
    return torch.multinomial(probabilities, 1, generator=rng)[:, 0]


def _left_padded(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), pad_id, dtype=torch.int64)
    mask = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.as_tensor(prompt, dtype=torch.int64)
        mask[row, longest - len(prompt) :] = True
    return ids.to(device), mask.to(device)


def check(
    lm: LM, prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float
) -> None:
    """Raise ConfigError or DataError, as `stream`, for what cannot be continued like that."""
    if max_new_tokens < 1:
        raise ConfigError("max_new_tokens", got=max_new_tokens, expected="1 or more")
    if not 0 <= temperature < float("inf"):
        raise ConfigError("temperature", got=temperature, expected="0 (greedy) or above")
    if not prompts:
        raise DataError("no prompts to continue")
    for row, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise DataError(f"prompt {row} is empty", hint="Give at least one token.")
        if min(prompt) < 0 or max(prompt) >= lm.vocab_size:
            raise DataError(
                f"prompt {row} holds an id outside the vocabulary",
                got=next(i for i in prompt if not 0 <= i < lm.vocab_size),
                expected=f"0…{lm.vocab_size - 1}",
            )
        if len(prompt) + max_new_tokens > lm.context_length:
            raise ConfigError(
                "the text would outgrow the model's context",
                got=f"{len(prompt)} prompt tokens + {max_new_tokens} new ones",
                expected=f"at most {lm.context_length} together",
            )
