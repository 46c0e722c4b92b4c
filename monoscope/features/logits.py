"""The tokens that each latent's direction makes likelier and less likely: the logit lens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

N_TOKENS = 10
_TILE_ELEMENTS = 2**25  # logits held at once


@dataclass(frozen=True)
class Logits:
    """Per latent, N_TOKENS vocabulary entries and their logits: highest first, lowest first."""

    top_tokens: list[list[str]]
    top_logits: list[list[float]]
    bottom_tokens: list[list[str]]
    bottom_logits: list[list[float]]


def logit_lens(lm: Any, W_dec: Tensor, k: int = N_TOKENS) -> Logits:
    """The k highest and k lowest logits of W_U (γ ⊙ d) for each row d of W_dec [L, D].

    γ is the gain of the model's final norm, applied by `lm.lens`; layers after the site are
    skipped, so far from the last layer the lens says little.
    """
    tile = max(1, _TILE_ELEMENTS // lm.vocab_size)
    k = min(k, lm.vocab_size)
    names: dict[int, str] = {}
    sides: list[tuple[list[list[str]], list[list[float]]]] = [([], []), ([], [])]
    for rows in W_dec.detach().float().split(tile):
        logits = lm.lens(rows.to(lm.device))
        for (tokens, values), largest in zip(sides, (True, False), strict=True):
            best = logits.topk(k, dim=1, largest=largest)
            values += best.values.float().cpu().tolist()
            tokens += [[_name(lm, names, t) for t in row] for row in best.indices.cpu().tolist()]
    (top_tokens, top_logits), (bottom_tokens, bottom_logits) = sides
    return Logits(top_tokens, top_logits, bottom_tokens, bottom_logits)


def no_lens(lm: Any, d_in: int) -> str | None:
    """Why there is no logit lens for directions of width d_in; None if there is one."""
    if lm is None:
        return "no language model was given"
    if d_in != lm.d_model:
        return f"directions of width {d_in} do not live in the residual stream ({lm.d_model})"
    return None


def _name(lm: Any, names: dict[int, str], token: int) -> str:
    if token not in names:
        names[token] = lm.token_text(token)
    return names[token]
