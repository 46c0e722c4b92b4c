"""Job: one SAE in the making, with what it writes and what is watched of it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from monoscope.errors import TrainingError
from monoscope.sae import SAEConfig
from monoscope.sae.recipes import Recipe
from monoscope.train.config import TrainConfig
from monoscope.train.diagnose import Look, Surroundings, Watch
from monoscope.train.events import EventLog
from monoscope.train.fixed import Stepper
from monoscope.train.folder import RunFolder
from monoscope.train.state import TrainState
from monoscope.train.step import StepResult

EVENT_STEPS = 10  # how often figures are logged
CHECKPOINT_SECONDS = 60.0  # between checkpoints, unless the configuration says how many tokens
STEPS_PER_SAVE = 20.0  # seconds of own steps for each second that the last checkpoint took


@dataclass
class Job:
    """One SAE of a pass; `take` trains it on a batch.  name: what to call it in messages.

    began, seconds: when this session began, and how long it spent in this job's own steps.
    session_tokens: trained on in this session.  error: why it stopped before its end.
    whole: its state is that after a whole step; else it is never saved.  finished: its SAE is made.
    """

    name: str
    sae_config: SAEConfig
    config: TrainConfig
    state: TrainState
    folder: RunFolder | None
    log: EventLog
    watch: Watch
    seconds: float = 0.0
    session_tokens: int = 0
    error: TrainingError | None = None
    whole: bool = True
    finished: bool = False
    last: Look | None = None
    _told_plain: str | None = None
    began: float = field(default_factory=time.perf_counter)
    saved: int = field(init=False)  # at how many tokens; when, and after how many own seconds:
    saved_when: float = field(init=False)
    saved_seconds: float = 0.0
    saving: float = 0.0  # seconds that it took
    stepper: Stepper = field(init=False)

    def __post_init__(self) -> None:
        self.saved, self.saved_when = self.state.n_tokens, time.perf_counter()
        self.stepper = Stepper(self.state, self.recipe, self.config)

    @property
    def recipe(self) -> Recipe:
        return self.config.row

    @property
    def goal(self) -> int:
        """Tokens at which it ends."""
        return self.state.goal(self.config.n_tokens)

    @property
    def pending(self) -> bool:
        """Whether there is anything left to do: steps, or only what makes the SAE of them."""
        return self.error is None and not self.finished

    @property
    def running(self) -> bool:
        return self.error is None and self.state.n_tokens < self.goal

    def take(self, x: Tensor, n_ahead: int | None) -> StepResult:
        """One step on raw x [N, D]; n_ahead: rows that follow it, where the data have an end.

        Raises TrainingError, with a diagnosis, once the loss is not finite.
        """
        began = time.perf_counter()
        self._shorten(x.shape[0], n_ahead)
        self.whole = False
        done = self.stepper.take(x)
        if self.looks:  # what was queued on an accelerator is waited for now and then
            self.stepper.settle()
        self.whole = True
        self._tell_plain()
        self.session_tokens += x.shape[0]
        # a value read from an accelerator waits for all that is queued there
        if (self.looks or x.device.type == "cpu") and not math.isfinite(_loss(done)):
            raise self.stopped(self.watch.not_finite(self.state, self.config, x, _loss(done)))
        self.seconds += time.perf_counter() - began
        return done

    @property
    def looks(self) -> bool:
        """Whether the figures of the last step are looked at: now and then, and at the end."""
        return self.state.step % EVENT_STEPS == 0 or self.state.n_tokens >= self.goal

    def look(self, done: StepResult, around: Surroundings) -> None:
        """Log the figures of the last step, and what they show that is new.

        Raises TrainingError once the run has diverged.
        """
        state, config = self.state, self.config
        assert config.dead_after_tokens is not None
        dead = state.dead(config.dead_after_tokens).numel() / state.sae.d_sae
        terms = {name: float(term.detach()) for name, term in done.objective.terms.items()}
        look = Look(
            step=state.step, n_tokens=state.n_tokens, loss=_loss(done), fvu=done.objective.fvu,
            l0=float(done.l0), dead_fraction=dead, lr=done.lr, terms=terms,
        )  # fmt: skip
        self.log.write(**look.to_json(), fallbacks=state.fallbacks)
        self.last = look
        for note in self.watch.see(look, state, config, around):
            self.log.note(state, note.kind, note.message)
        diverged = self.watch.diverged(config, around)
        if diverged is not None:
            raise self.stopped(diverged)

    def checkpoint(self, stream: dict[str, object]) -> None:
        """Save it, if it has a folder; weights that are not finite are never saved."""
        if self.folder is None or not self.whole:
            return
        self.stepper.settle()
        if not self.state.is_finite():
            raise self.stopped(self.watch.not_finite(self.state, self.config, None, math.nan))
        began = time.perf_counter()
        self.folder.checkpoint(self.state, stream)
        self.saved, self.saved_when = self.state.n_tokens, time.perf_counter()
        self.saved_seconds, self.saving = self.seconds, self.saved_when - began

    @property
    def due(self) -> bool:
        """Whether a checkpoint is: by tokens, or else by the clock, if there is a folder for it.

        By the clock: a minute has passed, and enough steps were done for the time of saving, as in
        the last checkpoint, to be little beside them; so many large SAEs of a pass save less often.
        """
        every = self.config.checkpoint_every_tokens
        if self.folder is None:
            return False
        if every is not None:
            return every > 0 and self.state.n_tokens - self.saved >= every
        return (
            time.perf_counter() - self.saved_when >= CHECKPOINT_SECONDS
            and self.seconds - self.saved_seconds >= STEPS_PER_SAVE * self.saving
        )

    def stopped(self, why: str) -> TrainingError:
        """The error of a run that cannot go on, said in the log too."""
        return TrainingError(self.log_stop(why))

    def log_stop(self, why: str) -> str:
        """Say in the log that the run has stopped, and where it is kept; the message."""
        kept = None if self.folder is None else self.folder.last_checkpoint()
        good = f" The last good checkpoint is {kept}." if kept is not None else ""
        self.log.write(
            step=self.state.step, n_tokens=self.state.n_tokens, note="stopped", message=why + good
        )
        return why + good

    def _tell_plain(self) -> None:
        """Say once why the steps on a GPU are not the fast ones."""
        why = self.stepper.plain
        if why is not None and why != self._told_plain:
            self._told_plain = why
            self.log.note(
                self.state, "plain_steps", f"steps are not captured as a CUDA graph: {why}"
            )

    def _shorten(self, n_rows: int, n_ahead: int | None) -> None:
        """Once the end of the data is in sight, and comes too early, fit the schedule to it."""
        state = self.state
        if n_ahead is None or state.cut_end is not None:
            return
        end = state.n_tokens + n_rows + n_ahead
        if end >= self.config.n_tokens:
            return
        state.cut_at, state.cut_end = state.n_tokens, end
        self.log.note(
            state,
            "data_ended",
            f"the data end after {end:,} of the {self.config.n_tokens:,} tokens asked for; the "
            f"rest of the schedule is done over the last {end - state.n_tokens:,}",
        )


def _loss(done: StepResult) -> float:
    return float(torch.as_tensor(done.objective.total.detach()))
