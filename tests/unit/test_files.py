"""Files appear whole or not at all, and only in folders that are ours."""

from __future__ import annotations

import errno
import hashlib
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from monoscope import files
from monoscope.errors import OutputError
from monoscope.files import (
    atomic_path,
    is_partial,
    remove_partials,
    require_folder,
    sha256_file,
    write_atomic,
)


@pytest.mark.parametrize("data", ["größer\n", b"\x00\xff", ""])
def test_writes_bytes_and_text(tmp_path, data):
    write_atomic(tmp_path / "a", data)
    write_atomic(tmp_path / "a", data)
    assert (tmp_path / "a").read_bytes() == (data.encode() if isinstance(data, str) else data)
    assert os.listdir(tmp_path) == ["a"]


def test_files_are_as_readable_as_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("x")
    with atomic_path(tmp_path / "tensors") as part:
        save_file({"a": torch.arange(3)}, part)
    assert (tmp_path / "tensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert load_file(tmp_path / "tensors")["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    write_atomic(tmp_path / "a", "old")
    with pytest.raises(type(error)), atomic_path(tmp_path / "a") as part:
        assert part.parent == tmp_path
        assert is_partial(part.name)
        part.write_text("new")
        raise error
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_clear_line(tmp_path, monkeypatch, call, code):
    write_atomic(tmp_path / "a", "old")

    def full(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, call, full)
    with pytest.raises(
        OutputError, match=r"the disk is full: could not write .*/a\. Free"
    ) as caught:
        write_atomic(tmp_path / "a", "new")
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
    "message",
    [
        "Error while serializing: I/O error: No space left on device (os error 28)",
        'IoError(Os { code: 28, kind: StorageFull, message: "…" })',
    ],
)
def test_a_full_disk_is_known_by_what_other_libraries_say(tmp_path, message):
    with pytest.raises(OutputError, match="the disk is full"), atomic_path(tmp_path / "a"):
        raise RuntimeError(message)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(OutputError, match=r"cannot write .*/none/a"):
        write_atomic(tmp_path / "none" / "a", "x")
    with pytest.raises(OutputError, match="cannot write"), atomic_path(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_other_errors_of_the_system_pass_through(tmp_path):
    with pytest.raises(OSError, match="Input/output"), atomic_path(tmp_path / "a"):
        raise OSError(errno.EIO, "Input/output error")


def test_sha256(tmp_path):
    data = os.urandom(300_000)
    (tmp_path / "a").write_bytes(data)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_a_new_or_empty_folder_or_one_of_ours_is_fine(tmp_path):
    assert require_folder(tmp_path / "x" / "y", "manifest.json").is_dir()
    require_folder(str(tmp_path / "x" / "y"), "manifest.json")
    write_atomic(tmp_path / "x" / "y" / "manifest.json", "{}")
    (tmp_path / "x" / "y" / "shard").write_text("x")
    require_folder(tmp_path / "x" / "y", "manifest.json")


def test_leftovers_of_a_first_killed_write_do_not_bar_a_folder(tmp_path):
    (tmp_path / ".manifest.json.1a2b3c4d.part").write_text("{")
    (tmp_path / "notes").write_text("x")
    with pytest.raises(OutputError, match="notes"):
        require_folder(tmp_path, "manifest.json")
    require_folder(tmp_path, "manifest.json", also=("note?",))
    remove_partials(tmp_path)
    assert os.listdir(tmp_path) == ["notes"]


@pytest.mark.parametrize("name", ["thesis.txt", "sae.json", ".hidden", "half.part"])
def test_a_folder_of_anything_else_is_refused(tmp_path, name):
    (tmp_path / name).write_text("years of work")
    with pytest.raises(OutputError, match=f"holds something else: got {name}"):
        require_folder(tmp_path, "manifest.json")
    assert (tmp_path / name).read_text() == "years of work"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises(OutputError, match="the output folder is a file"):
        require_folder(tmp_path / "a", "manifest.json")
    with pytest.raises(OutputError, match="cannot write"):
        require_folder(tmp_path / "a" / "b", "manifest.json")


def test_a_folder_one_level_too_high_is_told_where_to_look(tmp_path):
    for name in ("b", "a", "other"):
        (tmp_path / name).mkdir()
    for name in ("b", "a"):
        (tmp_path / name / "atlas.json").touch()
    a, b = tmp_path / "a", tmp_path / "b"
    assert files.found_below(tmp_path, "atlas.json") == f"Did you mean {a} or {b}?"
    assert files.found_below(tmp_path, "sae.json") is None
    assert files.found_below(tmp_path / "missing", "atlas.json") is None
    assert files.found_below("memory://store", "manifest.json") is None
