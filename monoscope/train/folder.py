"""A run's folder: begun or taken up, its checkpoints, and the finished SAE in it."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from monoscope.artifact import load_sae, save_sae
from monoscope.artifact.interop import probe
from monoscope.errors import FormatError, MismatchError, OutputError
from monoscope.files import require_folder, write_atomic
from monoscope.locks import folder_lock
from monoscope.sae import SAE
from monoscope.train.events import EventLog
from monoscope.train.state import TrainState, checkpoints, read_checkpoint, save_checkpoint

NOTE, EVENTS, DONE = "run.json", "events.jsonl", "sae.json"
_OURS = (NOTE, EVENTS, "sae.safetensors", probe.FILE, "checkpoint-*", ".checkpoint-*")
_FREE = ("checkpoint_every_tokens",)  # may differ from session to session: it changes no result


class RunFolder:
    """What a run writes; `about` is its whole configuration, `asked` how it was asked for.

    Made by `opened`.
    """

    def __init__(self, path: Path, about: dict[str, Any], asked: dict[str, Any] | None) -> None:
        self.path, self.about, self.asked = path, about, asked
        self.log = EventLog(path / EVENTS)

    @classmethod
    @contextlib.contextmanager
    def opened(
        cls, path: str | Path, about: dict[str, Any], resume: bool,
        asked: dict[str, Any] | None = None,
    ) -> Iterator[RunFolder]:  # fmt: skip
        """The folder, for this process alone; run.json says what the run is before it begins.

        Raises OutputError if it holds anything else, a run that is not to be resumed, or is being
        written to; MismatchError if its run was started with another configuration.
        """
        folder = require_folder(path, NOTE, also=_OURS)
        with folder_lock(folder, "train"):
            note = folder / NOTE
            if not note.exists():
                told = {"config": about, "asked": asked, "status": "running"}
                write_atomic(note, json.dumps(told, indent=1))
            elif not resume:
                raise OutputError(
                    f"{folder} already holds a run",
                    hint="Add --resume to go on with it, or choose another --out.",
                )
            else:
                _compare(_read_note(note)["config"], about, folder)
            yield cls(folder, about, asked)

    def finished(self) -> tuple[SAE, dict[str, Any]] | None:
        """The SAE and metrics of the run, if it has ended."""
        if not (self.path / DONE).exists():
            return None
        self._clear()  # a kill may have come between the SAE and this
        metrics: dict[str, Any] = _read_note(self.path / NOTE)["metrics"]
        return load_sae(self.path), metrics

    def restore(self, state: TrainState) -> dict[str, Any] | None:
        """Bring `state` to the newest whole checkpoint; returns the stream's state at it.

        A damaged checkpoint is passed over for the one before, and a note in the event log says so.
        None, with the state as it was, where there is no whole checkpoint.
        """
        damaged = []
        for path in reversed(checkpoints(self.path)):
            try:
                about, tensors = read_checkpoint(path)
            except FormatError as error:
                damaged.append(str(error))
                continue
            state.load_tensors(tensors)
            state.load_counters(about["counters"])
            self._resumed(state, damaged)
            stream: dict[str, Any] = about["stream"]
            return stream
        self._resumed(state, damaged)
        return None

    def _resumed(self, state: TrainState, damaged: list[str]) -> None:
        """Drop the events and checkpoints of steps that will be done again; note what happened."""
        for draft in self.path.glob(".checkpoint-*"):
            shutil.rmtree(draft)
        for path in checkpoints(self.path):
            if int(path.name.rpartition("-")[2]) > state.step:
                shutil.rmtree(path)
        began = (self.path / EVENTS).exists()
        self.log.keep_until(state.step)
        where = f"step {state.step:,} ({state.n_tokens:,} tokens)"
        for problem in damaged:
            self.log.note(state, "checkpoint_damaged", f"{problem} Went back to {where} instead.")
        if began or state.step:
            self.log.note(state, "resumed", f"resumed at {where}")

    def checkpoint(self, state: TrainState, stream: dict[str, Any]) -> None:
        """Save the run; raises OutputError if the disk is full."""
        save_checkpoint(self.path, state, stream, self.about)

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint there is."""
        return next(reversed(checkpoints(self.path)), None)

    def finish(self, sae: SAE, metrics: dict[str, Any], x: Tensor) -> None:
        """Write the SAE and metrics; the checkpoints go once it is whole on disk.

        x [n,D]: raw activations, the first of which are kept with their codes and reconstruction,
        so that whoever exports or loads the SAE later can see that it still computes the same.
        """
        note = {
            "config": self.about, "asked": self.asked, "status": "finished", "metrics": metrics,
        }  # fmt: skip
        write_atomic(self.path / NOTE, json.dumps(note, indent=1))
        probe.write_probe(sae, x[: probe.N_TOKENS], self.path)
        save_sae(sae, self.path, also=_OURS)  # last: its sae.json says that the run is finished
        self._clear()

    def _clear(self) -> None:
        for path in (*checkpoints(self.path), *self.path.glob(".checkpoint-*")):
            shutil.rmtree(path)


def _read_note(path: Path) -> dict[str, Any]:
    try:
        note: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        note["config"]["sae"], note["config"]["train"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path} is damaged", got=error, hint="Choose another --out.") from error
    return note


def _compare(old: dict[str, Any], new: dict[str, Any], folder: Path) -> None:
    """Raise MismatchError naming every setting in which the two configurations differ."""
    differ = [
        (key, old[part].get(key), new[part].get(key))
        for part in ("sae", "train", "data")
        for key in (new[part] | old.get(part, {}))
        if old.get(part, {}).get(key) != new[part].get(key) and key not in _FREE
    ]
    if differ:
        names = " and another ".join(key for key, _, _ in differ)
        raise MismatchError(
            f"the run in {folder} was started with another {names}",
            got=", ".join(f"{key} {now}" for key, _, now in differ),
            expected=", ".join(f"{key} {was}" for key, was, _ in differ),
            hint="Use the same settings to resume, or another --out.",
        )
