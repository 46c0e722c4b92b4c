"""How strongly to steer: a latent is tried at several strengths and its texts are judged.

A text is judged by what can be counted in it, without a judge model:

    promised   weighted share of its tokens that the latent promised
    reread     share of its tokens on which the latent fires when the unedited model reads the text
    ce         mean −log p of its tokens under the unedited model, nats
    distinct2  share of its bigrams that are no repeat

and beside these by what it cost, which the score does not count:

    relative_norm  mean ‖Δ‖/‖x‖ over the positions moved while it was written
    kl             KL(steered ‖ default) of the next-token distributions on it, nats a token

Against the unsteered text (index 0), with g(a) the mean of min(1, max(0, a − a_0) / 0.2) over
prompts, each by the shares of its own texts, so that spam after one is no effect on the others:

    effect  = √(g(promised) · g(reread)), or g(promised) for a promise of 12 tokens or more
    fluency = min(1, distinct2 / distinct2_0)² · exp(−max(0, ce − ce_0 − 1))
    score   = effect · fluency,  from 0 to 1

Both counts must rise, as each alone is easily fooled: repeating one promised token is no text about
it, and the latent may fire on text that shows nothing of what it stands for. A broad promise (the
common tokens of a language, say) is kept only by such text, where one latent of that language fires
now and then. A fifth of the tokens
is full effect, since more is spam. Greedy text on an unexpected subject is about one nat a token
more surprising than the unsteered text; only what lies beyond costs fluency.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from monoscope.errors import ConfigError
from monoscope.lm.protocol import LM
from monoscope.sae.model import SAE
from monoscope.sae.trained import check_fits
from monoscope.steer.prompts import NEUTRAL_PROMPTS
from monoscope.steer.rows import Written, check_prompts, latent_moves, random_moves, write
from monoscope.steer.screen import Promised, check_promised

STRENGTHS = (0.2, 0.3, 0.4, 0.5, 0.65)
FULL_EFFECT = 0.2
FREE_SURPRISE = 1.0
BROAD = 12  # promised tokens


@dataclass(frozen=True)
class Trial:
    """What steering at times_norm × the median norm wrote after each prompt, and its figures.

    times_norm: 0 for the unsteered text, negative for the reversed direction.  Other figures: as
    the module's docstring defines them.  texts: one continuation a prompt.
    """

    times_norm: float
    promised: float
    reread: float
    ce: float
    distinct2: float
    effect: float
    fluency: float
    relative_norm: float
    kl: float
    texts: tuple[str, ...]

    @property
    def score(self) -> float:
        """effect · fluency."""
        return self.effect * self.fluency

    def to_json(self) -> dict[str, object]:
        """All figures, the score, and the texts."""
        return {**asdict(self), "score": self.score, "texts": list(self.texts)}


@dataclass(frozen=True)
class StrengthSearch:
    """One latent tried at several strengths, and the two controls at the best of them.

    default: the unsteered texts.  trials: weakest first.  best: the trial of highest score (the
    weakest of equals).  random: a random direction of the best's length.  reversed: the latent's
    own direction, backwards, at the best's strength.
    """

    latent: int
    default: Trial
    trials: tuple[Trial, ...]
    best: Trial
    random: Trial
    reversed: Trial

    @property
    def score(self) -> float:
        """What the direction itself achieves: best.score − max(random.score, reversed.score)."""
        return self.best.score - max(self.random.score, self.reversed.score)

    def to_json(self) -> dict[str, object]:
        """Every trial, and the score."""
        return {
            "latent": self.latent,
            "score": self.score,
            "default": self.default.to_json(),
            "trials": [trial.to_json() for trial in self.trials],
            "best": self.best.to_json(),
            "random": self.random.to_json(),
            "reversed": self.reversed.to_json(),
        }


def search_strength(
    lm: LM,
    sae: SAE,
    latent: int,
    promised: Promised,
    *,
    prompts: Sequence[str] = NEUTRAL_PROMPTS,
    strengths: Sequence[float] = STRENGTHS,
    max_new_tokens: int = 24,
    temperature: float = 0.0,
    seed: int = 0,
) -> StrengthSearch:
    """Find the strength, in × the median norm, at which adding one latent's direction writes best.

    Raises as `search_strengths`.
    """
    (found,) = search_strengths(
        lm,
        sae,
        {latent: promised},
        prompts=prompts,
        strengths=strengths,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    )
    return found


def search_strengths(
    lm: LM,
    sae: SAE,
    promised: Mapping[int, Promised],
    *,
    prompts: Sequence[str] = NEUTRAL_PROMPTS,
    strengths: Sequence[float] = STRENGTHS,
    max_new_tokens: int = 24,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[StrengthSearch]:
    """As `search_strength` for every latent in `promised`, in the order given, in large batches.

    Writes prompts × strengths × (latents + 1) + prompts × (latents + 1) continuations.
    Raises LatentError, ConfigError for bad promises, prompts or strengths, MismatchError where SAE
    and model differ.
    """
    check_fits(lm, sae)
    check_promised(lm, sae, promised)
    strengths = checked_strengths(strengths)
    ids = check_prompts(lm, prompts)

    def texts(jobs: list[_Job]) -> dict[_Job, Written]:
        moves = torch.cat([_move(sae, job, seed) for job in jobs])
        written = write(
            lm,
            sae,
            moves,
            ids,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
        )
        return dict(zip(jobs, written, strict=True))

    done = texts([(None, 0.0), *((i, s) for i in (None, *promised) for s in strengths)])
    judges = {i: Judge(lm, i, wanted, done[None, 0.0]) for i, wanted in promised.items()}
    trials = {i: tuple(judges[i].trial(done[i, s], s) for s in strengths) for i in promised}
    best = {i: max(trials[i], key=lambda trial: trial.score) for i in promised}
    backwards = texts([(i, -best[i].times_norm) for i in promised])
    return [
        StrengthSearch(
            latent=i,
            default=judge.trial(done[None, 0.0], 0.0),
            trials=trials[i],
            best=best[i],
            random=judge.trial(done[None, best[i].times_norm], best[i].times_norm),
            reversed=judge.trial(backwards[i, -best[i].times_norm], -best[i].times_norm),
        )
        for i, judge in judges.items()
    ]


_Job = tuple[int | None, float]  # a latent, or None for a random direction; × the median norm


def _move(sae: SAE, job: _Job, seed: int) -> Tensor:
    latent, times_norm = job
    if latent is None:
        return random_moves(sae, 1, times_norm, seed)
    return latent_moves(sae, [latent], times_norm)


@dataclass(frozen=True)
class Judge:
    """Turns texts into trials of one latent, against the unsteered texts `plain`."""

    lm: LM
    latent: int
    wanted: Promised
    plain: Written

    def trial(self, text: Written, times_norm: float) -> Trial:
        """The figures of one set of texts, as the module's docstring defines them."""
        gains = [_gain(of(text), of(self.plain)) for of in (self._promised, self._reread)]
        repeats = text.distinct2 / self.plain.distinct2 if self.plain.distinct2 else 1.0
        surprise = max(0.0, text.ce - self.plain.ce - FREE_SURPRISE)
        return Trial(
            times_norm=times_norm,
            promised=_share(self._promised(text)),
            reread=_share(self._reread(text)),
            ce=text.ce,
            distinct2=text.distinct2,
            effect=gains[0] if len(self.wanted) >= BROAD else math.sqrt(gains[0] * gains[1]),
            fluency=min(1.0, repeats) ** 2 * math.exp(-surprise),
            relative_norm=text.relative_norm,
            kl=text.kl,
            texts=tuple(self.lm.decode(row) for row in text.ids),
        )

    def _promised(self, text: Written) -> _Marks:
        """How much of the promise each token is, text by text."""
        return [[self.wanted.get(token, 0.0) for token in row] for row in text.ids]

    def _reread(self, text: Written) -> _Marks:
        """1.0 where the latent fires, text by text."""
        fires = iter((text.codes.column(self.latent) > 0).double().tolist())
        return [[next(fires) for _ in row] for row in text.ids]


_Marks = list[list[float]]  # a figure for each token of each text


def _share(marks: _Marks) -> float:
    """The mean over all tokens, 0 where there are none."""
    flat = [mark for row in marks for mark in row]
    return sum(flat) / max(1, len(flat))


def _gain(marks: _Marks, plain: _Marks) -> float:
    """g: the mean over prompts of how far a text's share lies above its plain text's."""
    rises = [_share([row]) - _share([before]) for row, before in zip(marks, plain, strict=True)]
    return sum(min(1.0, max(0.0, rise) / FULL_EFFECT) for rise in rises) / max(1, len(rises))


def checked_strengths(strengths: Sequence[float]) -> list[float]:
    """Strengths in rising order, weakest first; raises ConfigError unless all are above 0."""
    values = sorted({float(s) for s in strengths})
    if not values or not all(math.isfinite(s) and s > 0 for s in values):
        raise ConfigError("strengths to try", got=list(strengths), expected="numbers above 0")
    return values
