"""What latents write, atlas-wide: one forward pass each, three promises weighed on its result.

A latent's own tokens (those its label carries, else those its strongest contexts peak on), the
tokens its logit lens names, and, as the control, another latent's own tokens. Scores are those of
`screen`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from monoscope.artifact.checks import check_model
from monoscope.errors import ConfigError, ModelError
from monoscope.lm.protocol import LM
from monoscope.sae.model import SAE, require_latent
from monoscope.steer.promises import Basis, Promising, promised
from monoscope.steer.prompts import NEUTRAL_PROMPTS
from monoscope.steer.rows import check_prompts, latent_moves, next_token_shares, random_moves
from monoscope.steer.screen import OutputScore, Promised, by_rank, mass

N_LENS = 10  # tokens of the logit lens that count
_TILE = 64  # latents prepared at a time

Named = dict[str, Promised]


class Features(Protocol):
    """An atlas, as far as it is asked here."""

    def feature(self, latent: int, /) -> Promising: ...


@dataclass(frozen=True)
class Outputs:
    """One latent's output scores, each None where there was nothing to promise.

    writes: of its own tokens; lens: of those its direction makes likelier by the logit lens;
    control: of another latent's own, which it should not make likelier. tokens, lens_tokens: the
    texts of the first two, best first. basis: where its own tokens are from, "label" or "contexts".
    """

    latent: int
    writes: OutputScore | None
    lens: OutputScore | None
    control: OutputScore | None
    tokens: list[str]
    lens_tokens: list[str]
    basis: Basis | None = None


def own_promise(lm: LM, atlas: Features, latent: int) -> tuple[Promised, Basis | None]:
    """The tokens of a latent's label, else those its strongest contexts peak on, and which.

    Empty, and None, where none is a whole token.
    """
    try:
        wanted, _, basis = promised(lm, atlas.feature(latent))
    except ConfigError:
        return {}, None
    return (wanted, basis) if basis in ("label", "contexts") else ({}, None)


def lens_promises(lm: LM, sae: SAE, latents: Sequence[int]) -> dict[int, Promised]:
    """The N_LENS tokens that each latent's direction raises most; empty without a logit lens."""
    try:
        logits = lm.lens(sae.W_dec[torch.tensor(list(latents))].detach())
    except ModelError:
        return {}
    best = logits.topk(N_LENS, dim=1).indices.tolist()
    return {latent: by_rank(row) for latent, row in zip(latents, best, strict=True)}


def output_scores(
    lm: LM,
    sae: SAE,
    atlas: Features,
    latents: Sequence[int],
    *,
    others: Mapping[int, int] | None = None,
    prompts: Sequence[str] = NEUTRAL_PROMPTS,
    times_norm: float = 0.35,
    n_random: int = 8,
    seed: int = 0,
    done: Callable[[list[Outputs]], None] | None = None,
) -> list[Outputs]:
    """Score latents, in the order given; one forward pass over the prompts each.

    others: whose own tokens each latent's control promises; by default those of a latent drawn from
    `latents`. done: told the scores of each group of latents as it is finished.
    Raises LatentError, ConfigError for prompts, MismatchError where SAE and model differ.
    """
    check_model(sae, lm)
    for latent in latents:
        require_latent(sae, latent)
    if n_random < 1:
        raise ConfigError("n_random", got=n_random, expected="1 or more")
    ids = check_prompts(lm, prompts)
    others = draw_others(latents, seed) if others is None else others
    controls = random_moves(sae, n_random, times_norm, seed)
    still = torch.cat([torch.zeros_like(controls[:1]), controls])
    shares = torch.stack(list(next_token_shares(lm, sae, still, ids)))
    default, random = shares[0], shares[1:].mean(0)
    out: list[Outputs] = []
    for start in range(0, len(latents), _TILE):
        some = list(latents[start : start + _TILE])
        named, bases = _promises(lm, sae, atlas, some, others)
        moves = latent_moves(sae, some, times_norm)
        group = []
        for latent, steered in zip(some, next_token_shares(lm, sae, moves, ids), strict=True):
            scores = {
                name: OutputScore(latent, times_norm, mass(steered, w), mass(default, w),
                                  mass(random, w)) if w else None
                for name, w in named[latent].items()
            }  # fmt: skip
            own, named_by_lens = (
                [lm.token_text(t) for t in named[latent][n]] for n in ("writes", "lens")
            )
            group.append(
                Outputs(
                    latent, **scores, tokens=own, lens_tokens=named_by_lens, basis=bases[latent]
                )
            )
        out += group
        if done is not None:
            done(group)
    return out


def draw_others(latents: Sequence[int], seed: int) -> dict[int, int]:
    """Another of `latents` for each, in a random round; empty for fewer than two."""
    order = [latents[i] for i in np.random.default_rng([seed, 29]).permutation(len(latents))]
    return dict(zip(order, order[1:] + order[:1], strict=True)) if len(order) > 1 else {}


def _promises(
    lm: LM, sae: SAE, atlas: Features, latents: Sequence[int], others: Mapping[int, int]
) -> tuple[dict[int, Named], dict[int, Basis | None]]:
    """What each latent is held to, and the basis of its own tokens.

    Of another's tokens, those that are its own too are left out.
    """
    lens = lens_promises(lm, sae, latents)
    named: dict[int, Named] = {}
    bases: dict[int, Basis | None] = {}
    for latent in latents:
        own, bases[latent] = own_promise(lm, atlas, latent)
        other = own_promise(lm, atlas, others[latent])[0] if latent in others else {}
        strange = {t: w for t, w in other.items() if t not in own}
        named[latent] = {"writes": own, "lens": lens.get(latent, {}), "control": strange}
    return named, bases
