"""train_many(), Plan, train_plans(): several SAEs on one pass, each as if it had been alone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from monoscope.devices import require_device
from monoscope.errors import ConfigError, TrainingError
from monoscope.sae import SAE, SAEConfig
from monoscope.sae.config import require_int
from monoscope.train import calibrate, controller, start
from monoscope.train.config import MOST_SEED, TrainConfig
from monoscope.train.diagnose import Look, Watch
from monoscope.train.events import EventLog, read_figures
from monoscope.train.folder import EVENTS, SOURCE, RunFolder
from monoscope.train.job import Job
from monoscope.train.loop import Pass, Progress, Waits, take_turns
from monoscope.train.order import Order
from monoscope.train.prefetch import Ahead, reads_ahead
from monoscope.train.source import IteratorStream, make_stream, peek
from monoscope.train.state import TrainState

SAMPLE_TOKENS = 16_384  # for the input scale and the first weights
CALIBRATION_TOKENS = 65_536  # for the threshold and the final figures


@dataclass(frozen=True)
class Run:
    """A finished run: its SAE (folded, raw units), figures on training data, and folder if any."""

    sae: SAE
    metrics: dict[str, Any]
    out: Path | None


def train_many(
    source: Any,
    orders: Sequence[Order],
    *,
    batch_size: int = 2048,
    data_seed: int = 0,
    device: str | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> list[Run | TrainingError]:
    """Train the SAEs of all orders on the same batches, each of which is read once.

    Each ends bit for bit (on a CPU) as `train` with the same data_seed would end it, and is saved,
    resumed and logged in its own folder. One that cannot go on leaves its TrainingError in the
    list, and the others go on.  resume, progress: as for `train`; Progress.name is the folder's.

    Raises ConfigError, also if two orders share a folder, and whatever else `train` raises before
    the first step.
    """
    with Plan(source, orders, batch_size=batch_size, data_seed=data_seed, device=device) as plan:
        return plan.train(resume=resume, progress=progress)


def train_plans(
    plans: Sequence[Plan],
    *,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    begun: Callable[[], None] | None = None,
) -> list[list[Run | TrainingError]]:
    """Train the SAEs of all plans, their passes taking turns; the results of each, in its order.

    Each SAE ends bit for bit (on a CPU) as with its plan alone.  begun: called when no folder was
    refused.  Once only for each plan; arguments and errors as for `train_many`.
    """
    _check_folders([order for plan in plans for order in plan.orders])
    with contextlib.ExitStack() as held:
        for plan in plans:
            plan._open(resume, held)
        waits = Waits()
        passes = [plan._begun(resume, progress, waits) for plan in plans]
        if begun is not None:
            begun()
        take_turns(passes)
        return [plan._ended() for plan in plans]


class Plan:
    """Orders and the data for them, found to fit before anything is written; `train` trains them.

    A context manager: it closes the stream. Arguments and errors as for `train_many`.
    """

    def __init__(
        self, source: Any, orders: Sequence[Order], *, batch_size: int = 2048, data_seed: int = 0,
        device: str | None = None,
    ) -> None:  # fmt: skip
        require_int("batch_size", batch_size, low=2)
        require_int("data_seed", data_seed, low=0, high=MOST_SEED)
        self.device = str(require_device(device or "cpu"))
        for order in orders:
            order.check()
        _check_folders(orders)
        self.source, self.orders = source, orders
        self.batch_size, self.data_seed = batch_size, data_seed
        self.stream = make_stream(source, batch_size, data_seed)
        self._ahead = Ahead(self.stream, self.device) if reads_ahead(self.device) else None
        self._opened: list[tuple[int, RunFolder | None]] = []  # of the orders that are not done
        self._jobs: list[Job] = []
        self._numbers: dict[int, int] = {}  # which order a job, by its id(), is for
        self._results: dict[int, Run | TrainingError] = {}
        self._sample: torch.Tensor | None = None
        self._seen: list[torch.Tensor] | None = None  # what SAEs that end together are measured on
        try:
            width, n_rows = self.sample.shape[1], getattr(self.stream, "n_rows", None)
            self.configs = [order.configs(width, batch_size, n_rows) for order in orders]
            start.require_trainable(self.sample, [config for _, config in self.configs])
            knows = getattr(self.stream, "identity", None)
            self._data = {"seed": data_seed} | ({} if knows is None else {SOURCE: knows()})
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Plan:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading the data."""
        last = self._ahead or self.stream
        if hasattr(last, "close"):
            last.close()

    def train(
        self, *, resume: bool = False, progress: Callable[[Progress], None] | None = None,
        begun: Callable[[], None] | None = None,
    ) -> list[Run | TrainingError]:  # fmt: skip
        """What `train_many` does; once only.  begun: called when no folder was refused."""
        (made,) = train_plans([self], resume=resume, progress=progress, begun=begun)
        return made

    @property
    def sample(self) -> torch.Tensor:
        """The first batches of the stream, joined."""
        if self._sample is None:
            self._sample = torch.cat(peek(self.stream, max(1, SAMPLE_TOKENS // self.batch_size)))
        return self._sample

    def _open(self, resume: bool, held: contextlib.ExitStack) -> None:
        """Check every folder, and hold it, before any work; finished runs are results."""
        for number, (order, (sae, config)) in enumerate(
            zip(self.orders, self.configs, strict=True)
        ):
            folder = None
            if order.out is not None:
                about = self._about(sae, config)
                folder = held.enter_context(
                    RunFolder.opened(order.out, about, resume, self._asked(order))
                )
            done = None if folder is None else folder.finished()
            if done is not None and folder is not None:
                self._results[number] = Run(*done, folder.path)
            else:
                self._opened.append((number, folder))

    def _begun(
        self, resume: bool, progress: Callable[[Progress], None] | None, waits: Waits
    ) -> Pass:
        """The pass of the jobs still to be done, the stream where the hindmost of them stands."""
        places: dict[int, dict[str, Any] | None] = {}
        for number, folder in self._opened:
            sae, config = self.configs[number]
            state = self._begin(sae, config)
            places[number] = None if folder is None or not resume else folder.restore(state)
            self._jobs.append(self._job(number, sae, config, state, folder))
            self._numbers[id(self._jobs[-1])] = number
        if self._jobs:
            hindmost = min(self._jobs, key=lambda job: job.state.step)
            place = places[self._numbers[id(hindmost)]]
            if place is not None:
                self.stream.load_state_dict(place)
        return Pass(self._ahead or self.stream, self._jobs, self._end, progress, waits)

    def _end(self, job: Job) -> None:
        """Make the result of a job that has done its last step."""
        if self._ahead is not None:
            self._ahead.rewind()
        self._results[self._numbers[id(job)]] = self._finish(job)
        step = job.state.step
        if not any(
            one.pending and one is not job and not one.running and one.state.step == step
            for one in self._jobs
        ):
            self._seen = None

    def _ended(self) -> list[Run | TrainingError]:
        for job in self._jobs:
            if job.error is not None:
                self._results[self._numbers[id(job)]] = job.error
        return [self._results[number] for number in range(len(self.orders))]

    def _job(
        self, number: int, sae: SAEConfig, config: TrainConfig, state: TrainState,
        folder: RunFolder | None,
    ) -> Job:  # fmt: skip
        watch = Watch(getattr(self.stream, "origin", "reading the data"))
        if folder is None:
            return Job(f"SAE {number}", sae, config, state, None, EventLog(None), watch)
        if state.step:
            told = read_figures(folder.path / EVENTS)
            known = [field.name for field in fields(Look)]
            watch.recall([{name: figure[name] for name in known} for figure in told])
        return Job(folder.path.name, sae, config, state, folder, folder.log, watch)

    def _about(self, sae: SAEConfig, config: TrainConfig) -> dict[str, Any]:
        return {
            "sae": sae.to_json(),
            "train": config.to_json(),
            "data": self._data,
        }

    def _asked(self, order: Order) -> dict[str, Any]:
        """What a command that trains this again takes besides the configuration.

        source: as the command line names the data; None for activations in memory.
        """
        named = getattr(self.source, "asked", None)
        return {
            "source": None if named is None else named(),
            "k": order.k,
            "settings": dict(order.settings),
        }

    def _begin(self, sae_config: SAEConfig, config: TrainConfig) -> TrainState:
        """A run at its first step: weights from the recipe, the sample and the seed."""
        row = config.row
        inputs = start.inputs(self.sample, config)
        sae = SAE(sae_config)
        generator = torch.Generator().manual_seed(config.seed)
        start.initialise(sae, inputs(self.sample), row, config, generator)
        assert config.lr is not None
        sae, inputs = sae.to(self.device), inputs.to(self.device)
        return TrainState.fresh(sae, row, config.lr, inputs, config.seed)

    def _batches(self) -> list[torch.Tensor]:
        """What thresholds and figures are measured on, read once for the SAEs of one step."""
        if isinstance(self.stream, IteratorStream):
            return [self.sample]
        if self._seen is None:
            tokens = min(CALIBRATION_TOKENS, getattr(self.stream, "n_rows", CALIBRATION_TOKENS))
            self._seen = peek(self.stream, max(1, tokens // self.batch_size))
        return self._seen

    def _finish(self, job: Job) -> Run:
        """Fold, calibrate, measure and write."""
        state, config = job.state, job.config
        batches = self._batches()
        job.whole = False  # from here on its weights are no longer those that are trained
        measured = calibrate.finish(state.sae, state.inputs, state.guess, batches)
        knows = self.stream if hasattr(self.stream, "provenance") else self.source
        given = knows.provenance() if hasattr(knows, "provenance") else {}
        state.sae.provenance = {
            **given,
            "recipe": config.recipe,
            "n_tokens": state.n_tokens,
            "config": self._about(job.sae_config, config),
            "latent_max": measured.latent_max,
        }
        folder, seconds = job.folder, max(time.perf_counter() - job.began, 1e-9)
        metrics: dict[str, Any] = {
            "n_tokens": state.n_tokens, "fvu": measured.fvu, "l0": measured.l0,
            "dead_fraction": measured.dead_fraction,
            "tokens_per_s": round(job.session_tokens / seconds, 1),
            "tokens_per_step_second": round(job.session_tokens / max(job.seconds, 1e-9), 1),
            "out": None if folder is None else str(folder.path),
            "measured_on_tokens": measured.n_tokens, "fallbacks": state.fallbacks,
        }  # fmt: skip
        if config.target_l0 is not None:
            metrics["target"] = controller.outcome(state, config, measured.l0)
            if not metrics["target"]["reached"]:
                job.log.note(state, "target_missed", metrics["target"]["advice"])
        if folder is not None:
            folder.finish(state.sae, metrics, batches[0])
        return Run(state.sae, metrics, None if folder is None else folder.path)


def _check_folders(orders: Sequence[Order]) -> None:
    taken: set[Path] = set()
    for order in orders:
        if order.out is not None:
            path = Path(order.out).resolve()
            if path in taken:
                raise ConfigError("two SAEs would share a folder", got=order.out)
            taken.add(path)
