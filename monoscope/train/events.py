"""events.jsonl: one line of figures now and then, so that a run can be followed and drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class EventLog:
    """Appends JSON lines to a file; `keep_until` drops what a resumed run will do again."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def write(self, **event: Any) -> None:
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as out:
                out.write(json.dumps(event) + "\n")

    def keep_until(self, step: int) -> None:
        """Keep the events of steps <= step; a last line cut short is dropped too."""
        if self.path is None or not self.path.exists():
            return
        kept = [json.dumps(e) for e in read_events(self.path) if e["step"] <= step]
        draft = self.path.with_suffix(".part")
        draft.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        draft.replace(self.path)


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a run, oldest first; a last line that is still being written is left out."""
    events = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return events
