"""The loop around the steps: events, checkpoints, progress, and stopping in time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monoscope.errors import TrainingError
from monoscope.sae.recipes import Recipe
from monoscope.train.config import TrainConfig
from monoscope.train.events import EventLog
from monoscope.train.source import Stream
from monoscope.train.state import TrainState, save_checkpoint
from monoscope.train.step import StepResult, step

EVENT_STEPS = 10  # how often figures are logged


@dataclass(frozen=True)
class Progress:
    """What a progress bar needs: where the run is and how it does; tokens_per_s since the start."""

    n_tokens: int
    total: int
    loss: float
    fvu: float
    l0: float
    dead_fraction: float
    tokens_per_s: float


@dataclass(frozen=True)
class Loop:
    """The fixed surroundings of a run; what changes is all in TrainState."""

    recipe: Recipe
    config: TrainConfig
    stream: Stream
    log: EventLog
    folder: Path | None = None
    about: dict[str, Any] = field(default_factory=dict)
    progress: Callable[[Progress], None] | None = None

    def run(self, state: TrainState) -> None:
        """Train until n_tokens; a checkpoint is saved on the way, and on Ctrl-C."""
        started, start_tokens = time.monotonic(), state.n_tokens
        every = self.config.checkpoint_every_tokens
        saved = state.n_tokens
        try:
            while state.n_tokens < self.config.n_tokens:
                try:
                    x = next(self.stream)
                except StopIteration:
                    raise TrainingError(
                        "the data ended before the run",
                        got=f"{state.n_tokens} tokens",
                        expected=f"{self.config.n_tokens}",
                        hint="Ask for no more tokens than the iterator gives.",
                    ) from None
                done = step(state, self.recipe, self.config, x)
                rate = (state.n_tokens - start_tokens) / (time.monotonic() - started)
                self._report(state, done, rate)
                if every and state.n_tokens - saved >= every:
                    self.checkpoint(state)
                    saved = state.n_tokens
        except KeyboardInterrupt:
            self.checkpoint(state)
            raise

    def checkpoint(self, state: TrainState) -> None:
        if self.folder is not None:
            save_checkpoint(self.folder, state, self.stream.state_dict(), self.about)

    def _report(self, state: TrainState, done: StepResult, rate: float) -> None:
        if state.step % EVENT_STEPS and state.n_tokens < self.config.n_tokens:
            return
        assert self.config.dead_after_tokens is not None
        loss = float(done.objective.total.detach())
        dead = state.dead(self.config.dead_after_tokens).numel() / state.sae.d_sae
        if not math.isfinite(loss):
            where = f"; the last good checkpoint is in {self.folder}" if self.folder else ""
            raise TrainingError(
                "the loss is not finite" + where,
                got=f"{loss} at step {state.step}",
                hint=f"Lower the learning rate (now {self.config.lr:g}).",
            )
        terms = {k: float(v.detach()) for k, v in done.objective.terms.items()}
        self.log.write(
            step=state.step, n_tokens=state.n_tokens, loss=loss, fvu=done.objective.fvu,
            l0=done.l0, dead_fraction=dead, lr=done.lr, terms=terms,
        )  # fmt: skip
        if self.progress is not None:
            fvu, total = done.objective.fvu, self.config.n_tokens
            self.progress(Progress(state.n_tokens, total, loss, fvu, done.l0, dead, rate))
