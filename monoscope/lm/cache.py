"""Hashes of weight files, remembered between runs for as long as nobody touches the files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from monoscope.assets import cache_dir
from monoscope.errors import OutputError
from monoscope.files import sha256_file, write_atomic


def files_hash(files: Sequence[Path]) -> str:
    """sha256 of the files' contents: of the one file itself, or of the lines "sha256  name"."""
    memory = cache_dir() / "weights.json"
    known = _recalled(memory)
    lines, changed = [], False
    for path in sorted(files):
        # The change time, unlike the modification time, cannot be set back.
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        entry = known.get(str(path.resolve()))
        if not isinstance(entry, dict) or entry.get("stamp") != stamp:
            entry = {"stamp": stamp, "sha256": sha256_file(path)}
            known[str(path.resolve())] = entry
            changed = True
        lines.append((str(entry["sha256"]), path.name))
    if changed:
        _remember(memory, known)
    if len(lines) == 1:
        return lines[0][0]
    listing = "".join(f"{digest}  {name}\n" for digest, name in lines)
    return hashlib.sha256(listing.encode()).hexdigest()


def _recalled(memory: Path) -> dict[str, object]:
    try:
        found = json.loads(memory.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(memory: Path, known: dict[str, object]) -> None:
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(memory, json.dumps(known, indent=1))
    except (OSError, OutputError):
        return  # a memory that cannot be kept only costs hashing again
