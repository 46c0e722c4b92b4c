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
SOURCE = "source"  # where a configuration's "data" says what the rows are
_UNKNOWN = (
    "data_unknown",
    "the run does not say which data it was begun on; these are taken to be the same",
)
_FREE = ("checkpoint_every_tokens",)  # may differ from session to session: it changes no result


class RunFolder:
    """What a run writes; `about` is its whole configuration, `asked` how it was asked for.

    told: what was found on opening it that its log should say.  knows_data: whether the run that
    is taken up says which data it was begun on.

    Made by `opened`.
    """

    def __init__(
        self, path: Path, about: dict[str, Any], asked: dict[str, Any] | None, knows_data: bool,
        told: tuple[tuple[str, str], ...] = (),
    ) -> None:  # fmt: skip
        self.path, self.about, self.asked, self.knows_data = path, about, asked, knows_data
        self.told = told
        self.log = EventLog(path / EVENTS)

    @classmethod
    @contextlib.contextmanager
    def opened(
        cls, path: str | Path, about: dict[str, Any], resume: bool,
        asked: dict[str, Any] | None = None,
    ) -> Iterator[RunFolder]:  # fmt: skip
        """The folder, for this process alone; run.json says what the run is before it begins.

        Raises OutputError if it holds anything else, a run that is not to be resumed, or is being
        written to; MismatchError if its run was started with another configuration or other data;
        FormatError if run.json is damaged and no whole checkpoint has the configuration too.
        """
        folder = require_folder(path, NOTE, also=_OURS)
        with folder_lock(folder, "train"):
            note, told = folder / NOTE, []
            if not note.exists():
                _write_running(note, about, asked)
                yield cls(folder, about, asked, knows_data=True)
                return
            if not resume:
                raise OutputError(
                    f"{folder} already holds a run",
                    hint="Add --resume to go on with it, or choose another --out.",
                )
            try:
                config = _read_note(note)["config"]
            except FormatError as error:
                if (folder / DONE).exists():
                    raise
                config, where = _saved_config(folder, error)
                message = f"{error.what}: its configuration was taken from {where} instead"
                told.append(("note_damaged", message))
                _write_running(note, config, asked)
            knows = _compare(config, about, folder)
            if not knows:
                told.append(_UNKNOWN)
            yield cls(folder, about, asked, knows, tuple(told))

    def finished(self) -> tuple[SAE, dict[str, Any]] | None:
        """The SAE and metrics of the run, if it has ended."""
        if not (self.path / DONE).exists():
            return None
        sae = load_sae(self.path)
        if not self.knows_data:  # run.json does not say; perhaps the SAE does
            _compare_data(sae.provenance, self.about, self.path)
        self._clear()  # a kill may have come between the SAE and this
        metrics: dict[str, Any] = _read_note(self.path / NOTE)["metrics"]
        return sae, metrics

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
        for kind, message in self.told:
            self.log.note(state, kind, message)
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
        whole = (path.parent / DONE).exists()
        raise FormatError(
            f"{path} is damaged",
            got=error,
            hint="The SAE beside it is finished, and can be used." if whole
            else "No whole checkpoint beside it has the configuration too: choose another --out.",
        ) from error  # fmt: skip
    return note


def _write_running(note: Path, about: dict[str, Any], asked: dict[str, Any] | None) -> None:
    told = {"config": about, "asked": asked, "status": "running"}
    write_atomic(note, json.dumps(told, indent=1))


def _saved_config(folder: Path, damage: FormatError) -> tuple[dict[str, Any], str]:
    """The configuration in the newest whole checkpoint, and the checkpoint's name.

    Raises `damage`, which is that of run.json, where there is none.
    """
    for path in reversed(checkpoints(folder)):
        try:
            config: dict[str, Any] = read_checkpoint(path)[0]["config"]
            config["sae"], config["train"]
        except (FormatError, KeyError, TypeError):
            continue
        return config, path.name
    raise damage


def _compare(old: dict[str, Any], new: dict[str, Any], folder: Path) -> bool:
    """Raise MismatchError naming every setting, and all of the data, in which the two differ.

    Returns whether `old` says which data the run was begun on; only those that say so can differ.
    """
    differ = [
        (key, old[part].get(key), new[part].get(key))
        for part in ("sae", "train", "data")
        for key in (new[part] | old.get(part, {}))
        if old.get(part, {}).get(key) != new[part].get(key) and key not in (*_FREE, SOURCE)
    ]
    was, now = old.get("data", {}).get(SOURCE), new["data"].get(SOURCE)
    _refuse(differ, _differing(was or {}, now or {}), folder)
    return was is not None


def _compare_data(provenance: dict[str, Any], new: dict[str, Any], folder: Path) -> None:
    """The same for what a finished SAE remembers of its data, as far as it does."""
    now = new["data"].get(SOURCE) or {}
    was = {
        **(provenance.get("model") or {}), "site": provenance.get("site"),
        "corpus": provenance.get("corpus_fingerprint"),
    }  # fmt: skip
    known = {key: value for key, value in was.items() if value is not None and key in now}
    _refuse([], _differing(known, {key: now[key] for key in known}), folder)


def _differing(was: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(name, was, now) of what differs; of another kind of data only the kind, of unknown none."""
    if not was or not now:
        return []
    keys = ["kind"] if was.get("kind") != now.get("kind") else list(now | was)
    return [(key, was.get(key), now.get(key)) for key in keys if was.get(key) != now.get(key)]


def _refuse(
    settings: list[tuple[str, Any, Any]], data: list[tuple[str, Any, Any]], folder: Path
) -> None:
    how = []
    if settings:
        how.append("with another " + " and another ".join(key for key, _, _ in settings))
    if data:
        how.append(f"on other data (another {', '.join(key for key, _, _ in data)})")
    if how:
        differ = settings + data
        raise MismatchError(
            f"the run in {folder} was started {' and '.join(how)}",
            got=", ".join(f"{key} {_short(now)}" for key, _, now in differ),
            expected=", ".join(f"{key} {_short(was)}" for key, was, _ in differ),
            hint="Use the same settings and data to resume, or another --out.",
        )


def _short(value: Any) -> str:
    """Hashes by their beginning."""
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 and set(text) <= set("0123456789abcdef") else text
