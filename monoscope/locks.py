"""One writer for each folder: a lock that the system lets go of when its process dies.

The lock is an flock on a small file in the folder that names its holder. It cannot go stale: a
process that is killed gives it up, and the file it leaves behind is taken over.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from monoscope.errors import OutputError
from monoscope.files import LOCK, write_problem

_LOG = logging.getLogger(__name__)
_HELD = (errno.EAGAIN, errno.EACCES)
_UNABLE = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def folder_lock(folder: str | os.PathLike[str], doing: str) -> Iterator[None]:
    """Be the only writer in `folder`, a folder on this machine, until the block ends.

    doing: what the holder is about, such as "train"; told to whoever comes second.  Where the
    file system has no locks, a warning is logged and the block runs all the same.

    Raises OutputError naming the holder if another writer, of this process or any other, has it.
    """
    path = Path(folder) / LOCK
    handle = _acquire(path)
    try:
        note = {"pid": os.getpid(), "host": socket.gethostname(), "doing": doing,
                "since": time.strftime("%Y-%m-%d %H:%M:%S")}  # fmt: skip
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(note).encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)  # before it is let go, so that only its holder removes it
        os.close(handle)


def _acquire(path: Path) -> int:
    """An open, locked handle of the file that is at `path` now."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as exc:
            raise (write_problem(path, exc) or exc) from exc
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            if exc.errno in _UNABLE:
                _LOG.warning("%s has no locks: do not write to it twice at once", path.parent)
                return handle
            held = _holder(handle) if exc.errno in _HELD else None
            os.close(handle)
            if held is None:
                raise
            raise OutputError(
                f"another process is writing to {path.parent}",
                got=held,
                hint="Wait until it ends, or choose another folder.",
            ) from exc
        if _is_at(handle, path):
            return handle
        os.close(handle)  # its last holder removed it in between: lock the new one


def _holder(handle: int) -> str:
    """Who says in the file that they hold it; they may not have written it yet."""
    try:
        note = json.loads(os.pread(handle, 4096, 0))
        return f"{note['doing']}, process {note['pid']} on {note['host']}, since {note['since']}"
    except (ValueError, KeyError, TypeError):
        return "a process that began just now"


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
