"""Writing files so that a kill, a full disk or a wrong folder never costs anything.

Every file is written beside its place under a temporary name, synced, then moved there in one
step: a reader sees the old file or the whole new one. Failures to write are one clear OutputError.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from monoscope.errors import OutputError

LOCK = ".lock"  # in a folder that somebody writes to, see locks.py
_PART = ".part"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_BARRED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EFBIG)


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Write `data` to `path` (text as UTF-8), replacing what is there in one step.

    Raises OutputError if the disk is full or the place cannot be written.
    """
    with atomic_path(path) as part:
        part.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a free path in the folder of `path`; on success sync it and move it to `path`.

    On any failure the partial file is removed and `path` keeps what it held.
    Raises OutputError if the disk is full or the place cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PART}")
    try:
        mode = _default_mode(part)
        yield part
        part.chmod(mode)  # some libraries make their files readable by the owner alone
        sync(part)
        os.replace(part, path)
        sync(path.parent)
    except BaseException as exc:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        problem = write_problem(path, exc)
        if problem is not None:
            raise problem from exc
        raise


def write_problem(path: str | Path, exc: BaseException) -> OutputError | None:
    """The OutputError that a failed write to `path` amounts to; None if `exc` is something else.

    Libraries that write through Rust or C++ hide the errno in their message, so a full disk is
    also recognised there.
    """
    code = exc.errno if isinstance(exc, OSError) else None
    text = str(exc)
    if code in _FULL or "No space left on device" in text or "StorageFull" in text:
        return OutputError(
            f"the disk is full: could not write {path}",
            hint="Free some space and run the same command again; finished files are intact.",
        )
    if code in _BARRED:
        return OutputError(f"cannot write {path}", got=exc, hint="Choose another output folder.")
    return None


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_folder(path: str | Path, kind: str, *, also: Sequence[str] = ()) -> Path:
    """Make `path` a folder that may be written to: new, empty, or already one of `kind`.

    kind: the marker file of our own folders, such as "manifest.json".
    also: names (shell patterns) that a folder left unfinished, before its marker, may hold.

    Raises OutputError if `path` is a file, cannot be made, or holds anything that is not ours.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        names = sorted(os.listdir(path))
    except FileExistsError as exc:
        raise OutputError("the output folder is a file", got=path, expected="a folder") from exc
    except OSError as exc:
        raise (write_problem(path, exc) or OutputError(f"cannot use {path}", got=exc)) from exc
    refuse_foreign(str(path), names, kind, also=also)
    return path


def found_below(folder: str | Path, kind: str) -> str | None:
    """A hint that names the folders of `kind` directly below one that is none; None without any."""
    try:
        found = sorted(path.parent for path in Path(folder).glob(f"*/{kind}"))
    except OSError:
        return None
    return f"Did you mean {' or '.join(map(str, found[:3]))}?" if found else None


def refuse_foreign(
    where: str, names: Sequence[str], kind: str, *, also: Sequence[str] = ()
) -> None:
    """Raise OutputError unless `names`, found in `where`, are those of a folder of `kind`."""
    foreign = [n for n in names if not is_partial(n) and not _matches(n, (LOCK, *also))]
    if kind in names or not foreign:
        return
    raise OutputError(
        f"the output folder {where} holds something else",
        got=", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else ""),
        expected=f"a new or empty folder, or one with {kind}",
        hint="Nothing was written; choose another folder.",
    )


def is_partial(name: str) -> bool:
    """Whether a file name is that of a write that never finished."""
    return name.startswith(".") and name.endswith(_PART)


def remove_partials(folder: str | Path) -> None:
    """Delete what killed writes left in `folder`."""
    for entry in Path(folder).iterdir():
        if is_partial(entry.name):
            entry.unlink(missing_ok=True)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _default_mode(part: Path) -> int:
    """The permissions that a plain new file gets in this folder; fails where none can be made."""
    part.touch(exist_ok=False)
    mode = part.stat().st_mode & 0o777
    part.unlink()
    return mode


def sync(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
