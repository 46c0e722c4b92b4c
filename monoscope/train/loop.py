"""The one loop: passes over data that take turns, each training one SAE or many on its batches."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from monoscope.errors import MonoscopeError, TrainingError
from monoscope.train.diagnose import Surroundings
from monoscope.train.interrupt import Interruption
from monoscope.train.job import EVENT_STEPS, Job
from monoscope.train.mixing import Mixing
from monoscope.train.source import Stream

_LOG = logging.getLogger(__name__)
RECENT, ENOUGH = 200, 20  # steps over which waiting for data is counted: most, fewest


def take_turns(passes: Sequence[Pass]) -> None:
    """Walk every pass to its end, a step at a time; saves on the way.

    Next is the pass that is hindmost: in the data where streams read the same, and then in steps.

    A job that cannot go on gets its error, and the others go on. On Ctrl-C, and when the data or
    `finish` raise, the jobs of all passes are saved where they stand.

    Raises TrainingError if the data end without notice, and whatever the data raise.
    """
    with Interruption() as interruption:
        for walk in passes:
            walk.end_if_done()  # all of it was done before
        while going := [walk for walk in passes if walk.pending]:
            turn = min(going, key=lambda walk: walk.place)
            try:
                turn.go_on()
                turn.end_if_done()
            except Exception as error:
                _rescue(passes, error)
                raise
            if interruption.asked:
                for walk in passes:
                    walk.save()
                raise KeyboardInterrupt


def _rescue(passes: Sequence[Pass], error: Exception) -> None:
    """Save every job where it stands, and say in `error` and in the logs where that is."""
    why = str(error) or type(error).__name__
    found = [path for walk in passes for path in walk.rescue(why)]
    if not found:
        return
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    told = f"What was trained is kept in {found[0]}{more}; resume goes on from there."
    if isinstance(error, MonoscopeError):
        error.args = (f"{error}{'' if str(error).endswith('.') else '.'} {told}",)
    else:
        error.add_note(told)


class Waits:
    """How much of the recent time was spent waiting for data; passes that take turns share one."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, float]] = deque(maxlen=RECENT)  # waited, worked

    def step(self, waited: float, worked: float) -> None:
        """A step that took so many seconds."""
        self._steps.append((waited, worked))

    def share(self) -> float | None:
        """Share of the time; None before there is enough of it."""
        waited = sum(wait for wait, _ in self._steps)
        whole = waited + sum(work for _, work in self._steps)
        return waited / whole if len(self._steps) >= ENOUGH and whole > 0 else None


@dataclass(frozen=True)
class Progress:
    """What a progress bar needs: where a run is and how it does; tokens_per_s since the start.

    name: which SAE of a pass.  notes: what is to be told, in plain words.
    """

    n_tokens: int
    total: int
    loss: float
    fvu: float
    l0: float
    dead_fraction: float
    tokens_per_s: float
    name: str = ""
    notes: tuple[str, ...] = ()


class Pass:
    """One walk along a stream; every job takes every batch once, in order.

    Batch b is for the job that has done b steps, so a job whose checkpoint lies behind the others'
    catches up alone, and each job sees what it would see by itself.
    """

    def __init__(
        self,
        stream: Stream,
        jobs: list[Job],
        finish: Callable[[Job], None],
        progress: Callable[[Progress], None] | None = None,
        waits: Waits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """finish: called with each job that has done its last step."""
        self.stream, self.jobs, self._finish = stream, jobs, finish
        self._progress, self._clock = progress, clock
        self._waits = waits or Waits()
        self._mixing = Mixing()
        self._began = clock()
        self._given = -1  # batches that the stream has given, from the beginning of the runs

    @property
    def pending(self) -> list[Job]:
        """The jobs that have anything left to do."""
        return [job for job in self.jobs if job.pending]

    @property
    def place(self) -> tuple[tuple[int, ...], int]:
        """How far the stream has reached, where it says so, and the steps of the hindmost job."""
        reached = getattr(self.stream, "reached", None) or ()
        return reached, min(job.state.step for job in self.pending)

    def go_on(self) -> None:
        """What is next for the hindmost jobs: their ends, or a batch."""
        pending = self.pending
        position = min(job.state.step for job in pending)
        here = [job for job in pending if job.state.step == position]
        ended = [job for job in here if not job.running]
        for job in ended:
            self._finish(job)
            job.finished = True
            self._tell(job)
        if not ended:
            self._step(here, position)

    def end_if_done(self) -> None:
        """Read nothing more once no job has anything left to do."""
        if not self.pending and hasattr(self.stream, "close"):
            self.stream.close()

    def _step(self, takers: list[Job], position: int) -> None:
        """The next batch, for every job that has done `position` steps."""
        asked, self._given = self._clock(), position
        try:
            x = next(self.stream)
        except StopIteration:
            raise TrainingError(
                "the data ended before the run",
                got=f"{takers[0].state.n_tokens} tokens",
                expected=f"{takers[0].goal}",
                hint="Ask for no more tokens than there are.",
            ) from None
        came, self._given = self._clock(), position + 1
        if (position + 1) % EVENT_STEPS == 0:
            self._mixing.see(x)
        troubles = []
        for job in takers:  # all of them: one that was left out could not be saved with the others
            try:
                self._give(job, x)
            except Exception as error:
                troubles.append(error)
        self._waits.step(came - asked, self._clock() - came)
        if troubles:
            raise troubles[0]

    def _give(self, job: Job, x: Tensor) -> None:
        """One batch for one job, with what belongs to it; its troubles are its own."""
        try:
            done = job.take(x, getattr(self.stream, "n_ahead", None))
            if job.looks:
                job.look(done, Surroundings(self._waits.share(), self._mixing.alike()))
                self._tell(job)
            if job.due and job.running:
                job.checkpoint(self.stream.state_dict())
        except TrainingError as error:
            job.error = error

    def _tell(self, job: Job) -> None:
        notes = job.log.drain()
        if self._progress is None or job.last is None:
            for note in notes:
                _LOG.warning("%s: %s", job.name, note)
            return
        look, spent = job.last, max(self._clock() - self._began, 1e-9)
        self._progress(
            Progress(
                look.n_tokens, job.goal, look.loss, look.fvu, look.l0, look.dead_fraction,
                job.session_tokens / spent, job.name, notes,
            )
        )  # fmt: skip

    def save(self) -> None:
        """Save every job where it stands."""
        for job in self._here():
            try:
                job.checkpoint(self.stream.state_dict())
            except TrainingError as error:
                job.error = error

    def _here(self) -> list[Job]:
        """The jobs that go with the place of the stream; others are as they were saved."""
        return [
            job for job in self.jobs
            if job.pending and job.session_tokens and job.state.step == self._given
        ]  # fmt: skip

    def rescue(self, why: str) -> list[Path]:
        """Save every job where it stands, and say in the logs why; the checkpoints there are."""
        for job in self._here():
            try:
                job.checkpoint(self.stream.state_dict())
            except Exception as trouble:  # what went wrong first is what is raised
                _LOG.warning("%s could not be saved: %s", job.name, trouble)
        kept = []
        for job in self.pending:
            if job.folder is not None:
                job.log_stop(why)
                kept.append(job.folder.last_checkpoint())
        return [path for path in kept if path is not None]
