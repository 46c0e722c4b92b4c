"""Files that go between monoscope and the other libraries' own packages, each in its environment.

A peer writes and says what it computes; we must compute the same. We write; the peer must load it
and compute the same; what it saves again must come back to us bit for bit.
"""

from __future__ import annotations

import json
import os
import subprocess
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import monoscope as ms
from monoscope.artifact.interop import InteropWarning
from monoscope.artifact.interop.export import export_sae
from monoscope.features.atlas import Atlas
from monoscope.features.index import index
from monoscope.interop import export
from monoscope.sae import SAE, SAEConfig
from tests.unit.features.atlas_world import FakeLM, make_store

pytestmark = pytest.mark.peers
ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent / "peers"
TOLERANCE = 1e-5  # of the largest magnitude

LENS = (
    "saelens-standard", "saelens-standard-uncentred", "saelens-topk", "saelens-topk-bf16",
    "saelens-topk-rescaled", "saelens-abstopk", "saelens-jumprelu", "saelens-jumprelu-uncentred",
    "saelens-gated", "saelens-gated-uncentred", "saelens-standard-layer_norm",
    "saelens-topk-constant_norm", "saelens-batchtopk",
    "saelens-checkpoint-batchtopk", "saelens-checkpoint-matryoshka", "saelens-legacy",
    "saelens-legacy-topk",
    "gemma_scope", "openmoss-llama_scope", "sparsify", "sparsify-num_latents-0",
    "dictionary_learning-AutoEncoder", "dictionary_learning-AutoEncoderNew",
    "dictionary_learning-AutoEncoderTopK", "dictionary_learning-BatchTopKSAE",
    "dictionary_learning-MatryoshkaBatchTopKSAE", "dictionary_learning-JumpReluAutoEncoder",
    "dictionary_learning-GatedAutoEncoder",
)  # fmt: skip
OPENMOSS = (
    "openmoss-relu", "openmoss-jumprelu", "openmoss-jumprelu-norms",
    "openmoss-jumprelu-inference", "openmoss-topk", "openmoss-topk-norms",
    "openmoss-topk-token-wise",
)  # fmt: skip


def peer(name: str, *args: object, script: str | None = None) -> str:
    """Run a script of peers/ in the environment `name`; its errors are the test's."""
    python = ROOT / f".venv-peers-{name}" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no {python.parents[1].name}: run make test-peers")
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    run = subprocess.run(
        [python, HERE / f"{script or name}.py", *map(str, args)],
        capture_output=True, text=True, env=env,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and float((a - b).abs().max() / b.abs().max()) <= TOLERANCE


def load(path: Path) -> tuple[SAE, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InteropWarning)
        return ms.load_sae(path), [str(w.message) for w in caught]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What SAELens, sparsify, dictionary_learning and OpenMOSS write."""
    folder = tmp_path_factory.mktemp("written")
    peer("lens", "write", folder)
    peer("openmoss", "write", folder)
    return folder


def place(folder: Path, case: str) -> Path:
    if case.startswith("sparsify"):
        return folder / case / "layers.3"
    return next((folder / case).rglob("params.npz")) if case == "gemma_scope" else folder / case


def as_theirs(dense: torch.Tensor, sae: SAE, case: str) -> torch.Tensor:
    """Our codes in the peer's terms, where a warning said that they differ."""
    n = {"rms": 1, "layer_norm": 3}.get(sae.config.normalisation, 0)
    if n:  # f times the token's size, which the first carrier holds
        return dense[:, :-n] / dense[:, -n, None]
    if case == "saelens-abstopk":
        plus, minus = dense.chunk(2, dim=1)
        return plus - minus
    if case == "openmoss-topk-norms":
        cfg = load_file(case_weights(sae))
        return dense / cfg["W_D"].norm(dim=1)
    return dense


def case_weights(sae: SAE) -> Path:
    return Path(sae.provenance["test_folder"]) / "sae_weights.safetensors"


@pytest.mark.parametrize("case", [*LENS, *OPENMOSS])
def test_what_a_peer_writes_computes_the_same_here(written, case):
    truth = load_file(written / f"{case}.safetensors")
    sae, lost = load(place(written, case))
    sae.provenance["test_folder"] = str(written / case)
    codes = sae.encode(truth["x"])
    assert close(as_theirs(codes.to_dense(), sae, case), truth["codes"])
    assert close(sae.decode(codes), truth["x_hat"])
    expected = ("layer_norm", "constant_norm", "abstopk", "topk-norms", "token-wise")
    assert bool(lost) == any(word in case for word in expected), lost


@pytest.mark.parametrize(
    ("case", "site", "model"),
    [
        ("saelens-topk", "resid_post.5", "gpt2"),
        ("saelens-legacy", "resid_pre.5", "gpt2"),
        ("sparsify", "resid_post.3", None),
        ("dictionary_learning-BatchTopKSAE", "resid_post.5", "EleutherAI/pythia-70m-deduped"),
        ("gemma_scope", "resid_post.20", "google/gemma-2-2b"),
        ("openmoss-llama_scope", "resid_post.7", None),
        ("openmoss-relu", "resid_post.7", None),
    ],
)
def test_where_it_was_trained_comes_along(written, case, site, model):
    sae, _ = load(place(written, case))
    assert sae.provenance.get("site") == site
    assert (sae.provenance.get("model") or {}).get("model") == model


def own(activation: str, *, unit: bool = True) -> SAE:
    """An SAE of ours with random weights and a provenance."""
    g = torch.Generator().manual_seed(11)
    config = SAEConfig(
        d_in=12, d_sae=40, activation=activation, k=5 if "topk" in activation else None
    )
    sae = SAE(config, {"site": "resid_post.3", "model": {"model": "gpt2"}, "recipe": activation})
    with torch.no_grad():
        for name, value in sae.named_parameters():
            value.copy_(torch.randn(value.shape, generator=g) * (0.3 if value.ndim == 1 else 1))
            if name == "threshold":
                value.abs_()
        if unit:
            sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True))
        if activation == "batchtopk":
            sae.threshold.fill_(0.75)
    return sae.eval()


EXPORTS = [
    ("saelens", "relu"), ("saelens", "topk"), ("saelens", "batchtopk"), ("saelens", "jumprelu"),
    ("saelens", "gated"), ("sparsify", "topk"), ("dictionary_learning", "relu"),
    ("dictionary_learning", "topk"), ("dictionary_learning", "batchtopk"),
    ("dictionary_learning", "jumprelu"), ("dictionary_learning", "gated"),
]  # fmt: skip


@pytest.fixture(scope="module")
def read_back(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every export of ours as the peer loads it, with what it computes and saves again."""
    folder = tmp_path_factory.mktemp("read")
    x = torch.randn(200, 12, generator=torch.Generator().manual_seed(5)) * 2
    save_file({"x": x}, folder / "x.safetensors")
    jobs = []
    for to, activation in EXPORTS:
        home = folder / f"{to}-{activation}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InteropWarning)
            export_sae(own(activation), home / "layers.3", to, x)
        jobs.append(
            {
                "folder": str(home / "layers.3"),
                "x": str(folder / "x.safetensors"),
                "out": str(home / "answer.safetensors"),
                "again": str(home / "again" / "layers.3"),
            }
        )
    (folder / "jobs.json").write_text(json.dumps(jobs))
    peer("lens", "read", folder / "jobs.json")
    return folder


@pytest.mark.parametrize(("to", "activation"), EXPORTS)
def test_what_we_write_computes_the_same_there(read_back, to, activation):
    sae, answer = own(activation), load_file(read_back / f"{to}-{activation}/answer.safetensors")
    codes = sae.encode(answer["x"])
    assert float(codes.l0.float().mean()) > 1
    assert close(answer["codes"], codes.to_dense())
    assert close(answer["x_hat"], sae.decode(codes))


@pytest.mark.parametrize(("to", "activation"), EXPORTS)
def test_what_they_save_again_comes_back_bit_for_bit(read_back, to, activation):
    sae, home = own(activation), read_back / f"{to}-{activation}"
    for name in ("layers.3", "again/layers.3"):
        back, _ = load(home / name)
        assert back.config == sae.config
        mine, theirs = sae.state_dict(), back.state_dict()
        for leaf in mine:
            if (to, activation, leaf) == ("dictionary_learning", "jumprelu", "b_enc"):
                # its encoder sees x, not x − b_dec: W_enc b_dec is folded in and out in fp64
                torch.testing.assert_close(theirs[leaf], mine[leaf], rtol=0, atol=1e-6)
            else:
                assert torch.equal(theirs[leaf], mine[leaf]), leaf
        assert back.provenance["site"] == "resid_post.3"
    if to == "saelens":  # the one format with room for it
        assert load(home / "again/layers.3")[0].provenance["recipe"] == activation


@pytest.mark.parametrize(("prefix", "first"), [([1], 1), ([], 5)])
def test_saelens_makes_its_activation_store_from_our_export(tmp_path, prefix, first):
    """It takes hook, window and BOS from the file, and its rows begin as ours did in training."""
    sae = own("topk")
    sae.provenance |= {
        "prefix_ids": prefix, "context_length": 24, "corpus": {"kind": "hub", "name": "a/b"},
        "mask_policy": {"special_ids": [0, 1], "sink_ratio": 10.0, "max_norm": None},
    }  # fmt: skip
    export_sae(sae, tmp_path, "saelens")
    told = json.loads(peer("lens", tmp_path, script="lens_store"))
    assert told == {
        "prepend_bos": bool(prefix), "hook_name": "blocks.3.hook_resid_post", "shape": [4, 24],
        "first": [first] * 4, "exclude_special_tokens": [0, 1], "dataset_path": "a/b",
    }  # fmt: skip


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Atlas]:
    """An SAE and its atlas of a made-up world."""
    folder = tmp_path_factory.mktemp("atlas")
    sae = own("topk")
    sae.provenance = {"site": "resid_post.1"}
    ms.save_sae(sae, folder / "sae")
    made = index(sae, make_store(d_in=12), FakeLM(12), folder / "atlas")
    made.annotate(4, "a label")
    return folder, made


def test_saedashboards_classes_take_our_batches(atlas):
    folder, made = atlas
    export(folder / "sae", folder / "dash", "saedashboard", atlas=made)
    assert "ok" in peer("dash", "check", folder / "dash")


def test_neuronpedias_client_would_send_our_batches(atlas):
    folder, made = atlas
    export(folder / "sae", folder / "np", "neuronpedia", atlas=made)
    assert "ok" in peer("lens", "check", folder / "np", script="neuronpedia_client")
