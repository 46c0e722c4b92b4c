"""One latent tried at rising strengths on the user's own prompts, beside its controls, as it runs.

The figures are those of `strength.py`. At every strength three moves of equal length are written
with: the latent's direction, a random one, and the latent's own reversed. A fourth control asks for
the same thing in words and steers nothing; it is judged as an answer to the plain prompt.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from monoscope.errors import ConfigError
from monoscope.lm.generate import cut
from monoscope.lm.protocol import LM
from monoscope.sae.model import SAE
from monoscope.sae.trained import check_fits, site_of
from monoscope.steer.rows import RowMoves, Written, latent_moves, random_moves, read
from monoscope.steer.screen import Promised, check_promised
from monoscope.steer.strength import STRENGTHS, Judge, Trial, checked_strengths

Kind = Literal["default", "steered", "random", "reversed", "prompt"]


@dataclass(frozen=True)
class Progress:
    """Tokens written so far in every continuation, of all there will be at most."""

    done: int
    total: int


@dataclass(frozen=True)
class Point:
    """One trial of the sweep: which move it was, and its figures."""

    kind: Kind
    trial: Trial

    def to_json(self) -> dict[str, object]:
        """kind, and the trial's figures and texts."""
        return {"kind": self.kind, **self.trial.to_json()}


@dataclass(frozen=True)
class SweetSpot:
    """The steered trial of highest score (the weakest of equals), beside its controls.

    control: the highest score among the random direction and the reversed one at that strength.
    prompt: the score of asking in words, or None where that was not tried.
    """

    best: Trial
    control: float
    prompt: float | None

    @property
    def found(self) -> bool:
        """Whether the direction itself achieves something: it scores, and above both controls."""
        return self.best.score > max(0.0, self.control)

    def to_json(self) -> dict[str, object]:
        """found, best, control, prompt."""
        return {
            "found": self.found, "best": self.best.to_json(), "control": self.control,
            "prompt": self.prompt,
        }  # fmt: skip


def sweep(
    lm: LM,
    sae: SAE,
    latent: int,
    promised: Promised,
    *,
    prompts: Sequence[Sequence[int]],
    asked: Sequence[Sequence[int]] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    max_new_tokens: int = 24,
    temperature: float = 0.0,
    seed: int = 0,
) -> Iterator[Progress | Point | SweetSpot]:
    """Try a latent at every strength (× the median norm) and tell each trial when it is written.

    prompts: as ids, prefix or template included.  asked: the same prompts asking in words for what
    the latent stands for; None leaves that control out.  A Progress comes after every token, so
    that a caller can stop between tokens.  The last thing told is the SweetSpot.
    Raises LatentError, ConfigError for bad promises or strengths and for text beyond the context,
    MismatchError where SAE and model differ; all before the first token.
    """
    check_fits(lm, sae)
    check_promised(lm, sae, {latent: promised})
    strengths = checked_strengths(strengths)
    if not prompts or (asked is not None and len(asked) != len(prompts)):
        raise ConfigError("prompts to try a feature on", got=len(prompts), expected="at least one")
    longest = max(map(len, [*prompts, *(asked or ())]))
    if max_new_tokens < 1 or longest + max_new_tokens > lm.context_length:
        raise ConfigError(
            "the text would outgrow the model's context",
            got=f"{longest} prompt tokens + {max_new_tokens} new ones",
            expected=f"one new token or more, at most {lm.context_length} together",
        )
    task = _Sweep(lm, sae, latent, prompts, max_new_tokens, temperature, seed)
    return task.run(promised, asked, strengths)


@dataclass
class _Sweep:
    lm: LM
    sae: SAE
    latent: int
    prompts: Sequence[Sequence[int]]
    max_new_tokens: int
    temperature: float
    seed: int
    done: int = 0
    total: int = 0

    def run(
        self, promised: Promised, asked: Sequence[Sequence[int]] | None, strengths: list[float]
    ) -> Iterator[Progress | Point | SweetSpot]:
        self.total = self.max_new_tokens * (1 + (asked is not None) + len(strengths))
        (plain,) = yield from self._write(self.prompts)
        judge = Judge(self.lm, self.latent, promised, plain)
        yield Point("default", judge.trial(plain, 0.0))
        prompt: Trial | None = None
        if asked is not None:
            (words,) = yield from self._write(asked)
            prompt = judge.trial(words, 0.0)
            yield Point("prompt", prompt)
        trials: list[Trial] = []
        controls: list[float] = []
        for strength in strengths:
            moves = torch.cat(
                [
                    latent_moves(self.sae, [self.latent], strength),
                    random_moves(self.sae, 1, strength, self.seed),
                    latent_moves(self.sae, [self.latent], -strength),
                ]
            )
            texts = yield from self._write(self.prompts, moves)
            steered, random, reversed_ = (
                judge.trial(text, size)
                for text, size in zip(texts, (strength, strength, -strength), strict=True)
            )
            yield Point("steered", steered)
            yield Point("random", random)
            yield Point("reversed", reversed_)
            trials.append(steered)
            controls.append(max(random.score, reversed_.score))
        at = max(range(len(trials)), key=lambda i: trials[i].score)
        yield SweetSpot(trials[at], controls[at], None if prompt is None else prompt.score)

    def _write(
        self, prompts: Sequence[Sequence[int]], moves: Tensor | None = None
    ) -> Generator[Progress, None, list[Written]]:
        """What each of moves [n,D] writes (None: no move), read after the plain prompts."""
        n = 1 if moves is None else len(moves)
        hooks = None
        if moves is not None:
            hook = RowMoves(self.sae, moves.repeat_interleave(len(prompts), 0))
            hooks = {site_of(self.sae): hook}
        steps = []
        for step in self.lm.stream(
            list(prompts) * n, max_new_tokens=self.max_new_tokens, temperature=self.temperature,
            seed=self.seed, hooks=hooks,
        ):  # fmt: skip
            steps.append(step)
            yield Progress(self.done + len(steps), self.total)
        self.done += self.max_new_tokens
        new = cut(steps, len(prompts) * n, self.lm.eos_ids)
        texts = [new[i : i + len(prompts)] for i in range(0, len(new), len(prompts))]
        after = None if prompts is self.prompts else prompts
        return [
            read(self.lm, self.sae, self.prompts, text, move=move, written_after=after)
            for text, move in zip(texts, [None] if moves is None else moves, strict=True)
        ]
