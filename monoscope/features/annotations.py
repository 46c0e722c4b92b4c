"""A human's labels, notes and lists: an SQLite file beside the atlas, never touched by indexing."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monoscope.errors import FormatError, OutputError, require_version

SCHEMA_VERSION = 2
BOOKMARKS = "bookmarks"  # the list that a latent is put on by default

# Version 1 had the first table alone. Every change of a label is kept, so that none is lost.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS annotations (
    sae TEXT NOT NULL, latent INTEGER NOT NULL, text TEXT NOT NULL,
    changed TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (sae, latent)
);
CREATE TABLE IF NOT EXISTS history (
    id INTEGER PRIMARY KEY, sae TEXT NOT NULL, latent INTEGER NOT NULL, text TEXT,
    changed TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX IF NOT EXISTS history_of ON history (sae, latent);
CREATE TABLE IF NOT EXISTS notes (
    sae TEXT NOT NULL, latent INTEGER NOT NULL, text TEXT NOT NULL,
    changed TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (sae, latent)
);
CREATE TABLE IF NOT EXISTS members (
    sae TEXT NOT NULL, list TEXT NOT NULL, latent INTEGER NOT NULL,
    added TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (sae, list, latent)
);
"""
_SEED_HISTORY = """
INSERT INTO history (sae, latent, text, changed) SELECT sae, latent, text, changed FROM annotations
"""


@dataclass(frozen=True)
class Change:
    """A label as it was set at a time (UTC, ISO 8601); text None: it was removed."""

    text: str | None
    changed: str


class Annotations:
    """What was written about one SAE's latents. What belongs to another SAE is kept, not shown.

    path: the file, made when something is first written. sae: hash of the SAE's weights.
    Every method raises FormatError if the file is damaged or from a newer version; those that
    write raise OutputError if it cannot be written.
    """

    def __init__(self, path: Path, sae: str) -> None:
        self.path, self.sae = path, sae

    def read(self) -> dict[int, str]:
        """Every label, by latent."""
        query = "SELECT latent, text FROM annotations WHERE sae = ? ORDER BY latent"
        return {int(latent): str(text) for latent, text in self._read(query)}

    def write(self, latent: int, text: str) -> None:
        """Set a latent's label; blank text removes it. The history keeps what was."""
        text = text.strip()
        with self._open() as db, db:
            old = db.execute(
                "SELECT text FROM annotations WHERE sae = ? AND latent = ?", (self.sae, latent)
            ).fetchone()
            if (old[0] if old else "") == text:
                return
            self._set(db, "annotations", latent, text)
            db.execute(
                "INSERT INTO history (sae, latent, text) VALUES (?, ?, ?)",
                (self.sae, latent, text or None),
            )

    def history(self, latent: int) -> list[Change]:
        """Every label that a human gave the latent, the newest first."""
        query = "SELECT text, changed FROM history WHERE sae = ? AND latent = ? ORDER BY id DESC"
        rows = self._read(query, latent)
        return [Change(None if t is None else str(t), _iso(str(c))) for t, c in rows]

    def note(self, latent: int) -> str:
        """The note on a latent, empty where there is none."""
        rows = self._read("SELECT text FROM notes WHERE sae = ? AND latent = ?", latent)
        return str(rows[0][0]) if rows else ""

    def notes(self) -> dict[int, str]:
        """Every note, by latent."""
        query = "SELECT latent, text FROM notes WHERE sae = ? ORDER BY latent"
        return {int(latent): str(text) for latent, text in self._read(query)}

    def set_note(self, latent: int, text: str) -> None:
        """Set the note on a latent; blank text removes it."""
        with self._open() as db, db:
            self._set(db, "notes", latent, text.strip())

    def lists(self) -> dict[str, list[int]]:
        """Every list by name, its latents in the order in which they were put on it."""
        query = "SELECT list, latent FROM members WHERE sae = ? ORDER BY list, rowid"
        found: dict[str, list[int]] = {}
        for name, latent in self._read(query):
            found.setdefault(str(name), []).append(int(latent))
        return found

    def put(self, latent: int, name: str = BOOKMARKS) -> None:
        """Put a latent on a list, which is made by its first latent."""
        with self._open() as db, db:
            db.execute(
                "INSERT OR IGNORE INTO members (sae, list, latent) VALUES (?, ?, ?)",
                (self.sae, name, latent),
            )

    def take(self, latent: int, name: str = BOOKMARKS) -> None:
        """Take a latent off a list; one that was not on it stays off."""
        with self._open() as db, db:
            db.execute(
                "DELETE FROM members WHERE sae = ? AND list = ? AND latent = ?",
                (self.sae, name, latent),
            )

    def _set(self, db: sqlite3.Connection, table: str, latent: int, text: str) -> None:
        if text:
            query = f"INSERT OR REPLACE INTO {table} (sae, latent, text) VALUES (?, ?, ?)"
            db.execute(query, (self.sae, latent, text))
        else:
            query = f"DELETE FROM {table} WHERE sae = ? AND latent = ?"
            db.execute(query, (self.sae, latent))

    def _read(self, query: str, *given: object) -> list[tuple[Any, ...]]:
        if not self.path.exists():
            return []
        with self._open() as db:
            return db.execute(query, (self.sae, *given)).fetchall()

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection, closed afterwards; write-ahead, so that readers never wait for a writer."""
        try:
            with contextlib.closing(sqlite3.connect(self.path, timeout=10)) as db:
                self._migrate(db)
                yield db
        except sqlite3.OperationalError as exc:
            raise OutputError(f"cannot use {self.path}", got=exc) from exc
        except sqlite3.DatabaseError as exc:
            raise FormatError(
                f"{self.path} is damaged", got=exc, hint="Move it away; the atlas itself is whole."
            ) from exc

    def _migrate(self, db: sqlite3.Connection) -> None:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        require_version(self.path, version, SCHEMA_VERSION)
        db.execute("PRAGMA journal_mode = WAL")
        if version == SCHEMA_VERSION:
            return
        db.execute("BEGIN IMMEDIATE")  # two viewers may open an old file at once
        with db:
            if db.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION:
                return
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            if not db.execute("SELECT 1 FROM history LIMIT 1").fetchone():
                db.execute(_SEED_HISTORY)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _iso(changed: str) -> str:
    """SQLite's UTC timestamp as ISO 8601."""
    return changed.replace(" ", "T") + "Z"
