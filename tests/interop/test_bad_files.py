"""Every way in which a foreign file can be wrong ends in one clear line, and runs nothing."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import monoscope as ms
from monoscope.errors import ConfigError, FormatError, ModelError

sys.path.insert(0, str(Path(__file__).parent))
import foreign as f


def refusal(path, kind=FormatError, **how) -> str:
    with pytest.raises(kind) as caught:
        ms.load_sae(path, **how)
    line = str(caught.value)
    assert "\n" not in line
    return line


def change(folder: Path, name: str, value: torch.Tensor | None) -> Path:
    """The SAELens folder with one weight replaced, or left out."""
    tensors = f.lens_tensors("standard")
    tensors = {n: t for n, t in tensors.items() if n != name}
    f.put(folder, "sae_weights.safetensors", tensors | ({} if value is None else {name: value}))
    return folder


def test_swapped_orientation_is_told_by_the_config(tmp_path):
    w = f.numbers()
    folder = change(f.write_saelens(tmp_path), "W_enc", w["W_enc"])
    assert "W_enc" in refusal(folder) and "transposed" in refusal(folder)
    f.write_saelens(tmp_path)
    assert "W_dec" in refusal(change(folder, "W_dec", w["W_dec"].T))


def test_swapped_orientation_is_told_by_the_biases_where_there_is_no_config(tmp_path):
    folder = f.write_gemma(tmp_path / "gemma")
    arrays = dict(np.load(folder / "params.npz"))
    np.savez(folder / "params.npz", **(arrays | {"W_enc": arrays["W_enc"].T}))
    line = refusal(folder)
    assert "W_enc" in line and "transposed" in line and "told by its biases" in line
    np.savez(folder / "params.npz", **(arrays | {"b_enc": arrays["b_enc"][:-1]}))
    assert "b_enc" in refusal(folder) and "does not fit" in refusal(folder)
    path = f.write_openai(tmp_path / "openai")
    state = torch.load(path, weights_only=True)
    torch.save(state | {"encoder.weight": state["encoder.weight"].T.contiguous()}, path)
    line = refusal(path)
    assert "encoder.weight" in line and "transposed" in line


@pytest.mark.parametrize("name", ["W_enc", "W_dec", "b_enc", "b_dec"])
def test_a_missing_weight_is_named(tmp_path, name):
    line = refusal(change(f.write_saelens(tmp_path), name, None))
    assert f"{name} is missing" in line


def test_wrong_dtypes_and_values(tmp_path):
    folder = f.write_saelens(tmp_path)
    line = refusal(change(folder, "b_enc", torch.zeros(f.L, dtype=torch.int64)))
    assert "wrong dtype" in line and "int64" in line
    assert "NaN" in refusal(change(folder, "b_enc", torch.full((f.L,), float("nan"))))
    assert "does not fit" in refusal(change(folder, "b_enc", torch.zeros(f.L + 1)))


def test_weights_that_nobody_knows_are_not_ignored(tmp_path):
    line = refusal(change(f.write_saelens(tmp_path), "W_skip", torch.zeros(f.D, f.D)))
    assert "W_skip" in line


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("case", ["saelens", "sparsify", "dictionary", "gemma", "openai"])
def test_a_file_cut_short(tmp_path, case, share):
    place, name = {
        "saelens": (f.write_saelens, "sae_weights.safetensors"),
        "sparsify": (f.write_sparsify, "sae.safetensors"),
        "dictionary": (f.write_dictionary, "ae.pt"),
        "gemma": (f.write_gemma, "params.npz"),
        "openai": (f.write_openai, ""),
    }[case]
    folder = place(tmp_path)
    path = folder / name if name else folder
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert str(path) in refusal(folder)


def test_one_of_two_files_alone(tmp_path):
    folder = f.write_saelens(tmp_path)
    (folder / "cfg.json").unlink()
    assert "cfg.json is missing" in refusal(folder)
    other = f.write_dictionary(tmp_path / "other")
    (other / "config.json").write_text("{")
    assert "cannot read" in refusal(other)


class Trap:
    """Pickles as code that leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("case", ["dictionary", "openai", "whole file"])
def test_pickled_code_is_refused_and_not_run(tmp_path, case):
    mark = tmp_path / "ran"
    if case == "openai":
        path = f.write_openai(tmp_path)
        torch.save({"encoder.weight": Trap(mark)}, path)
    else:
        path = f.write_dictionary(tmp_path)
        if case == "dictionary":
            torch.save({"encoder.weight": Trap(mark)}, path / "ae.pt")
        else:
            (path / "ae.pt").write_bytes(pickle.dumps(Trap(mark)))
    line = refusal(path)
    assert "pickled code" in line or "cannot read" in line
    assert "weights_only" not in line  # torch's advice is how to run it all the same
    if case != "whole file":
        assert "mkdir" in line
    assert not mark.exists()


def test_pickled_arrays_are_refused_and_not_run(tmp_path):
    mark = tmp_path / "ran"
    folder = f.write_gemma(tmp_path)
    arrays = dict(np.load(folder / "params.npz"))
    trap = np.array([Trap(mark)], dtype=object)
    np.savez(folder / "params.npz", **(arrays | {"b_enc": trap}))
    assert "pickled objects" in refusal(folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda p: f.write_saelens(p, "temporal"), "temporal"),
        (lambda p: f.write_saelens(p, "transcoder"), "transcoder"),
        (lambda p: f.write_saelens(p, "skip_transcoder"), "skip_transcoder"),
        (lambda p: f.write_saelens(p, "matching_pursuit"), "matching_pursuit"),
        (lambda p: f.write_saelens(p, normalize_activations="covariance_whitening"), "whitening"),
        (lambda p: f.write_sparsify(p, transcode=True), "transcoder"),
        (lambda p: f.write_sparsify(p, skip_connection=True), "skip connection"),
        (lambda p: f.write_sparsify(p, activation="groupmax"), "groupmax"),
        (lambda p: f.write_dictionary(p, "CrossCoder"), "CrossCoder"),
        (lambda p: f.write_dictionary(p, k=torch.tensor(9)), "disagree on k"),
        (lambda p: f.write_openmoss(p, hook_point_out="blocks.8.hook_mlp_out"), "transcoder"),
        (lambda p: f.write_openmoss(p, act_fn="batchtopk"), "batchtopk"),
        (lambda p: f.write_openmoss(p, use_glu_encoder=True), "GLU"),
    ],
)
def test_what_is_no_sae_of_ours_says_what_it_is(tmp_path, write, said):
    assert said in refusal(write(tmp_path))


def test_a_folder_above_saes_lists_them(tmp_path):
    f.write_sparsify(tmp_path)
    assert "layers.2.mlp" in refusal(tmp_path)


def test_names_that_are_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "is not an SAE folder" in refusal(tmp_path / "nowhere")
    assert "is not an SAE folder" in refusal("runs")
    line = refusal("owner/name", ModelError)
    assert "HF_HUB_OFFLINE" in line and "owner/name" in line
    (tmp_path / "owner").mkdir()  # now it is a mistyped path
    assert "is not an SAE folder" in refusal("owner/name")
    folder = f.write_saelens(tmp_path / "sae")
    line = refusal(folder, ConfigError, form="saelense")
    assert "Did you mean saelens" in line


def test_a_hub_download_of_before_needs_no_network(tmp_path, monkeypatch):
    """The cache of the hub's own client: a snapshot folder per commit, and a ref that names it."""
    from huggingface_hub import constants

    home = tmp_path / "hub" / "models--owner--saes"
    commit = "0" * 40
    f.write_sparsify(home / "snapshots" / commit / "a")
    f.write_sparsify(home / "snapshots" / commit / "b")
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    sae = ms.load_sae("owner/saes/a/layers.2.mlp")
    assert sae.provenance["site"] == "mlp_out.2"
    line = refusal("owner/saes", ModelError)
    assert "holds 2 SAEs" in line and "b/layers.2.mlp" in line
    assert "has no c" in refusal("owner/saes/c", ModelError)
