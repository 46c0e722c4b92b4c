"""Finding the features that write: many read well from their contexts, few can be written with.

Two stages: all candidates are screened by their output score, which is cheap; the best of them
write texts at several strengths, beside a random direction of equal length and their own reversed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from monoscope.errors import ConfigError
from monoscope.lm.protocol import LM
from monoscope.sae.model import SAE
from monoscope.steer.prompts import NEUTRAL_PROMPTS
from monoscope.steer.screen import OutputScore, Promised, output_score
from monoscope.steer.strength import STRENGTHS, StrengthSearch, search_strengths


@dataclass(frozen=True)
class WriterScore:
    """How well one latent writes: its output score, and its search for the best strength."""

    output: OutputScore
    search: StrengthSearch

    @property
    def latent(self) -> int:
        """The latent's id."""
        return self.search.latent

    @property
    def score(self) -> float:
        """Score of the best trial less that of the better control, as StrengthSearch.score."""
        return self.search.score

    @property
    def times_norm(self) -> float:
        """The best strength found, × the median norm."""
        return self.search.best.times_norm

    def to_json(self) -> dict[str, object]:
        """latent, score, times_norm, output (the screening), search (every trial)."""
        return {
            "latent": self.latent,
            "score": self.score,
            "times_norm": self.times_norm,
            "output": self.output.to_json(),
            "search": self.search.to_json(),
        }


def find_writers(
    lm: LM,
    sae: SAE,
    candidates: Mapping[int, Promised],
    *,
    prompts: Sequence[str] = NEUTRAL_PROMPTS,
    strengths: Sequence[float] = STRENGTHS,
    n_finalists: int = 8,
    screen_at: float = 0.35,
    max_new_tokens: int = 24,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[WriterScore]:
    """Rank latents by how well adding their direction writes what they promise, best first.

    candidates: latent -> its promised tokens with weights in (0, 1] (see `by_rank`).
    The n_finalists of highest output score at screen_at × the median norm are searched over
    `strengths`; the others are not returned.  A score of 0 or less is no better than a control.
    Raises as `output_score` and `search_strengths`.
    """
    if n_finalists < 1:
        raise ConfigError("n_finalists", got=n_finalists, expected="1 or more")
    screened = output_score(lm, sae, candidates, prompts=prompts, times_norm=screen_at, seed=seed)
    finalists = sorted(screened, key=lambda s: s.score, reverse=True)[:n_finalists]
    searches = search_strengths(
        lm,
        sae,
        {s.latent: candidates[s.latent] for s in finalists},
        prompts=prompts,
        strengths=strengths,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    )
    scored = [WriterScore(o, s) for o, s in zip(finalists, searches, strict=True)]
    return sorted(scored, key=lambda w: w.score, reverse=True)
