"""A run that is saved and brought back goes on bit for bit; a damaged checkpoint is refused."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from monoscope.errors import DataError, FormatError, OutputError
from monoscope.sae import SAE, SAEConfig
from monoscope.sae.config import WITH_K
from monoscope.sae.recipes import RECIPES
from monoscope.train import start
from monoscope.train import state as state_module
from monoscope.train.config import TrainConfig
from monoscope.train.source import TensorStream
from monoscope.train.state import TrainState, checkpoints, read_checkpoint, save_checkpoint
from monoscope.train.step import step

D, L, BATCH, STEPS, CUT = 8, 24, 32, 24, 9


pytestmark = pytest.mark.usefixtures("one_thread")


def _data() -> Tensor:
    return torch.randn(200, D, generator=torch.Generator().manual_seed(0)) * 3 + 1


def _config(name: str) -> tuple[SAEConfig, TrainConfig]:
    recipe, extra = RECIPES[name], {}
    if recipe.resample:
        extra["resample_every_tokens"] = 5 * BATCH
    if recipe.sparsity is not None:
        extra["target_l0"] = 3  # so that the controller has something to remember
    config = TrainConfig(
        n_tokens=BATCH * STEPS, recipe=name, batch_size=BATCH, lr=1e-2,
        dead_after_tokens=2 * BATCH, **extra,
    )  # fmt: skip
    d_sae = D - 2 if recipe.bottleneck else L
    shape = config.shape(D, d_sae, 3 if recipe.activation in WITH_K else None)
    return shape, config.resolved(shape)


def _begin(name: str, seed: int = 1) -> TrainState:
    shape, config = _config(name)
    sae = SAE(shape)
    inputs = start.inputs(_data(), config)
    generator = torch.Generator().manual_seed(seed)
    start.initialise(sae, inputs(_data()), RECIPES[name], config, generator)
    with torch.no_grad():
        sae.b_enc[:5] = -50.0  # dead from the start, so that auxk and resampling have work
    assert config.lr is not None
    return TrainState.fresh(sae, RECIPES[name], config.lr, inputs, seed)


def _go(name: str, state: TrainState, stream: TensorStream, steps: int) -> None:
    for _ in range(steps):
        step(state, RECIPES[name], _config(name)[1], next(stream))


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_resumed_run_is_the_uninterrupted_run(name: str, tmp_path: Path) -> None:
    whole, stream = _begin(name), TensorStream(_data(), BATCH, 7)
    _go(name, whole, stream, CUT)
    save_checkpoint(tmp_path, whole, stream.state_dict(), {"note": 1})
    _go(name, whole, stream, STEPS - CUT)

    about, tensors = read_checkpoint(checkpoints(tmp_path)[-1])
    resumed, again = _begin(name, seed=99), TensorStream(_data(), BATCH, 7)
    resumed.load_tensors(tensors)
    resumed.load_counters(about["counters"])
    again.load_state_dict(about["stream"])
    assert about["config"] == {"note": 1}
    _go(name, resumed, again, STEPS - CUT)

    assert resumed.counters() == whole.counters()
    expected, got = whole.tensors(), resumed.tensors()
    assert expected.keys() == got.keys()
    assert [k for k in expected if not torch.equal(expected[k], got[k])] == []


def test_only_the_newest_two_are_kept(tmp_path: Path) -> None:
    state, stream = _begin("topk"), TensorStream(_data(), BATCH, 7)
    for _ in range(4):
        _go("topk", state, stream, 1)
        save_checkpoint(tmp_path, state, stream.state_dict(), {})
    names = [p.name for p in checkpoints(tmp_path)]
    assert names == ["checkpoint-000000003", "checkpoint-000000004"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names


def _saved(folder: Path) -> Path:
    state, stream = _begin("topk"), TensorStream(_data(), BATCH, 7)
    _go("topk", state, stream, 1)
    save_checkpoint(folder, state, stream.state_dict(), {})
    return checkpoints(folder)[-1]


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = _saved(tmp_path) / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match="damaged"):
        read_checkpoint(path.parent)


@pytest.mark.parametrize("content", [b"", b'{"counters": {', b"{}", b"[]", b"\xff\xfe\x00"])
def test_a_spoilt_note_is_refused(content: bytes, tmp_path: Path) -> None:
    path = _saved(tmp_path)
    (path / "state.json").write_bytes(content)
    with pytest.raises(FormatError, match="checkpoint"):
        read_checkpoint(path)


def test_missing_and_cut_files_are_refused(tmp_path: Path) -> None:
    path = _saved(tmp_path)
    tensors = path / "state.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:100])
    with pytest.raises(FormatError, match="damaged"):
        read_checkpoint(path)
    tensors.unlink()
    with pytest.raises(FormatError, match="cannot be read"):
        read_checkpoint(path)
    with pytest.raises(FormatError, match="cannot be read"):
        read_checkpoint(tmp_path / "nowhere")


def test_the_note_is_plain_json(tmp_path: Path) -> None:
    about = json.loads((_saved(tmp_path) / "state.json").read_text())
    assert about["counters"]["step"] == 1 and about["counters"]["n_tokens"] == BATCH


def test_dead_counts_tokens_since_the_last_firing() -> None:
    state = _begin("topk")
    state.n_tokens = 100
    state.last_fired = torch.full((L,), 95)
    state.last_fired[[2, 7]] = torch.tensor([90, 0])
    assert state.dead(10).tolist() == [2, 7]
    assert state.dead(11).tolist() == [7]


def test_a_first_batch_with_nan_is_named() -> None:
    x = _data()[:BATCH].clone()
    x[11, 3] = float("nan")
    with pytest.raises(DataError, match="row 11"):
        step(_begin("topk"), RECIPES["topk"], _config("topk")[1], x)


def test_the_schedule_is_done_by_the_end_of_the_data() -> None:
    state = _begin("topk")
    assert state.goal(1000) == 1000
    assert [state.share(at, 1000) for at in (0, 250, 1000, 1010)] == [0, 0.25, 1, 1]
    state.cut_at, state.cut_end = 400, 600  # at 400 of 1000 it turns out that there are 600
    assert state.goal(1000) == 600
    got = [state.share(at, 1000) for at in (200, 400, 500, 600)]
    assert got == pytest.approx([0.2, 0.4, 0.7, 1.0])


def test_weights_that_are_not_finite_are_seen() -> None:
    state = _begin("topk")
    assert state.is_finite()
    with torch.no_grad():
        state.sae.W_dec[3, 2] = float("inf")
    assert not state.is_finite()


def test_a_full_disk_stops_with_the_checkpoint_before_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, state = _saved(tmp_path), _begin("topk")
    state.step = 2

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(state_module, "save_file", full)
    with pytest.raises(OutputError, match="disk is full"):
        save_checkpoint(tmp_path, state, {}, {})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    read_checkpoint(path)
