"""How texts were read in training, in SAELens's and SAEBench's settings; silence is named."""

from __future__ import annotations

import json

import pytest
import torch

import monoscope as ms
from monoscope.artifact.interop import InteropWarning
from monoscope.artifact.interop.export import export_sae
from monoscope.artifact.interop.reading import Reading, not_said, recorded_reading
from monoscope.data.harvest import collect
from monoscope.interop import export, saebench
from tests.unit.data.fake_lm import EOS, FakeLM, make_corpus

KNOWN = {
    "prefix_ids": [1], "context_length": 32, "corpus": {"kind": "hub", "name": "owner/texts"},
    "mask_policy": {"special_ids": [0, 1], "sink_ratio": 10.0, "max_norm": None},
}  # fmt: skip
HERE = {"site": "resid_post.2", "model": {"model": "gpt2"}}


def make(**origin: object) -> ms.SAE:
    sae = ms.SAE(ms.SAEConfig(d_in=5, d_sae=24, activation="topk", k=4), HERE | origin)
    with torch.no_grad():
        sae.W_enc.copy_(torch.randn(24, 5, generator=torch.Generator().manual_seed(0)))
    return sae


def test_all_that_is_recorded_is_written(tmp_path):
    export_sae(make(**KNOWN), tmp_path, "saelens")  # a warning would fail
    metadata = json.loads((tmp_path / "cfg.json").read_text())["metadata"]
    told = {k: metadata[k] for k in
            ("prepend_bos", "context_size", "exclude_special_tokens", "dataset_path")}  # fmt: skip
    assert told == {
        "prepend_bos": True, "context_size": 32, "exclude_special_tokens": [0, 1],
        "dataset_path": "owner/texts",
    }  # fmt: skip
    assert recorded_reading(KNOWN | {"prefix_ids": []}).prepend_bos is False


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prefix_ids": None}, "prepend_bos: not recorded"),
        ({"context_length": None}, "context_size: not recorded"),
        ({"mask_policy": None}, "exclude_special_tokens: not recorded"),
        ({"corpus": None}, "dataset_path: not recorded"),
        ({"corpus": {"kind": "demo"}}, "no dataset of the hub"),
        ({"prefix_ids": [1, 7]}, "prefix of 2 tokens"),
        ({"mask_policy": {"special_ids": [0], "max_norm": 7.5}}, r"longer than 7\.5"),
        ({"model": {"model": "demo"}}, "model_name demo: a name known here alone"),
        ({"model": {"model": "/models/gemma-2-2b"}}, "model_name /models/gemma-2-2b"),
    ],
)
def test_what_saelens_is_not_told_is_named(tmp_path, change, said):
    with pytest.warns(InteropWarning, match=said) as caught:
        export_sae(make(**(KNOWN | change)), tmp_path, "saelens")
    assert len(caught) == 1


def test_what_a_saelens_file_said_is_said_again(tmp_path):
    """In and out again: their words are kept where there are none of ours."""
    export_sae(make(**KNOWN), tmp_path / "a", "saelens")
    config = json.loads((tmp_path / "a" / "cfg.json").read_text())
    del config["metadata"]["monoscope"]
    config["metadata"] |= {"prepend_bos": False, "exclude_special_tokens": True}
    (tmp_path / "a" / "cfg.json").write_text(json.dumps(config))
    sae = ms.load_sae(tmp_path / "a")
    assert sae.provenance["context_length"] == 32
    assert recorded_reading(sae.provenance) == Reading(False, 32, True, "owner/texts")
    assert not not_said(sae.provenance, recorded_reading(sae.provenance))


def test_a_store_tells_what_the_sae_does_not(tmp_path):
    store = collect(
        FakeLM(), make_corpus(60), "embed", 600, tmp_path / "s", held_out=0.3, context_length=32
    )
    assert store.provenance()["prefix_ids"] == [1]
    sae = make(site="embed", model=None)
    assert store.d_in == sae.d_in
    ms.save_sae(sae, tmp_path / "sae")
    with pytest.warns(InteropWarning) as caught:
        export(tmp_path / "sae", tmp_path / "out", "saelens", store=store)
    metadata = json.loads((tmp_path / "out" / "cfg.json").read_text())["metadata"]
    assert (metadata["prepend_bos"], metadata["context_size"]) == (True, 32)
    assert EOS in metadata["exclude_special_tokens"]
    said = [str(w.message) for w in caught]
    assert any(line.startswith("dataset_path: not recorded") for line in said)  # not the store's
    run = ms.train(store, d_sae=16, k=3, n_tokens=500, batch_size=64, out=tmp_path / "trained")
    assert run.sae.provenance["prefix_ids"] == [1]


def test_saebench_is_told_what_is_recorded_and_nothing_else():
    for prefix, expected in (([1], True), ([], False), (None, None)):
        cfg = saebench(make(**(KNOWN | {"prefix_ids": prefix}))).cfg
        assert cfg.prepend_bos is expected
        assert (cfg.context_size, cfg.exclude_special_tokens) == (32, [0, 1])
