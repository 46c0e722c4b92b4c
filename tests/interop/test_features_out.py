"""An atlas as Neuronpedia and SAEDashboard take it, against the atlas's own pages."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

import monoscope as ms
from monoscope.errors import MismatchError
from monoscope.features.explain.table import save
from monoscope.features.index import index
from monoscope.interop import export
from monoscope.interop.neuronpedia import bars
from tests.unit.features.atlas_world import FakeLM, make_store

D, L, K = 12, 150, 5  # more than one batch of 128


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    g = torch.Generator().manual_seed(0)
    sae = ms.SAE(
        ms.SAEConfig(d_in=D, d_sae=L, activation="topk", k=K),
        {"site": "resid_post.1", "model": {"model": "made-up"}},
    )
    with torch.no_grad():
        sae.W_enc.copy_(torch.randn(L, D, generator=g))
        sae.W_dec.copy_(sae.W_enc / sae.W_enc.norm(dim=1, keepdim=True))
        sae.W_enc[3] = 0  # never fires
    ms.save_sae(sae, folder / "sae")
    atlas = index(sae, make_store(), FakeLM(D), folder / "atlas")
    atlas.annotate(7, 'a "human" <b>label</b>')
    told = {"model": "some-llm", "detection_auc": 0.9, "n_excerpts": 3, "n_failed": 0}
    told |= {"evidence": "{}"}
    save(
        atlas,
        [told | {"latent": i, "explanation": "what a model said"} for i in (7, 9)],
        floor=0.6,
    )
    return folder, sae, atlas


@pytest.fixture(scope="module")
def neuronpedia(world):
    folder, _, atlas = world
    out = folder / "made-up-res"
    return out, export(folder / "sae", out, "neuronpedia", atlas=atlas)


def lines(path):
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def test_upload_batches(world, neuronpedia):
    _, _, atlas = world
    out, told = neuronpedia
    batches = [json.loads((out / "upload" / f"batch-{i}.json").read_text()) for i in (0, 1)]
    features = [f for b in batches for f in b["features"]]
    assert told["n_batches"] == 2 and max(len(b["features"]) for b in batches) == 128
    assert {b["source"] for b in batches} == {"1-made-up-res"}
    assert [f["index"] for f in features] == [i for i in range(L) if atlas.feature(i).n_active]
    for mine in (features[0], features[-1], next(f for f in features if f["index"] == 7)):
        page = atlas.feature(mine["index"])
        assert mine["density"] == page.density
        assert [t["token"] for t in mine["topLogits"]] == page.top_tokens
        assert len(mine["activations"]) == len(page.examples)
        for got, example in zip(mine["activations"], page.examples, strict=True):
            assert got["tokens"] == example.pieces
            assert got["values"] == pytest.approx(example.values, abs=1e-4)
            if example.kind == "top":
                assert got["quantileMax"] is None
            else:
                assert got["quantileMin"] * 0.999 <= example.value <= got["quantileMax"] * 1.001
    human = next(f for f in features if f["index"] == 7)["explanations"][0]
    assert human == {
        "text": 'a "human" <b>label</b>', "methodName": "monoscope-human", "modelName": None,
    }  # fmt: skip
    model = next(f for f in features if f["index"] == 9)["explanations"][0]
    assert model == {
        "text": "what a model said", "methodName": "monoscope-llm", "modelName": "some-llm",
    }  # fmt: skip


def test_bulk_lines(world, neuronpedia):
    _, sae, atlas = world
    out, told = neuronpedia
    source = json.loads((out / "source.jsonl").read_text())
    assert (source["id"], source["setName"]) == ("1-made-up-res", "made-up-res")
    features = lines(out / "features" / "batch-0.jsonl.gz")
    first = features[0]
    assert first["vector"] == sae.W_dec[int(first["index"])].tolist()
    assert first["hookName"] == "blocks.1.hook_resid_post"
    page = atlas.feature(int(first["index"]))
    assert first["maxActApprox"] == page.max
    assert sum(first["freq_hist_data_bar_heights"]) == page.n_active
    rows = [row for i in (0, 1) for row in lines(out / "activations" / f"batch-{i}.jsonl.gz")]
    assert len(rows) == told["n_activations"] == len({row["id"] for row in rows})
    for row in rows[:50]:
        assert row["maxValue"] == max(row["values"]) == row["values"][row["maxValueTokenIndex"]]
    said = lines(out / "explanations" / "batch-0.jsonl.gz")
    assert len(said) == told["n_explanations"] == 2
    assert {row["index"]: row["explanationModelName"] for row in said} == {
        "7": None, "9": "some-llm",
    }  # fmt: skip
    assert source["num_tokens_in_prompt"] is None


def test_all_that_is_empty_or_another_thing_is_named(world, neuronpedia, tmp_path):
    """What the format asks and we have not is in `lost`; the window is not, once it is known."""
    folder, sae, atlas = world
    n_silent = L - atlas.n_alive
    assert n_silent > 0
    dash = export(folder / "sae", tmp_path / "d", "saedashboard", atlas=atlas)["lost"]
    ours = neuronpedia[1]["lost"]
    for lost, names in (
        (ours, ("creatorId", "quantileFraction", "binContains", "scores of labels",
                "num_tokens_in_prompt", f"{n_silent} latents that never fired")),
        (dash, ("correlated_neurons", "logits_hist_data", "labels", "correlated_features_pearson",
                "correlated_features_l1", "bin_contains", "decoder_weights_dist",
                "n_tokens_in_prompt", f"{n_silent} latents that never fired")),
    ):  # fmt: skip
        assert all(any(name in line for line in lost) for name in names)
    known = ms.SAE(sae.config, sae.provenance | {"context_length": 24})
    known.load_state_dict(sae.state_dict())
    ms.save_sae(known, tmp_path / "sae")
    for to, file, name in (
        ("saedashboard", "batch-0.json", "n_tokens_in_prompt"),
        ("neuronpedia", "source.jsonl", "num_tokens_in_prompt"),
    ):
        told = export(tmp_path / "sae", tmp_path / to, to, atlas=atlas)
        made = json.loads((tmp_path / to / file).read_text())
        assert (made["features"][0] if to == "saedashboard" else made)[name] == 24
        assert not any(name in line for line in told["lost"])


def test_saedashboard_batches(world):
    folder, sae, atlas = world
    told = export(folder / "sae", folder / "dash", "saedashboard", atlas=atlas)
    batch = json.loads((folder / "dash" / "batch-0.json").read_text())
    assert (batch["model_id"], batch["layer"], batch["sae_set"]) == ("made-up", 1, "dash")
    feature = batch["features"][5]
    latent = feature["feature_index"]
    page, row = atlas.feature(latent), sae.W_dec[latent].detach()
    assert feature["frac_nonzero"] == page.density
    best = int(row.abs().argmax())
    assert feature["neuron_alignment_indices"][0] == best
    assert feature["neuron_alignment_values"][0] == pytest.approx(float(row[best]), abs=1e-3)
    pairs = [n for n in page.neighbours if n.kind == "coactivation"]
    assert feature["correlated_features_indices"] == [n.other for n in pairs]
    tops = [a for a in feature["activations"] if a["bin_min"] == -1]
    assert [a["tokens"] for a in tops] == [e.pieces for e in page.top]
    assert told["n_features"] == atlas.n_alive


def test_the_atlas_of_another_sae_is_refused(world):
    folder, sae, atlas = world
    other = ms.SAE(sae.config, sae.provenance)
    ms.save_sae(other, folder / "other")
    with pytest.raises(MismatchError, match="another SAE"):
        export(folder / "other", folder / "np", "neuronpedia", atlas=atlas)


def test_histograms_keep_their_counts():
    values, heights = bars([0, 2, 0, 5, 0], [1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    assert heights == [2, 0, 5]
    assert values == pytest.approx([2 * 2**0.5, 4 * 2**0.5, 8 * 2**0.5], rel=1e-5)
    assert bars([0, 0], [1.0, 2.0, 4.0]) == ([], [])
