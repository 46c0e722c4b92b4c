"""The running model: loads in the background, does one request at a time, outlives their crashes.

One thread loads the SAE and the language model and then works through a bounded queue. Requests may
queue while the model loads. A request is a job (`engine_jobs.py`); it is stopped between two tokens
when its client has gone. Nothing here imports torch before `start`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import Request

from monoscope.errors import ConfigError, MonoscopeError
from monoscope.features.atlas import Atlas
from monoscope.viewer.config import ViewerConfig
from monoscope.viewer.engine_jobs import Busy, Crashed, Job, Unavailable, Work
from monoscope.viewer.state import ModelStatus, ViewerState

if TYPE_CHECKING:
    from monoscope.lm.protocol import LM
    from monoscope.sae.model import SAE

MAX_WAITING = 8
_FIRST_GUESS_SECONDS = 5.0  # how long a request takes, before any was timed
_CLOSE_SECONDS = 10.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """What a job works with. name: what the model is called in answers."""

    lm: LM
    sae: SAE
    atlas: Atlas
    name: str


class Engine:
    """The model of one viewer.

    load: what gives the model and the SAE; by default those that config and atlas name.
    max_waiting: requests that may wait besides the one that runs.
    """

    def __init__(
        self,
        config: ViewerConfig,
        atlas: Atlas,
        *,
        load: Callable[[], Loaded] | None = None,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._load = load or (lambda: load_from(config, atlas))
        self._max_waiting = max_waiting
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._running: Job | None = None
        self._began = 0.0
        self._seconds = _FIRST_GUESS_SECONDS
        self._closing = False
        self._thread: threading.Thread | None = None
        self._status = ModelStatus(state="loading", detail="The SAE and its model are being read.")

    def start(self) -> None:
        """Begin to load in the background; returns at once, and does nothing the second time."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="monoscope-model", daemon=True
                )
                self._thread.start()

    def status(self) -> ModelStatus:
        """Where loading stands, and how much work there is, without waiting."""
        with self._changed:
            return self._status.model_copy(
                update={"busy": self._running is not None, "waiting": len(self._jobs)}
            )

    def close(self) -> None:
        """Stop what runs, answer what waits, and let go of the model."""
        with self._changed:
            self._closing = True
            running, waiting = self._running, list(self._jobs)
            loading = self._status.state == "loading"  # cannot be interrupted: not waited for
            self._jobs.clear()
            self._changed.notify_all()
        if running is not None:
            running.cancel()
        for job in waiting:
            job.fail(Unavailable("the viewer is closing"))
        if self._thread is not None and not loading:
            self._thread.join(_CLOSE_SECONDS)

    @property
    def alive(self) -> bool:
        """Whether its thread still runs; after close, that of a model still being loaded."""
        return self._thread is not None and self._thread.is_alive()

    def submit(self, work: Work) -> Job:
        """Queue a piece of work; to be called on the event loop.

        Raises Unavailable where the model failed to load, Busy where too much is waiting.
        """
        job = Job(work, asyncio.get_running_loop())
        job.forget = self._forget
        with self._changed:
            if self._closing:
                raise Unavailable("the viewer is closing")
            if self._status.state == "failed":
                raise Unavailable("the model could not be loaded", got=self._status.detail)
            if len(self._jobs) >= self._max_waiting:
                raise Busy(len(self._jobs) + 1, self._patience())
            self._jobs.append(job)
            self._changed.notify_all()
        self.start()
        return job

    def _patience(self) -> int:
        """Seconds until a place in the queue should be free, from how long requests have taken."""
        spent = time.monotonic() - self._began if self._running is not None else 0.0
        return max(1, math.ceil(self._seconds - min(spent, self._seconds)))

    def _forget(self, job: Job) -> None:
        """Take a cancelled job out of the queue, so that its place is free at once."""
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)

    def _work(self) -> None:
        try:
            loaded = self._load()
        except BaseException as exc:
            self._give_up(exc)
            return
        with self._changed:
            self._status = ModelStatus(state="ready", model=loaded.name)
        while True:
            with self._changed:
                while not self._jobs and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                self._running, self._began = self._jobs.popleft(), time.monotonic()
            self._running.run(loaded)
            with self._changed:
                took = time.monotonic() - self._began
                self._seconds += 0.3 * (took - self._seconds)
                self._running = None

    def _give_up(self, exc: BaseException) -> None:
        if not isinstance(exc, MonoscopeError):
            _log.error("the model could not be loaded", exc_info=exc)
        line = str(exc) if isinstance(exc, MonoscopeError) else _one_line(exc)
        with self._changed:
            self._status = ModelStatus(state="failed", detail=line)
            waiting = list(self._jobs)
            self._jobs.clear()
        for job in waiting:
            job.fail(Unavailable("the model could not be loaded", got=line))


def load_from(config: ViewerConfig, atlas: Atlas) -> Loaded:
    """The SAE and the language model that a viewer's settings name, seen to belong together.

    Raises MismatchError where the SAE is not the atlas's or not of the model, ConfigError where no
    model is named, and whatever loading either of them raises.
    """
    from monoscope.artifact import load_sae
    from monoscope.artifact.checks import check_atlas, check_model
    from monoscope.features.text import features_on_text
    from monoscope.lm import load_lm

    if config.sae is None:
        raise ConfigError("no SAE was given", hint="Start the viewer with --sae DIR.")
    sae = load_sae(config.sae)
    check_atlas(sae, atlas.manifest)
    name = config.model or (sae.provenance.get("model") or {}).get("model")
    if not name:
        raise ConfigError(
            "the SAE does not say which model it was trained on", hint="Name it with --model."
        )
    lm = load_lm(str(name), device=config.device)
    check_model(sae, lm)
    features_on_text(lm, sae, "Hello, world.")  # compiles what is compiled on first use
    return Loaded(lm, sae, atlas, str(name))


def engine_of(state: ViewerState) -> Engine:
    """The engine that can be asked. Raises Unavailable where the viewer has none."""
    if not isinstance(state.engine, Engine):
        raise Unavailable("this viewer has no model to ask", hint=state.model_status().detail)
    return state.engine


async def ask(state: ViewerState, request: Request, work: Work) -> tuple[Any, AsyncIterator[Any]]:
    """Run work on the model: the first thing it tells, and an iterator of the rest.

    So what is wrong with a request is raised here, before an answer has begun. Raises Busy,
    Unavailable, whatever error of ours the work raises, and Crashed for any other.
    """
    news = _mended(engine_of(state).submit(work).told(request), request)
    return await anext(news, None), news


async def answer(state: ViewerState, request: Request, work: Work) -> Any:
    """Run work that tells one thing, and give that. Raises as `ask`."""
    first, rest = await ask(state, request, work)
    await rest.aclose()  # type: ignore[attr-defined]
    return first


async def _mended(news: AsyncIterator[Any], request: Request) -> AsyncIterator[Any]:
    """The same, with what is not an error of ours turned into one."""
    try:
        async for event in news:
            yield event
    except (MonoscopeError, asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as exc:
        _log.error("%s failed in the model", request.url.path, exc_info=exc)
        raise Crashed(
            "the model stumbled over this request",
            got=_one_line(exc),
            hint="The viewer goes on; the terminal has the details.",
        ) from exc
    finally:
        await news.aclose()  # type: ignore[attr-defined]


def _one_line(exc: BaseException) -> str:
    said = " ".join(str(exc).split())
    return f"{type(exc).__name__}: {said[:200]}" if said else type(exc).__name__
