"""A shelf of folders that take long to make: each is made once, and used by many processes at once.

Whoever makes or uses a folder holds a lock on it, which the system lets go of when the process
dies, killed or not. So a folder that nobody holds is finished and unused, or was never finished;
only such ones are removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

_HELD: dict[Path, int] = {}  # handles of the folders that this process uses, open until it ends


def kept(shelf: Path, name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` on the shelf, made if it is not there; others that nobody uses are removed.

    It stays for as long as this process lives.  make: given a new empty folder, fills it.
    """
    folder = shelf / name
    while folder not in _HELD:
        _clear(shelf, folder)
        handle = _lock(folder, fcntl.LOCK_SH) if folder.is_dir() else _made(folder, make)
        if handle is not None:
            _HELD[folder] = handle
    return folder


def _made(folder: Path, make: Callable[[Path], None]) -> int | None:
    """Make it beside its place and move it there in one step; None if another was faster."""
    draft = folder.with_name(f".{os.getpid()}-{secrets.token_hex(4)}")
    draft.mkdir()
    handle = _lock(draft, fcntl.LOCK_EX)
    if handle is None:  # taken for a dead process's before it was held
        return None
    try:
        make(draft)
        draft.rename(folder)
    except OSError:
        os.close(handle)
        shutil.rmtree(draft, ignore_errors=True)
        if folder.is_dir():
            return None
        raise
    except BaseException:
        os.close(handle)
        shutil.rmtree(draft, ignore_errors=True)
        raise
    fcntl.flock(handle, fcntl.LOCK_SH)  # which lets go for an instant, in which it may be removed
    if folder.is_dir() and os.path.samestat(os.fstat(handle), folder.stat()):
        return handle
    os.close(handle)
    return None


def _clear(shelf: Path, wanted: Path) -> None:
    """Remove what nobody holds, but for the folder that is wanted."""
    for other in [*shelf.iterdir()]:
        handle = None if other == wanted else _lock(other, fcntl.LOCK_EX)
        if handle is not None:
            shutil.rmtree(other, ignore_errors=True)
            os.close(handle)


def _lock(folder: Path, kind: int) -> int | None:
    """A handle that locks the folder, unless it is gone or somebody holds it otherwise."""
    handle = None
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, BlockingIOError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), folder.stat()):
            return handle
    if handle is not None:
        os.close(handle)
    return None
