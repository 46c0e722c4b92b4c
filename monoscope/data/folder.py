"""Folder: the files of one store, on this machine or behind an fsspec URL (memory://, s3://)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec

from monoscope.errors import ConfigError
from monoscope.files import (
    atomic_path,
    is_partial,
    refuse_foreign,
    require_folder,
    sha256_file,
    write_problem,
)
from monoscope.locks import folder_lock


class Folder:
    """A flat set of named files; every write appears whole or not at all.

    local: the path when the files are on this machine, else None.
    Raises ConfigError for a URL whose kind is unknown or needs a package that is missing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.where = os.fspath(path)
        self.local: Path | None = None
        if "://" not in self.where or self.where.startswith("file://"):
            self.local = Path(self.where.removeprefix("file://"))
            return
        try:
            self._fs: Any
            self._fs, self._root = fsspec.core.url_to_fs(self.where)
        except (ValueError, ImportError) as exc:
            raise ConfigError(
                "cannot open this kind of URL", got=self.where, hint=f"{exc}."
            ) from exc

    def names(self) -> list[str]:
        """The names of the files it holds, sorted; none if it does not exist."""
        if self.local is not None:
            return sorted(os.listdir(self.local)) if self.local.is_dir() else []
        try:
            found = self._fs.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        return sorted(str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in found)

    def prepare(self, marker: str) -> None:
        """Make the folder ready to write to.

        Raises OutputError if it holds anything that is not ours (see `files.require_folder`).
        """
        if self.local is not None:
            require_folder(self.local, marker)
        else:
            refuse_foreign(self.where, self.names(), marker)
            self._fs.makedirs(self._root, exist_ok=True)

    def locked(self, doing: str) -> contextlib.AbstractContextManager[None]:
        """Be the only writer for a while; a folder behind a URL cannot be locked and is not.

        Raises OutputError naming the holder if another process writes to it.
        """
        return contextlib.nullcontext() if self.local is None else folder_lock(self.local, doing)

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if there is no such file."""
        try:
            if self.local is not None:
                return (self.local / name).stat().st_size
            return int(self._fs.info(self._at(name))["size"])
        except (FileNotFoundError, NotADirectoryError):
            return None

    def fetch(self, name: str) -> Path | bytes:
        """A file as its local path, or as its bytes where it is not on this machine."""
        if self.local is not None:
            return self.local / name
        data: bytes = self._fs.cat_file(self._at(name))
        return data

    def read_bytes(self, name: str) -> bytes:
        """All the bytes of a file."""
        source = self.fetch(name)
        return source if isinstance(source, bytes) else source.read_bytes()

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield a local path to write; the file then takes its place in one step.

        Raises OutputError if the disk is full or the place cannot be written.
        """
        if self.local is not None:
            with atomic_path(self.local / name) as part:
                yield part
            return
        with tempfile.TemporaryDirectory() as scratch:
            part = Path(scratch) / name
            remote = self._at(f".{name}.{secrets.token_hex(4)}.part")
            try:
                yield part
                self._fs.put_file(str(part), remote)
                self._fs.mv(remote, self._at(name))
            except Exception as exc:
                problem = write_problem(self._at(name), exc)
                if problem is not None:
                    raise problem from exc
                raise

    def write_text(self, name: str, text: str) -> None:
        """Replace a file's content in one step."""
        with self.writing(name) as part:
            part.write_text(text, encoding="utf-8")

    def remove(self, name: str) -> None:
        """Delete a file."""
        if self.local is not None:
            (self.local / name).unlink(missing_ok=True)
        else:
            self._fs.rm_file(self._at(name))

    def remove_partials(self) -> None:
        """Delete what killed writes left behind."""
        for name in filter(is_partial, self.names()):
            self.remove(name)

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"


def digest(source: Path | bytes) -> str:
    """SHA-256 in hex of what `Folder.fetch` gave."""
    return hashlib.sha256(source).hexdigest() if isinstance(source, bytes) else sha256_file(source)
