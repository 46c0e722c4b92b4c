"""How long each stage took, over all runs that worked on it: kept as it passes, through kills."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from monoscope.errors import FormatError, OutputError
from monoscope.files import write_atomic

SECONDS = "seconds.json"
BEAT_SECONDS = 2.0  # what a kill can take from the clock


@dataclass(frozen=True)
class Spent:
    """Seconds of work on a stage; finished: its result was whole when they ended."""

    seconds: float
    finished: bool


class Clock:
    """The seconds of a folder's stages, in its seconds.json.

    A stage that was broken off and goes on adds to its seconds; one that is found finished keeps
    them; one that is begun anew, since its result was removed, starts from 0.
    """

    def __init__(self, folder: Path, now: Callable[[], float] = time.monotonic) -> None:
        self._path, self._now = folder / SECONDS, now
        self._spent = _read(self._path)

    def spent(self, stage: str) -> float | None:
        """Seconds of work on the stage; None if no run of the demo timed it."""
        spent = self._spent.get(stage)
        return None if spent is None else spent.seconds

    def reuse(self, stage: str) -> None:
        """The stage was found finished: its seconds stand, though a kill came before their end."""
        before = self._spent.get(stage)
        if before is not None and not before.finished:
            self._keep(stage, before.seconds, finished=True)

    @contextlib.contextmanager
    def time(self, stage: str, beat: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Time the block as work on the stage; `beat` is called every other second meanwhile.

        Raises OutputError if the disk is full when the block ends.
        """
        before = self._spent.get(stage)
        base = before.seconds if before is not None and not before.finished else 0.0
        began = self._now()

        def keep(finished: bool = False) -> None:
            self._keep(stage, base + self._now() - began, finished)

        def passing() -> None:
            beat()
            with contextlib.suppress(OutputError):  # the stage itself says that the disk is full
                keep()

        try:
            with _every(BEAT_SECONDS, passing):
                yield
        except BaseException:
            with contextlib.suppress(OutputError):
                keep()
            raise
        keep(finished=True)

    def _keep(self, stage: str, seconds: float, finished: bool) -> None:
        self._spent[stage] = Spent(round(seconds, 3), finished)
        write_atomic(self._path, json.dumps({k: asdict(v) for k, v in self._spent.items()}) + "\n")


@contextlib.contextmanager
def _every(seconds: float, call: Callable[[], None]) -> Iterator[None]:
    """Call it again and again from a thread until the block ends."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(seconds):
            call()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _read(path: Path) -> dict[str, Spent]:
    if not path.exists():
        return {}
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return {k: Spent(float(v["seconds"]), bool(v["finished"])) for k, v in held.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        hint = "Remove it and run the demo again; times of finished stages will be missing."
        raise FormatError(f"{path} is damaged", got=exc, hint=hint) from exc
