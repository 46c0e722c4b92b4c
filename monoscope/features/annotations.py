"""A human's labels: an SQLite file beside the atlas that indexing and labelling never touch."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from monoscope.errors import FormatError, OutputError

_TABLE = """
CREATE TABLE IF NOT EXISTS annotations (
    sae TEXT NOT NULL, latent INTEGER NOT NULL, text TEXT NOT NULL,
    changed TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (sae, latent)
)"""


class Annotations:
    """Labels by latent of one SAE. Those of another SAE in the same file are kept but not shown.

    path: the file, made when the first label is written. sae: hash of the SAE's weights.
    """

    def __init__(self, path: Path, sae: str) -> None:
        self.path, self.sae = path, sae

    def read(self) -> dict[int, str]:
        """Every label, by latent.

        Raises FormatError if the file is damaged.
        """
        if not self.path.exists():
            return {}
        with self._open() as db:
            rows = db.execute(
                "SELECT latent, text FROM annotations WHERE sae = ? ORDER BY latent", (self.sae,)
            )
            return dict(rows.fetchall())

    def write(self, latent: int, text: str) -> None:
        """Set a latent's label; blank text removes it.

        Raises OutputError if the file cannot be written, FormatError if it is damaged.
        """
        with self._open() as db, db:
            if text.strip():
                db.execute(
                    "INSERT OR REPLACE INTO annotations (sae, latent, text) VALUES (?, ?, ?)",
                    (self.sae, latent, text.strip()),
                )
            else:
                db.execute(
                    "DELETE FROM annotations WHERE sae = ? AND latent = ?", (self.sae, latent)
                )

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection, closed afterwards; write-ahead, so that readers never wait for a writer."""
        try:
            with contextlib.closing(sqlite3.connect(self.path, timeout=10)) as db:
                db.execute("PRAGMA journal_mode = WAL")
                db.execute(_TABLE)
                yield db
        except sqlite3.OperationalError as exc:
            raise OutputError(f"cannot use {self.path}", got=exc) from exc
        except sqlite3.DatabaseError as exc:
            raise FormatError(
                f"{self.path} is damaged", got=exc, hint="Move it away; the atlas itself is whole."
            ) from exc
