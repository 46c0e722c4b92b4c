"""Kills, full disks and damaged files: a harvest resumes to the same bytes, damage is named."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from monoscope import files
from monoscope.data.harvest import collect
from monoscope.data.manifest import read_manifest
from monoscope.data.store import ActivationStore
from monoscope.errors import DataError, FormatError, OutputError
from monoscope.files import sha256_file
from tests.unit.data.fake_lm import FakeLM, make_corpus

SITE, N_TOKENS = "resid_post.0", 500
SMALL = {
    "held_out": 0.3,
    "context_length": 9,
    "max_doc_tokens": 25,
    "batch_tokens": 50,
    "shard_tokens": 150,
}
ROOT = Path(__file__).parents[2]


def harvest(out, n_tokens=N_TOKENS, **lm):
    return collect(FakeLM(**lm), make_corpus(60, seed=2), SITE, n_tokens, out, **SMALL)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "s"
    store = harvest(out)
    assert len(store.shards("train")) >= 3
    assert len(store.shards("held_out")) >= 3
    return store


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copytree(whole.path, tmp_path / "copy"))


@pytest.mark.parametrize("captures", range(0, 17))
def test_killed_between_forward_passes_it_resumes_to_the_same_bytes(whole, tmp_path, captures):
    out = tmp_path / "s"
    with pytest.raises(ConnectionError):
        harvest(out, fail_after=captures)
    unfinished = ActivationStore.open(out)
    assert not unfinished.manifest.complete
    assert harvest(out).manifest.complete
    assert contents(out) == contents(whole.path)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("moves", range(0, 21))
def test_killed_while_writing_it_resumes_to_the_same_bytes(
    whole, tmp_path, monkeypatch, moves, when
):
    """A kill leaves partial files behind: nothing may tidy up after the simulated one."""
    out, replace, n_done = tmp_path / "s", os.replace, 0

    def killed(source, target):
        nonlocal n_done
        n_done += 1
        if n_done <= moves:
            return replace(source, target)
        if when == "after":
            replace(source, target)
        raise SystemExit("killed")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", killed)
        patch.setattr(files.Path, "unlink", lambda *_, **__: None)
        with pytest.raises(SystemExit):
            harvest(out)
    if when == "before":
        assert any(files.is_partial(path.name) for path in out.iterdir())
    harvest(out)
    assert contents(out) == contents(whole.path)


def test_killed_again_and_again_it_still_ends_with_the_same_bytes(whole, tmp_path):
    out = tmp_path / "s"
    for _ in range(50):
        try:
            harvest(out, fail_after=5)
            break
        except ConnectionError:
            continue
    assert contents(out) == contents(whole.path)


def test_a_process_that_is_killed_resumes_to_the_same_bytes(whole, tmp_path):
    out = tmp_path / "s"
    script = (
        "import sys, time\n"
        "from tests.faults.test_store_faults import harvest\n"
        "from tests.unit.data.fake_lm import FakeLM\n"
        "capture = FakeLM.capture_many\n"
        "def slow(self, *args):\n"
        "    time.sleep(0.03)\n"
        "    return capture(self, *args)\n"
        "FakeLM.capture_many = slow\n"
        "harvest(sys.argv[1])\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    child = subprocess.Popen([sys.executable, "-c", script, str(out)], env=environment, cwd=ROOT)
    try:
        while not (out / "shard-00001.safetensors").exists():
            assert child.poll() is None, "the harvest ended before it could be killed"
            time.sleep(0.005)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert child.returncode == -signal.SIGKILL
    assert not ActivationStore.open(out).manifest.complete
    harvest(out)
    assert contents(out) == contents(whole.path)


def test_a_full_disk_is_one_line_and_costs_only_the_group_at_hand(whole, tmp_path, monkeypatch):
    out, fsync, n_done = tmp_path / "s", os.fsync, 0

    def full(handle):
        nonlocal n_done
        n_done += 1
        if n_done > 25:
            raise OSError(errno.ENOSPC, "No space left on device")
        return fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(OutputError, match="the disk is full") as caught:
            harvest(out)
    assert caught.value.exit_code == 2
    kept = ActivationStore.open(out)
    assert kept.n_tokens() > 0
    for shard in kept.shards():
        kept.read(shard)
    harvest(out)
    assert contents(out) == contents(whole.path)


def test_orphans_of_an_abandoned_harvest_are_not_left_in_another(tmp_path):
    """Killed before its first manifest entry, the folder may be used for something else."""
    out = tmp_path / "s"
    with pytest.raises(ConnectionError):
        harvest(out, fail_after=0)
    (out / "shard-00007.safetensors").write_bytes(b"left behind")
    (out / "notes.txt").write_text("mine")
    store = harvest(out, n_tokens=20)
    assert not (out / "shard-00007.safetensors").exists()
    assert (out / "notes.txt").read_text() == "mine"
    assert store.n_tokens() >= 20


def read_everything(path):
    store = ActivationStore.open(path)
    for shard in store.shards():
        store.read(shard)
    return list(store.documents())


@pytest.mark.parametrize("name", ["shard-00002.safetensors", "docs-00002.parquet"])
@pytest.mark.parametrize("keep", [0, 1, 0.5, -1])
def test_a_file_cut_short_is_named_on_opening(copy, name, keep):
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[: int(keep * len(data)) if keep == 0.5 else keep])
    with pytest.raises(FormatError, match=f"{name} in .* its size is wrong"):
        ActivationStore.open(copy)


@pytest.mark.parametrize("name", ["shard-00002.safetensors", "docs-00002.parquet"])
def test_a_missing_file_is_named_on_opening(copy, name):
    (copy / name).unlink()
    with pytest.raises(FormatError, match=f"{name} is missing"):
        ActivationStore.open(copy)


@pytest.mark.parametrize("name", ["shard-00002.safetensors", "docs-00002.parquet"])
@pytest.mark.parametrize("place", [0, 40, 0.5, -1])
def test_a_flipped_byte_is_named_when_the_file_is_read(copy, name, place):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2 if place == 0.5 else place] ^= 1
    (copy / name).write_bytes(data)
    store = ActivationStore.open(copy)
    with pytest.raises(FormatError, match=f"{name} in .* does not match its SHA-256"):
        read_everything(copy)
    if name.startswith("shard"):
        split = store.manifest.shards[2].split
        with pytest.raises(FormatError, match=name):
            list(store.batches(split, 10))


def test_a_flipped_byte_stops_the_stream(copy):
    store = ActivationStore.open(copy)
    name = store.shards("train")[-1].file
    data = bytearray((copy / name).read_bytes())
    data[-9] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(FormatError, match=name):
        next(store.stream(10, seed=0))


def test_a_file_that_vanishes_while_the_store_is_open_is_named(copy):
    store = ActivationStore.open(copy)
    (copy / "shard-00000.safetensors").unlink()
    with pytest.raises(FormatError, match=r"shard-00000\.safetensors is missing"):
        store.read(store.shards()[0])


def enter_again(copy, number):
    """Make the manifest vouch for a shard file as it now is."""
    store = ActivationStore(*_opened(copy))
    shards = list(store.manifest.shards)
    file = copy / shards[number].file
    changes = {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
    shards[number] = shards[number].model_copy(update=changes)
    store.manifest.model_copy(update={"shards": shards}).write(store._folder)


def _opened(copy):
    from monoscope.data.folder import Folder

    folder = Folder(copy)
    return folder, read_manifest(folder)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("row", [0, 5, -1])
def test_nan_or_inf_in_a_shard_names_file_and_row(copy, bad, row):
    name = "shard-00002.safetensors"
    tensors = {k: v.clone() for k, v in load_file(copy / name).items()}
    tensors["acts"][row, 3] = bad
    save_file(tensors, copy / name)
    enter_again(copy, 2)
    store = ActivationStore.open(copy)
    number = row % len(tensors["acts"])
    place = f"document {int(tensors['doc'][row])}, token {int(tensors['pos'][row])}"
    with pytest.raises(DataError, match=rf"shard-00002\.safetensors .* row {number}: got {place}"):
        store.read(store.shards()[2])


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("acts", lambda t: t[:, :4].contiguous(), r"the acts .* 4\] torch.float32"),
        ("acts", lambda t: t.half(), "the acts .* torch.float16"),
        ("pos", lambda t: t.long(), "the pos .* torch.int64; expected .* torch.int32"),
        ("doc", lambda t: t[1:].clone(), "the doc"),
        ("token_ids", None, "the token_ids of its manifest: got nothing"),
    ],
)
def test_a_shard_with_other_tensors_than_promised_is_named(copy, key, change, message):
    name = "shard-00001.safetensors"
    tensors = {k: v.clone() for k, v in load_file(copy / name).items()}
    tensor = tensors.pop(key)
    if change is not None:
        tensors[key] = change(tensor)
    save_file(tensors, copy / name)
    enter_again(copy, 1)
    store = ActivationStore.open(copy)
    with pytest.raises(FormatError, match=f"{name} does not hold {message}"):
        store.read(store.shards()[1])


def test_resuming_over_a_damaged_shard_refuses(tmp_path):
    out = tmp_path / "s"
    with pytest.raises(ConnectionError):
        harvest(out, fail_after=9)
    data = (out / "shard-00000.safetensors").read_bytes()
    (out / "shard-00000.safetensors").write_bytes(data[:-1])
    with pytest.raises(FormatError, match=r"shard-00000\.safetensors"):
        harvest(out)


def test_the_tables_open_in_any_reader(whole):
    table = pq.read_table(whole.path / "docs-00000.parquet")
    assert table.column_names == ["doc", "split", "text", "token_ids", "ends", "meta"]
    assert torch.tensor(table["token_ids"][0].as_py()).dtype == torch.int64
