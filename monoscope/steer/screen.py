"""The output score: does turning a latent up make the model say what the latent promises?

After Arad et al. 2025, who rank latents by the probability of their own logit-lens token under
amplification; here the promise is any weighted set of tokens, and two controls stand beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from monoscope.errors import ConfigError
from monoscope.lm.protocol import LM
from monoscope.sae.model import SAE, require_latent
from monoscope.sae.trained import check_fits
from monoscope.steer.prompts import NEUTRAL_PROMPTS
from monoscope.steer.rows import check_prompts, latent_moves, next_token_shares, random_moves

FLOOR = 1e-4  # probability below which differences do not count

Promised = Mapping[int, float]
"""What a latent promises to write: token id -> weight in (0, 1]."""


@dataclass(frozen=True)
class OutputScore:
    """Weighted probability of a latent's promised tokens coming next, Σ_t w_t·p(t), on prompts.

    steered: under the latent's direction at times_norm × the median norm.  default: unedited.
    random: under random directions of the same length, their mean.
    """

    latent: int
    times_norm: float
    steered: float
    default: float
    random: float

    @property
    def score(self) -> float:
        """How much likelier the latent's own direction makes its promise, in nats.

        log((steered + ε) / (max(default, random) + ε)) with ε = 1e-4: a ratio, so that a rare word
        made common counts as much as a common one, and ε, so that the very rare do not win.
        """
        return math.log((self.steered + FLOOR) / (max(self.default, self.random) + FLOOR))

    def to_json(self) -> dict[str, float]:
        """All figures, and their score."""
        return {**asdict(self), "score": self.score}


def by_rank(token_ids: Iterable[int]) -> dict[int, float]:
    """A promise from tokens listed best first: weight 1/log2(2 + rank), so 1, 0.63, 0.5, …"""
    weights: dict[int, float] = {}
    for token in token_ids:
        weights.setdefault(int(token), 1 / math.log2(2 + len(weights)))
    return weights


def output_score(
    lm: LM,
    sae: SAE,
    promised: Mapping[int, Promised],
    *,
    prompts: Sequence[str] = NEUTRAL_PROMPTS,
    times_norm: float = 0.35,
    n_random: int = 8,
    seed: int = 0,
) -> list[OutputScore]:
    """Score every latent in `promised` (latent -> what it promises), in the order given.

    prompts: texts that leave the subject open; scores are means over them, of the distribution
    right after each.  Cost: one forward pass over the prompts per latent and random direction.
    Raises LatentError, ConfigError for a bad promise, MismatchError where SAE and model differ.
    """
    check_fits(lm, sae)
    check_promised(lm, sae, promised)
    if n_random < 1:
        raise ConfigError("n_random", got=n_random, expected="1 or more")
    ids = check_prompts(lm, prompts)
    controls = random_moves(sae, n_random, times_norm, seed)
    unmoved = torch.zeros_like(controls[:1])
    baseline = torch.stack(list(next_token_shares(lm, sae, torch.cat([unmoved, controls]), ids)))
    default, random = baseline[0], baseline[1:].mean(0)
    moves = latent_moves(sae, list(promised), times_norm)
    steered = next_token_shares(lm, sae, moves, ids)
    return [
        OutputScore(
            latent, times_norm, mass(shares, wanted), mass(default, wanted), mass(random, wanted)
        )
        for (latent, wanted), shares in zip(promised.items(), steered, strict=True)
    ]


def mass(shares: Tensor, wanted: Promised) -> float:
    """Σ_t w_t·shares[t] over the promised tokens, for shares [V] of a distribution over tokens."""
    tokens = torch.tensor(list(wanted), dtype=torch.int64, device=shares.device)
    weights = torch.tensor(list(wanted.values()), dtype=torch.float64, device=shares.device)
    return float(shares[tokens].double() @ weights)


def check_promised(lm: LM, sae: SAE, promised: Mapping[int, Promised]) -> None:
    """Raise LatentError or ConfigError unless every latent exists and promises known tokens."""
    if not promised:
        raise ConfigError("no latents to try")
    for latent, wanted in promised.items():
        require_latent(sae, latent)
        if not wanted:
            raise ConfigError(f"latent {latent} promises no tokens, so nothing can be measured")
        for token, weight in wanted.items():
            if not 0 <= token < lm.vocab_size or not 0 < weight <= 1:
                raise ConfigError(
                    f"bad promise of latent {latent}",
                    got=f"token {token} with weight {weight}",
                    expected=f"token ids below {lm.vocab_size}, weights in (0, 1]",
                )
