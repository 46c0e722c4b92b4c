"""One writer for each folder; a dead writer's lock is no lock."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from monoscope.errors import OutputError
from monoscope.files import LOCK, require_folder
from monoscope.locks import folder_lock

HOLD = """
import sys, time
from monoscope.locks import folder_lock
with folder_lock(sys.argv[1], "train"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that holds the folder."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    yield child
    child.kill()
    child.wait()
    child.stdout.close()


def test_a_second_process_is_told_who_holds_it(tmp_path: Path, holder: subprocess.Popen) -> None:
    named = re.escape(f"writing to {tmp_path}: got train, process {holder.pid} on ")
    with pytest.raises(OutputError, match=named), folder_lock(tmp_path, "train"):
        pass
    assert (tmp_path / LOCK).exists(), "the loser must not remove the holder's file"


def test_the_lock_of_a_killed_process_is_taken_over(
    tmp_path: Path, holder: subprocess.Popen
) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / LOCK).exists()
    with folder_lock(tmp_path, "train"):
        assert f'"pid": {os.getpid()}' in (tmp_path / LOCK).read_text()
    assert not (tmp_path / LOCK).exists()


def test_the_same_process_cannot_hold_it_twice(tmp_path: Path) -> None:
    with (
        folder_lock(tmp_path, "train"),
        pytest.raises(OutputError, match="another process is writing"),
        folder_lock(tmp_path, "collect"),
    ):
        pass
    with folder_lock(tmp_path, "again"):
        pass


def test_an_error_inside_lets_it_go(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), folder_lock(tmp_path, "train"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_file_removed_between_open_and_lock_is_not_taken_for_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, real, calls = contextlib.ExitStack(), fcntl.flock, []
    first.enter_context(folder_lock(tmp_path, "first"))

    def late(handle: int, how: int) -> None:
        if not calls:
            first.close()  # its holder ends, and removes the file that was opened just now
        calls.append(handle)
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with folder_lock(tmp_path, "second"):
        assert len(calls) == 2
        with pytest.raises(OutputError, match="got second"), folder_lock(tmp_path, "third"):
            pass


def test_a_file_system_without_locks_is_said_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unable(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", unable)
    with folder_lock(tmp_path, "train"):
        assert "has no locks" in caplog.text


def test_a_folder_with_only_a_lock_is_empty(tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()
    require_folder(tmp_path, "run.json")
    assert require_folder(tmp_path, "manifest.json") == tmp_path
