"""Watch: what a run's figures show, in plain words, while it runs."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from monoscope.train.config import TrainConfig
from monoscope.train.state import TrainState

WINDOW = 8  # looks that a judgement rests on


@dataclass(frozen=True)
class Look:
    """The figures of one step, as they are logged."""

    step: int
    n_tokens: int
    loss: float
    fvu: float
    l0: float
    dead_fraction: float
    lr: float
    terms: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Surroundings:
    """What a pass knows of its data.

    waiting: share of the time spent waiting for them.  alike: as Mixing.alike has it.
    """

    waiting: float | None = None
    alike: float | None = None


@dataclass(frozen=True)
class Note:
    """A finding: its kind, for programs, and its message, for people."""

    kind: str
    message: str


class Watch:
    """Judges the last looks of one run; each finding is told once, and again if it comes back."""

    def __init__(self, data: str = "the data") -> None:
        self._data = data
        self._looks: deque[Look] = deque(maxlen=WINDOW)

    def recall(self, figures: Sequence[dict[str, Any]]) -> None:
        """Take up a resumed run where its log ends."""

    def see(
        self, look: Look, state: TrainState, config: TrainConfig, around: Surroundings
    ) -> list[Note]:
        """What is new at this look."""
        self._looks.append(look)
        return []

    def diverged(self, config: TrainConfig) -> str | None:
        return None

    def not_finite(
        self, state: TrainState, config: TrainConfig, x: Tensor | None, loss: float
    ) -> str:
        """Why a loss or weight is no longer a number."""
        where = f"at step {state.step:,} ({state.n_tokens:,} tokens)"
        if x is not None and not torch.isfinite(x).all():
            return f"the activations hold NaN or Inf in the batch {where}."
        before = [look.fvu for look in self._looks if math.isfinite(look.fvu)]
        came = f", after an fvu of {before[-1]:.3g}" if before else ""
        assert config.lr is not None
        return (
            f"the loss is not finite: it became {loss} {where}{came}. The learning rate is too "
            f"high: start again with --lr {config.lr / 4:.2g} (now {config.lr:g})."
        )
