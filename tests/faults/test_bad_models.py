"""Models that are missing, damaged, foreign or unsafe: one clear line each, nothing run."""

from __future__ import annotations

import json
import pickle
import shutil
import socket
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from monoscope.errors import ConfigError, ModelError, MonoscopeError, OutputError
from monoscope.lm import load_lm
from monoscope.lm.load import cpu_multiplies_bfloat16


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole, tiny Llama on disk."""
    folder = tmp_path_factory.mktemp("model")
    config = transformers.LlamaConfig(
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=257,
        max_position_embeddings=32,
        eos_token_id=256,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    vocabulary = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(vocabulary | {"<eos>": 256}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    hf = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>")
    hf.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to be damaged, away from the network and from the user's cache."""
    monkeypatch.setenv("MONOSCOPE_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(original, tmp_path / "model"))


def refusal(name: object, **settings: Any) -> str:
    """The one line with which load_lm refuses."""
    with pytest.raises(ModelError) as caught:
        load_lm(str(name), **settings)
    line = str(caught.value)
    print(line)
    assert "\n" not in line and len(line) < 700 and caught.value.exit_code == 2
    return line


def test_a_whole_model_loads_and_knows_itself(folder: Path, capfd: pytest.CaptureFixture) -> None:
    lm = load_lm(folder, dtype="float32")
    ids = torch.tensor([[1, 2, 3]])
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    capfd.readouterr()
    with torch.no_grad():
        assert torch.equal(lm.logits(ids, torch.ones_like(ids).bool()), model(ids).logits)
    again = load_lm(str(folder), dtype="float32")
    assert again.identity == lm.identity and lm.identity["model"] == str(folder)
    assert (lm.n_layers, lm.d_model, lm.vocab_size, lm.context_length) == (2, 8, 257, 32)
    assert not lm.model.training and not any(p.requires_grad for p in lm.model.parameters())
    assert capfd.readouterr() == ("", "")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_lm(folder).identity["weights"] != lm.identity["weights"]


def test_dtypes(folder: Path) -> None:
    fast = torch.bfloat16 if cpu_multiplies_bfloat16() else torch.float32
    assert load_lm(folder, device="cpu").dtype == fast
    assert load_lm(folder, dtype="bfloat16").dtype == torch.bfloat16
    assert load_lm(folder, dtype=torch.float32).dtype == torch.float32
    with pytest.raises(ConfigError, match="unknown dtype: got 'int4'; expected auto, float32"):
        load_lm(folder, dtype="int4")
    with pytest.raises(ConfigError, match="no such device"):
        load_lm(folder, device="abacus")


@pytest.mark.parametrize(
    "name", ["/no/such/model", "./nowhere", "missing.gguf", "a/b/c", "~/x/", ""]
)
def test_a_path_that_does_not_exist(name: str) -> None:
    assert "no such model path" in refusal(name)


def test_a_hub_id_when_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    line = refusal("nobody/no-such-model-anywhere")
    assert "model not found: got 'nobody/no-such-model-anywhere'" in line
    assert str(tmp_path) in line and "HF_HUB_OFFLINE is set" in line


def test_a_hub_id_without_a_network(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    def unknown(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(urllib.request, "getproxies", dict)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    line = refusal("nobody/no-such-model-anywhere")
    assert "model not found" in line and "no network, huggingface.co does not resolve" in line
    assert capfd.readouterr().err == ""


def test_a_hub_model_downloaded_before(
    original: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    home = tmp_path / "models--me--mine"
    snapshot = shutil.copytree(original, home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(transformers.utils.hub, "TRANSFORMERS_CACHE", str(tmp_path), raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    identity = load_lm("me/mine").identity
    assert (identity["model"], identity["weights"]) == ("me/mine", commit)
    (snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin")
    line = refusal("me/mine")
    assert "no weights as safetensors" in line and "Pickle can run code" in line


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "m.pth"])
def test_weights_as_a_pickle_are_refused_unread(folder: Path, name: str) -> None:
    proof = folder / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return (Path.touch, (proof,))

    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    line = refusal(folder)
    assert "weights are a pickle" in line and name in line and "save_pretrained" in line
    assert "not a model" in refusal(folder / name) and "Pickle can run code" in refusal(
        folder / name
    )
    assert not proof.exists()


def test_a_pickle_beside_safetensors_is_never_opened(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    assert load_lm(folder).n_layers == 2


def test_a_folder_without_a_model(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "holds no weights" in refusal(folder)
    (folder / "config.json").unlink()
    assert "no config.json" in refusal(folder)
    (folder / "x.gguf").write_bytes(b"GGUF")
    assert "Name the GGUF file itself" in refusal(folder)
    (tmp_path / "notes.txt").write_text("hello")
    assert "not a model" in refusal(tmp_path / "notes.txt")


def test_weights_cut_short(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    line = refusal(folder)
    assert "cannot load the model" in line and str(folder) in line
    weights.write_bytes(b"")
    assert "cannot load the model" in refusal(folder)


def test_weights_that_lack_a_tensor_are_not_filled_with_noise(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    line = refusal(folder)
    assert "lack tensors" in line and "1 missing, such as model.layers.1.mlp.up_proj.weight" in line


def test_weights_of_another_shape(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(9)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    line = refusal(folder)
    assert "do not fit" in line and "1 of another shape, such as model.norm.weight" in line


def test_a_configuration_that_is_not_json(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama", ')
    assert "cannot load the model" in refusal(folder)


def test_a_model_without_its_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert "cannot load the model's tokenizer" in refusal(folder)


def test_a_model_of_no_known_kind(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "phlogiston"}))
    assert "phlogiston" in refusal(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    assert "cannot load the model" in refusal(folder)


def test_a_models_own_code_is_not_run_unless_asked_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "hf"))
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "homemade"
    config["auto_map"] = {
        "AutoConfig": "homemade.HomemadeConfig",
        "AutoModelForCausalLM": "homemade.HomemadeForCausalLM",
    }
    (folder / "config.json").write_text(json.dumps(config))
    proof = folder / "ran"
    (folder / "homemade.py").write_text(
        f"open({str(proof)!r}, 'w').close()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class HomemadeConfig(LlamaConfig):\n    model_type = 'homemade'\n"
        "class HomemadeForCausalLM(LlamaForCausalLM):\n    config_class = HomemadeConfig\n"
    )
    line = refusal(folder)
    assert "its own Python code" in line and "trust_remote_code=True" in line
    assert not proof.exists()
    trusted = load_lm(folder, trust_remote_code=True)
    assert proof.exists() and trusted.n_layers == 2
    for name in [name for name in sys.modules if "transformers_modules" in name]:
        del sys.modules[name]


def test_files_that_are_not_gguf(folder: Path, tmp_path: Path) -> None:
    fake = tmp_path / "model.gguf"
    fake.write_bytes(b"GIF89a, not a language model")
    assert "not a GGUF file" in refusal(fake)
    fake.write_bytes(b"GGUF" + b"\x03\0\0\0" + b"\xff" * 40)
    assert "cannot convert the GGUF file" in refusal(fake)
    assert not list((tmp_path / "cache").glob("gguf/*"))


def test_a_cache_that_cannot_be_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MONOSCOPE_CACHE", str(tmp_path / "file" / "cache"))
    assert load_lm(folder).n_layers == 2  # only the memory of the hash is lost
    fake = tmp_path / "model.gguf"
    fake.write_bytes(b"GGUF")
    with pytest.raises(OutputError, match="MONOSCOPE_CACHE"):
        load_lm(fake)


def test_every_refusal_is_one_of_ours(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(MonoscopeError):
        load_lm(folder)
