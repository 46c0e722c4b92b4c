"""Training runs as the page shows them: one line each, their curves thinned, their evaluations."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from monoscope.evals import compare
from monoscope.viewer import found
from monoscope.viewer.found import Found, read_json

EVENTS = "events.jsonl"
FIGURES = ("step", "n_tokens", "loss", "fvu", "l0", "dead_fraction", "lr")
QUIET_SECONDS = 120.0  # without news, after which an unfinished run may well have stopped
_FEW_SAVES, _MOST_SPOTS = 3, 24
_LONG = 2000  # characters of JSON beyond which a value of the provenance is left out
Status = Literal["running", "quiet", "finished"]


@dataclass(frozen=True)
class Tail:
    """Events read from a place in the file on, figures and notes, and where they end."""

    events: list[dict[str, Any]]
    end: int


def status(folder: Path, note: Mapping[str, Any]) -> Status:
    """Finished, as run.json says; else running, or quiet if nothing was written for a while."""
    if note.get("status") == "finished":
        return "finished"
    return "quiet" if time.time() - changed(folder) > QUIET_SECONDS else "running"


def changed(folder: Path) -> float:
    """When the run last wrote, in seconds since 1970."""
    times = []
    for name in (EVENTS, found.RUN):
        try:
            times.append((folder / name).stat().st_mtime)
        except OSError:
            continue
    return max(times, default=0.0)


def read_from(folder: Path, start: int = 0) -> Tail:
    """The whole lines of events.jsonl from byte `start` on; lines that are not JSON are passed by.

    A file shorter than `start` was begun anew by a resumed run: it is read from its beginning.
    """
    try:
        with (folder / EVENTS).open("rb") as file:
            if file.seek(0, 2) < start:
                start = 0
            file.seek(start)
            text = file.read()
    except OSError:
        return Tail([], 0)
    whole = text[: text.rfind(b"\n") + 1]
    events = []
    for line in whole.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return Tail(events, start + len(whole))


def is_figures(event: Mapping[str, Any]) -> bool:
    """Whether an event is a row of figures; others are notes, such as a diagnosis."""
    return isinstance(event.get("loss"), int | float) and isinstance(event.get("n_tokens"), int)


def columns(events: Iterable[Mapping[str, Any]], points: int) -> dict[str, list[float | None]]:
    """The figures as columns, thinned evenly to about `points` rows; the last row stays."""
    rows = [event for event in events if is_figures(event)]
    step = max(1, -(-len(rows) // points))
    kept = rows[::-1][::step][::-1]
    return {name: [_number(row.get(name)) for row in kept] for name in FIGURES}


def evaluation(folder: Path, root: Found) -> tuple[Path, dict[str, Any]] | None:
    """The file of figures from `monoscope eval` that belongs to a run, and the figures.

    It lies in the run's folder, or beside it, where it must name this SAE's weights or be the
    only run's there.
    """
    beside = folder.parent if folder != root.root else None
    for place in filter(None, (folder, beside)):
        for name in found.EVALS:
            told = read_json(place / name)
            families = compare.families_in(told)
            if families and (place == folder or _is_of(folder, told, root)):
                return place / name, families["core"]
    return None


def data(folder: Path) -> dict[str, Any]:
    """What a finished run was trained on, as its SAE says; long values are left out."""
    provenance = (read_json(folder / found.SAE) or {}).get("provenance")
    if not isinstance(provenance, dict):
        return {}
    return {
        key: value
        for key, value in provenance.items()
        if key != "config" and len(json.dumps(value)) <= _LONG
    }


def checkpoints(
    folder: Path, every: int | None, events: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What the log says where a run saved itself, oldest first, and at its last event.

    every: tokens between saves, as its configuration has it. Each: n_tokens, step, the figures,
    `kept` (whether it is still on disk: a finished run's are removed) and `saved`. A run that saved
    itself fewer than three times is told at its quarters too.
    """
    rows = [event for event in events if is_figures(event)]
    if not rows:
        return []
    kept = {int(name) for name in _steps(folder)}
    total = rows[-1]["n_tokens"]
    spots = {_first(rows, "step", step) for step in kept}
    if every:
        spots |= {_first(rows, "n_tokens", n) for n in range(every, total + 1, every)}
    saved = {spot for spot in spots if spot is not None}
    told = saved | {len(rows) - 1}
    if len(saved) < _FEW_SAVES:
        told |= {_first(rows, "n_tokens", total * i // 4) or 0 for i in (1, 2, 3)}
    order = sorted(told)
    thin = order[:: -(-len(order) // _MOST_SPOTS)]
    return [
        {name: _number(rows[i].get(name)) for name in FIGURES}
        | {"saved": i in saved, "kept": any(_first(rows, "step", s) == i for s in kept)}
        for i in sorted({*thin, order[-1]})
    ]


def _steps(folder: Path) -> list[str]:
    names = (path.name.rpartition("-")[2] for path in folder.glob("checkpoint-*"))
    return [name for name in names if name.isdecimal()]


def _first(rows: list[Mapping[str, Any]], name: str, least: int) -> int | None:
    """The first row whose counter has come to `least`."""
    found = (i for i, row in enumerate(rows) if (_number(row.get(name)) or 0) >= least)
    return next(found, None)


def _is_of(folder: Path, told: Any, root: Found) -> bool:
    named = compare.weights_in(told)
    if named is not None:
        return bool(named == found.weights_hash(folder))
    return [run for run in root.runs if run.parent == folder.parent] == [folder]


def _number(value: Any) -> float | None:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    return value if fits and abs(value) != float("inf") else None
