"""The strength sweep of one feature of an atlas: what to count, what to ask in words, the prompts.

`sweep.py` tries the strengths; this says what they are tried for, from what the atlas knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from monoscope.errors import ConfigError
from monoscope.lm.protocol import LM
from monoscope.sae.model import SAE
from monoscope.steer.generate import Prompt, prompt_ids
from monoscope.steer.promises import Basis, Promising, promised
from monoscope.steer.prompts import NEUTRAL_PROMPTS
from monoscope.steer.rows import check_prompts
from monoscope.steer.sweep import Point, Progress, SweetSpot, sweep

STRENGTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8)


@dataclass(frozen=True)
class SweepResult:
    """Every trial in the order it was written, and the strength found beside its controls."""

    points: tuple[Point, ...]
    spot: SweetSpot

    def to_json(self) -> dict[str, Any]:
        """points (kind, figures and texts of each) and sweetspot."""
        return {
            "points": [point.to_json() for point in self.points],
            "sweetspot": self.spot.to_json(),
        }


@dataclass(frozen=True)
class FeatureSweep:
    """A feature's sweep, checked and ready to run; nothing is written before `events` is read.

    tokens: what the effect is counted by, best first, and basis: where they are from ("contexts",
    "logits" or "given").  ask: what the control that only asks says before the prompt.  neutral:
    prompts tried besides the one given.  events: as `sweep` tells them, once.
    """

    latent: int
    label: str | None
    tokens: tuple[str, ...]
    basis: Basis
    ask: str
    neutral: tuple[str, ...]
    events: Iterator[Progress | Point | SweetSpot]

    def to_json(self) -> dict[str, Any]:
        """All but the events."""
        return {
            "latent": self.latent, "label": self.label, "tokens": list(self.tokens),
            "basis": self.basis, "ask": self.ask, "neutral": list(self.neutral),
        }  # fmt: skip

    def result(self, progress: Callable[[int, int], None] | None = None) -> SweepResult:
        """Run it to its end; progress is told the tokens written and how many there will be."""
        points: list[Point] = []
        for event in self.events:
            if isinstance(event, Progress):
                if progress is not None:
                    progress(event.done, event.total)
            elif isinstance(event, Point):
                points.append(event)
            else:
                return SweepResult(tuple(points), event)
        raise ConfigError("the sweep's events were read already", hint="Make another sweep.")


def sweep_feature(
    lm: LM,
    sae: SAE,
    feature: Promising,
    prompt: Prompt,
    *,
    words: Sequence[str] = (),
    ask: str | None = None,
    neutral: bool = True,
    strengths: Sequence[float] = STRENGTHS,
    max_new_tokens: int = 24,
    seed: int = 0,
) -> FeatureSweep:
    """Set up a feature's sweep after a prompt, a text or a chat.

    words: what to count the effect by, best first; by default what the feature promises.  ask: by
    default made of the first three of those.  neutral: try it after `NEUTRAL_PROMPTS` too, where
    the prompt is a text.  strengths: × the median norm at the site.
    Raises ConfigError for an empty prompt and where nothing can be counted, and as `sweep` does.
    """
    wanted, tokens, basis = promised(lm, feature, words)
    said = ask or f"Write about {', '.join(dict.fromkeys(t.strip() for t in tokens[:3]))}."
    before = said.rstrip() + "\n\n"
    prompts, asked = [prompt_ids(lm, prompt)], [prompt_ids(lm, _asking(prompt, before))]
    besides = tuple(NEUTRAL_PROMPTS) if neutral and isinstance(prompt, str) else ()
    if besides:
        prompts += check_prompts(lm, besides)
        asked += check_prompts(lm, [before + text for text in besides])
    events = sweep(
        lm, sae, feature.latent, wanted, prompts=prompts, asked=asked, strengths=strengths,
        max_new_tokens=max_new_tokens, seed=seed,
    )  # fmt: skip
    return FeatureSweep(
        feature.latent, feature.label, tuple(tokens), basis, said, besides, events
    )  # fmt: skip


def _asking(prompt: Prompt, before: str) -> Prompt:
    """The prompt with `before` in front of it: of a chat, in front of what the user said last."""
    if isinstance(prompt, str):
        return before + prompt if prompt else prompt
    turns = list(prompt)
    if not turns:
        return turns
    last = max((i for i, turn in enumerate(turns) if turn.get("role") == "user"), default=-1)
    turns[last] = {**turns[last], "content": before + turns[last].get("content", "")}
    return turns
