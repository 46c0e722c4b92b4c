"""Finished parts of an evaluation, kept by what they were made from, so that a killed one goes on.

A part's key is everything its figures depend on: the weights, the data, the metric's version, the
settings. Nothing is ever looked up by name or age, so a part is either the very same or not there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monoscope import assets
from monoscope.files import write_atomic

Figures = dict[str, Any]


class Cache:
    """One JSON file per finished part in `folder`; None keeps nothing.

    fresh: nothing that is there is taken; what is computed takes its place.
    made, found: how many parts were computed and how many were there already.
    """

    def __init__(self, folder: str | Path | None, *, fresh: bool = False) -> None:
        self.folder, self.fresh = None if folder is None else Path(folder), fresh
        self.made = self.found = 0

    @classmethod
    def default(cls, *, fresh: bool = False) -> Cache:
        """The one in monoscope's cache folder."""
        return cls(assets.cache_dir() / "evals", fresh=fresh)

    def get(self, name: str, key: Mapping[str, Any], make: Callable[[], Figures]) -> Figures:
        """The figures of part `name` under `key`, computed by `make` if they are not there.

        A file that cannot be read back, or that holds another key, counts as not there.
        """
        text = json.dumps(key, sort_keys=True, default=str)
        path = None
        if self.folder is not None:
            path = self.folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"
            held = None if self.fresh else _read(path)
            if held is not None and held.get("key") == json.loads(text):
                self.found += 1
                return dict(held["figures"])
        figures = make()
        self.made += 1
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = {"key": json.loads(text), "figures": figures}
            write_atomic(path, json.dumps(whole, allow_nan=False, ensure_ascii=False) + "\n")
        return dict(json.loads(json.dumps(figures, allow_nan=False)))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(held, dict) and isinstance(held.get("figures"), dict)
    return held if whole else None
