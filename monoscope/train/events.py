"""events.jsonl: one line of figures now and then, and notes in plain words between them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from monoscope.files import write_atomic


class At(Protocol):
    """What a note needs to say where in the run it was made."""

    step: int
    n_tokens: int


class EventLog:
    """Appends JSON lines to a file; `keep_until` drops what a resumed run will do again.

    A line has "step" and "n_tokens", and either figures ("loss", "fvu", …) or a "note" (its kind)
    with a "message".
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._untold: list[str] = []

    def write(self, **event: Any) -> None:
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as out:
                out.write(json.dumps(event) + "\n")

    def note(self, at: At, kind: str, message: str) -> None:
        """A line in plain words, also for whoever drains them."""
        self._untold.append(message)
        self.write(step=at.step, n_tokens=at.n_tokens, note=kind, message=message)

    def drain(self) -> tuple[str, ...]:
        """The messages of the notes since the last call."""
        told, self._untold = tuple(self._untold), []
        return told

    def keep_until(self, step: int) -> None:
        """Keep the events of steps <= step; a last line cut short is dropped too."""
        if self.path is None or not self.path.exists():
            return
        kept = [json.dumps(e) for e in read_events(self.path) if e["step"] <= step]
        write_atomic(self.path, "".join(line + "\n" for line in kept))


def read_events(path: Path) -> list[dict[str, Any]]:
    """The lines of a run, oldest first; a last line that is still being written is left out."""
    events = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return events


def read_figures(path: Path) -> list[dict[str, Any]]:
    """The lines of a run that hold figures, oldest first."""
    return [event for event in read_events(path) if "loss" in event]
