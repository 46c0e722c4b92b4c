"""Finds the files that a path or a pattern means, and tells one set of files from another."""

from __future__ import annotations

import glob
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from monoscope.data.readers import READABLE, suffix_of
from monoscope.errors import CorpusError, nearest

_LOG = logging.getLogger(__name__)

_WHOLE_BYTES = 2**20  # files up to this size are hashed whole
_KINDS_TOLD = 6  # suffixes of skipped files named, the most frequent first
_SAMPLES, _SAMPLE_BYTES = 16, 2**16  # of larger ones, this many blocks, evenly spaced


class Found(NamedTuple):
    """A file to read, and its name relative to the folder it was found in."""

    path: Path
    name: str


def find(source: str | Path) -> list[Found]:
    """The readable files of a folder (with its subfolders), a glob pattern, or one file; sorted.

    Hidden files and folders, and files of other kinds, are passed over in folders and patterns;
    how many of other kinds is logged as a warning.

    Raises CorpusError if nothing is there, nothing readable is there, or one file given by its
    name is of a kind that is not read.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        paths, root = _walk(path), path
    elif path.is_file():
        if suffix_of(path) is None:
            raise CorpusError(f"cannot read {path}", got=_kind(path), expected=READABLE)
        paths, root = [path], path.parent
    elif not path.exists() and glob.has_magic(str(path)):
        paths, root = [Path(p) for p in glob.glob(str(path), recursive=True)], _fixed(path)
        paths = [p for p in paths if p.is_file()]
        if not paths:
            raise CorpusError("no file matches the pattern", got=path)
    elif path.exists():
        raise CorpusError(
            f"{path} is neither a file nor a folder", hint="Pipe it in with --corpus -."
        )
    else:
        raise _missing(path)
    readable = [p for p in paths if suffix_of(p) is not None]
    if not readable:
        raise CorpusError(
            f"no file to read in {path}",
            got=f"{len(paths)} files of other kinds" if paths else "an empty folder",
            expected=READABLE,
        )
    _tell_skipped([p for p in paths if suffix_of(p) is None])
    found = [Found(p, p.relative_to(root).as_posix()) for p in readable]
    return sorted(found, key=lambda f: f.name)


def fingerprint(files: Sequence[Found], extra: Sequence[str]) -> str:
    """SHA-256 over each file's name, size and content, and over `extra`.

    Files up to 1 MiB are read whole; of a larger one, sixteen blocks of 64 KiB, so a change
    between them that keeps the size is not noticed. Where the files lie and when they were
    written does not count.
    """
    total = hashlib.sha256(repr(("files", *extra)).encode())
    for file in files:
        size, digest = _content(file.path)
        total.update(f"\n{file.name}\0{size}\0{digest}".encode(errors="surrogateescape"))
    return total.hexdigest()


def _content(path: Path) -> tuple[int, str]:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= _WHOLE_BYTES:
                digest.update(file.read())
            else:
                for block in range(_SAMPLES):
                    file.seek((size - _SAMPLE_BYTES) * block // (_SAMPLES - 1))
                    digest.update(file.read(_SAMPLE_BYTES))
    except OSError as exc:
        raise CorpusError(f"cannot read {path}", got=exc.strerror or exc) from exc
    return size, digest.hexdigest()


def _walk(root: Path) -> list[Path]:
    def fail(exc: OSError) -> None:
        raise CorpusError(f"cannot read {exc.filename}", got=exc.strerror) from exc

    paths = []
    for folder, folders, names in os.walk(root, onerror=fail):
        folders[:] = [f for f in folders if not f.startswith(".")]
        paths += [Path(folder, name) for name in names if not name.startswith(".")]
    return paths


def _tell_skipped(paths: Sequence[Path]) -> None:
    if not paths:
        return
    counts = Counter(_suffix(path) for path in paths)
    kinds = sorted(counts, key=lambda kind: (-counts[kind], kind))
    more = [f"{len(kinds) - _KINDS_TOLD} more"] if len(kinds) > _KINDS_TOLD else []
    files = "1 file of another kind" if len(paths) == 1 else f"{len(paths):,} files of other kinds"
    _LOG.warning("skipped %s (%s)", files, ", ".join(kinds[:_KINDS_TOLD] + more))


def _suffix(path: Path) -> str:
    return path.suffix.lower() or "without a suffix"


def _fixed(pattern: Path) -> Path:
    """The part of a pattern before its first wildcard."""
    fixed = Path()
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed


def _kind(path: Path) -> str:
    return f"a {path.suffix} file" if path.suffix else "a file without a suffix"


def _missing(path: Path) -> CorpusError:
    siblings = os.listdir(path.parent) if path.parent.is_dir() else []
    close = nearest(path.name, siblings)
    return CorpusError(
        "no such file or folder",
        got=path,
        hint=f"Did you mean {path.parent / close}?"
        if close
        else "A dataset of the Hugging Face hub is written hf:NAME.",
    )
