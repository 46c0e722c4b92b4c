"""The suite as a whole: slices, pooling, SAEBench's keys, the cache, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from monoscope.artifact.checks import weights_hash
from monoscope.errors import ConfigError, FormatError, MismatchError
from monoscope.evals import (
    corpus_probes,
    downstream,
    features,
    label_scores,
    saebench,
    slices,
    splice,
    suite,
)
from monoscope.evals.cache import Cache
from monoscope.evals.material import Material, Sizes
from monoscope.sae import SAE, SAEConfig
from monoscope.sites import Site

SIZES = Sizes(splice_tokens=60, slice_tokens=None, dead_tokens=50, corpus_docs=30)
# SAEBench 0.6.0, evals/core/eval_output_schema_core.json
SAEBENCH = {
    "model_behavior_preservation": "kl_div_score kl_div_with_ablation kl_div_with_sae",
    "model_performance_preservation": "ce_loss_score ce_loss_with_ablation ce_loss_with_sae "
    "ce_loss_without_sae",
    "reconstruction_quality": "explained_variance explained_variance_legacy mse cossim",
    "shrinkage": "l2_norm_in l2_norm_out l2_ratio relative_reconstruction_bias",
    "sparsity": "l0 l1",
    "token_stats": "total_tokens_eval_reconstruction total_tokens_eval_sparsity_variance",
    "misc_metrics": "freq_over_1_percent freq_over_10_percent normalized_freq_over_1_percent "
    "normalized_freq_over_10_percent average_max_encoder_cosine_sim "
    "average_max_decoder_cosine_sim frac_alive",
}


def real_sae(d_in: int, seed: int = 0) -> SAE:
    sae = SAE(SAEConfig(d_in=d_in, d_sae=24, activation="topk", k=3))
    rows = torch.randn(24, d_in, generator=torch.Generator().manual_seed(seed))
    sae.W_enc.data = sae.W_dec.data = rows / rows.norm(dim=1, keepdim=True)
    return sae


@pytest.fixture
def stocked(store):
    """The store with metadata, and a manifest that knows its shards."""
    store = copy.deepcopy(store)
    for i, doc in store.docs.items():
        meta = {"lang": "en" if i % 3 else "fr", "title": f"t{i}"}
        store.docs[i] = dataclasses.replace(doc, meta=meta)
    store.manifest.shards = [SimpleNamespace(sha256=str(i), docs_sha256="d") for i in range(3)]
    store.manifest.corpus = {"name": "random"}
    return store


@pytest.fixture
def material(stocked):
    return Material(sae=real_sae(stocked.d_in), store=stocked, sizes=SIZES, bootstrap=50)


def held_out(store):
    rows = store.rows["held_out"]
    return (
        torch.cat([r.acts for r in rows]).double(),
        torch.cat([r.doc for r in rows]),
        torch.cat([r.pos for r in rows]),
    )


def test_slices_against_fp64_arithmetic(material):
    found = slices.run(material)
    x, doc, pos = held_out(material.store)
    error = x - material.sae.decode(material.sae.encode(x.float())).double()
    langs = np.array([material.store.docs[d].meta["lang"] for d in doc.tolist()])
    assert set(found) == {"position", "lang"}  # titles sort nothing
    for name, mine in (
        *((("lang", v), torch.from_numpy(langs == v)) for v in ("en", "fr")),
        (("position", "0–3"), pos < 4),
        (("position", "4–15"), (pos >= 4) & (pos < 16)),
    ):
        part = x[mine]
        fvu = error[mine].square().sum() / (part - part.mean(0)).square().sum()
        figures = found[name[0]][name[1]]["sae"]
        assert figures["fvu"] == pytest.approx(float(fvu), rel=1e-6)
        assert figures["n_tokens"] == int(mine.sum())
        assert set(found[name[0]][name[1]]) == {"sae", "random", "neurons", "pca", "mean"}
    assert found["lang"]["en"]["mean"]["fvu"] >= 1 - 1e-9


def test_slices_downstream_add_up_to_the_whole(material, lm):
    whole = dataclasses.replace(material, lm=lm)
    found = slices.run(whole)["lang"]
    parts = [v["downstream"] for v in found.values()]
    n = sum(p["n_predictions"] for p in parts)
    joined = sum(p["kl"] * p["n_predictions"] for p in parts) / n
    docs = whole.held_out_docs(SIZES.splice_tokens)
    core = suite.evaluate(
        whole.sae, whole.store, lm, n_splice_tokens=SIZES.splice_tokens, bootstrap=0,
        baselines=False,
    )  # fmt: skip
    assert core.n_splice_tokens == n and docs
    assert joined == pytest.approx(core.kl, rel=1e-9)


def test_splicing_by_position_against_one_window_at_a_time(material, lm):
    """A prediction belongs to the place in its document of the token that it is made from."""
    whole = dataclasses.replace(material, lm=lm)
    found = slices.run(whole)["position"]
    docs = whole.held_out_docs(SIZES.splice_tokens)
    expected: dict[str, list[float]] = {}
    for doc in docs:
        held = whole.store.docs[doc]
        for row in splice.windows([held], [1], 11):
            ids = torch.tensor([row.token_ids])
            x = lm.hidden(ids)
            keep = whole.store.mask_policy.keep(ids, torch.ones_like(ids).bool(), x)[0]
            edited = x.clone()
            edited[0, keep] = whole.sae.decode(whole.sae.encode(x[0, keep]))
            start = lm.logits(ids, torch.ones_like(ids).bool())[0].double().log_softmax(-1)
            hook = {Site.parse(whole.store.site): lambda _, at, e=edited: e}
            after = lm.logits(ids, torch.ones_like(ids).bool(), hook)[0].double().log_softmax(-1)
            for s in range(len(row.token_ids) - 1):
                if keep[s]:
                    pos = row.first + s
                    assert held.token_ids[pos] == row.token_ids[s]
                    name = "0–3" if pos < 4 else "4–15" if pos < 16 else "16–63"
                    kl = (start[s].exp() * (start[s] - after[s])).sum()
                    expected.setdefault(name, []).append(float(kl))
    got = {name: v["downstream"] for name, v in found.items() if "downstream" in v}
    assert len(got) == 3
    for name, held_kl in expected.items():
        assert got[name]["n_predictions"] == len(held_kl)
        assert got[name]["kl"] == pytest.approx(np.mean(held_kl), rel=1e-4)


def test_pooled_documents_against_loops(material):
    pooled, meta = features.pool_stored(material, "held_out", 100)
    by_doc = {}
    for shard in material.store.rows["held_out"]:
        if len(shard.doc):
            by_doc[int(shard.doc[0])] = shard.acts
    assert len(meta) == len(by_doc) == len(pooled.n_tokens)
    wanted = {tuple(x.mean(0).numpy().round(4)): x for x in by_doc.values()}
    for i in range(len(meta)):
        x = wanted[tuple(pooled.x[i].round(4))]
        assert pooled.n_tokens[i] == len(x)
        for basis, encode in (("sae", material.sae.encode), ("random", material.random.encode)):
            assert np.allclose(
                pooled.by_basis[basis][i], encode(x).to_dense().mean(0).detach(), atol=1e-5
            )
        centred = x.mean(0) - material.mean
        assert np.allclose(pooled.by_basis["pca"][i], centred @ material.pca.components, atol=1e-4)


def test_what_was_spliced_once_is_not_spliced_again(material, lm, tmp_path):
    """Core, slices and masks share the passes, and a run that goes on reads them from the disk."""
    whole = dataclasses.replace(material, lm=with_extras(lm), cache=Cache(tmp_path))
    first = downstream.of(whole)
    whole.lm.logits = None  # a further pass would fail
    again = downstream.of(whole)
    assert np.array_equal(again.sums.values, first.sums.values)
    assert np.array_equal(again.bucket, first.bucket)
    sums = first.by_document()
    few = sums.docs[::2].tolist()
    assert first.by_document(few).docs.tolist() == few
    np.testing.assert_allclose(
        sum(first.at(i).total()["kl_sae"][0] for i in range(len(downstream.POSITIONS))),
        sums.total()["kl_sae"][0],
    )
    assert len(slices.run(whole)["position"]) == 3


def test_the_random_sae_encodes_what_it_reconstructs(material):
    x = held_out(material.store)[0].float()
    codes = material.random.encode(x)
    assert torch.allclose(
        codes.to_dense() @ material.random.directions + material.mean,
        material.random(x)[0],
        atol=1e-4,
    )


def test_texts_are_pooled_without_prefix_or_masked_tokens(material, lm, monkeypatch):
    class Speaks:
        prefix_ids, pad_id, device = (1,), 0, torch.device("cpu")

        def encode(self, texts):
            return [SimpleNamespace(ids=[2 + ord(c) % 30 for c in text]) for text in texts]

        def capture(self, ids, mask, site):
            return torch.cat([lm.hidden(row[None, :]) for row in ids])

    texts = ["abc", "", "hello world", "xy"]
    pooled = features.pool_texts(dataclasses.replace(material, lm=Speaks()), texts, 6)
    policy = material.store.mask_policy
    for i, text in enumerate(texts):
        ids = torch.tensor([[1, *Speaks().encode([text])[0].ids[:6]]])
        x = lm.hidden(ids)[0, 1:]
        keep = policy.keep(ids[:, 1:], torch.ones_like(ids[:, 1:]).bool(), x[None])[0]
        assert pooled.n_tokens[i] == int(keep.sum())
        expected = x[keep].mean(0) if keep.any() else torch.zeros(x.shape[1])
        assert np.allclose(pooled.x[i], expected, atol=1e-4)


# ------------------------------------------------------------------ the result


def test_the_core_suite_is_saebench_output(material, lm):
    told = suite.run_suite(dataclasses.replace(material, lm=with_extras(lm)), "core")
    assert tuple(told) == saebench.KEYS
    metrics = told["eval_result_metrics"]
    assert {k: set(v) for k, v in metrics.items()} == {
        k: set(v.split()) for k, v in SAEBENCH.items()
    }
    for block in metrics.values():
        assert all(isinstance(v, int | float) for v in block.values())
    json.dumps(told, allow_nan=False)
    families = told["eval_result_unstructured"]["monoscope"]["families"]
    assert set(families) == {name for name, _ in suite.CORE} - {"saebench"}
    assert metrics["reconstruction_quality"]["explained_variance"] == pytest.approx(
        1 - families["core"]["fvu"]
    )
    x, _, _ = held_out(material.store)
    x_hat = material.sae.decode(material.sae.encode(x.float())).double()
    quality = metrics["reconstruction_quality"]
    assert quality["mse"] == pytest.approx(float((x - x_hat).square().sum(1).mean()), rel=1e-6)
    bias = x_hat.square().sum() / (x * x_hat).sum()
    assert metrics["shrinkage"]["relative_reconstruction_bias"] == pytest.approx(float(bias))
    fired = (material.sae.encode(x.float()).to_dense() > 0).double().mean(0)
    rows = {row["index"]: row for row in told["eval_result_details"]}
    assert set(rows) == set(fired.nonzero().flatten().tolist())
    assert rows[next(iter(rows))]["feature_density"] == pytest.approx(
        float(fired[next(iter(rows))])
    )
    assert (
        families["special_tokens"]["with"]["n_tokens"]
        > (families["special_tokens"]["without"]["n_tokens"])
    )


def with_extras(lm):
    """The tiny LM with `capture`, as the special-token family wants it."""
    lm = copy.copy(lm)
    lm.capture = lambda ids, mask, site: torch.cat([lm.hidden(row[None]) for row in ids])
    lm.dtype = torch.float32
    return lm


def test_without_a_model_what_needs_one_is_null_and_says_so(material):
    told = suite.run_suite(material, "core")
    assert told["eval_result_metrics"]["model_behavior_preservation"]["kl_div_with_sae"] is None
    ours = told["eval_result_unstructured"]["monoscope"]
    assert ours["families"]["special_tokens"] == {"skipped": "needs the language model"}
    assert ours["not_saebench"] == [
        "model_behavior_preservation", "model_performance_preservation",
    ]  # fmt: skip


def test_the_quick_suite_is_saebench_output_without_baselines_if_so_asked(material, lm, tmp_path):
    cache = Cache(tmp_path)
    alone, beside = (
        suite.run_suite(dataclasses.replace(material, lm=lm, beside=wanted, cache=cache))
        for wanted in (False, True)
    )
    cores = [
        told["eval_result_unstructured"]["monoscope"]["families"]["core"]
        for told in (alone, beside)
    ]
    assert cores[0]["baselines"] == {} != cores[1]["baselines"]
    assert cores[0]["fvu"] == cores[1]["fvu"]
    assert alone["eval_result_metrics"] == beside["eval_result_metrics"]
    assert set(alone["eval_result_metrics"]) == set(SAEBENCH)


def test_of_more_latents_than_can_all_be_compared_the_rows_say_null(material, monkeypatch):
    monkeypatch.setattr("monoscope.evals.geometry.PAIRS", 23 * 23)
    told = suite.run_suite(material)
    assert {row["max_decoder_cosine_sim"] for row in told["eval_result_details"]} == {None}
    ours = told["eval_result_unstructured"]["monoscope"]
    assert "eval_result_details" in ours["not_saebench"]
    assert ours["families"]["geometry"]["decoder"]["n_compared"] == 22
    assert told["eval_result_metrics"]["misc_metrics"]["average_max_decoder_cosine_sim"] is not None


# ------------------------------------------------------------------ the cache


def test_a_killed_suite_goes_on_where_it_was(material, tmp_path, monkeypatch):
    runs: list[str] = []

    def family(name, fails=False):
        def run(_):
            runs.append(name)
            if fails and runs.count(name) == 1:
                raise KeyboardInterrupt
            return {"name": name, "fvu": 0.5}

        return SimpleNamespace(VERSION=1, run=run)

    parts = (("core", family("core")), ("slow", family("slow", fails=True)))
    monkeypatch.setitem(suite.SUITES, "core", parts)
    monkeypatch.setattr(suite.saebench, "output", lambda m, s, f, at_millis: f)
    kept = dataclasses.replace(material, cache=Cache(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        suite.run_suite(kept, "core")
    again = suite.run_suite(kept, "core")
    assert runs == ["core", "slow", "slow"] and again["slow"]["name"] == "slow"
    assert kept.cache.found == 1 and kept.cache.made == 2
    other = dataclasses.replace(kept, sae=real_sae(kept.store.d_in, seed=1))
    suite.run_suite(other, "core")
    assert runs[3:] == ["core", "slow"]  # other weights, other key
    suite.run_suite(dataclasses.replace(kept, seed=1), "core")
    assert len(runs) == 7


def test_a_damaged_part_is_made_again(tmp_path):
    cache = Cache(tmp_path)
    for text in ("", "{", "[]", '{"key": {"a": 2}, "figures": {}}', '{"key": {"a": 1}}'):
        assert cache.get("part", {"a": 1}, lambda: {"b": 3}) == {"b": 3}
        [path] = tmp_path.iterdir()
        path.write_text(text)
    assert cache.found == 0
    assert cache.get("part", {"a": 1}, lambda: {"b": 4}) == {"b": 4}
    assert cache.get("part", {"a": 1}, lambda: {"b": 5}) == {"b": 4}


def test_measured_afresh_is_kept_for_the_next_run(tmp_path):
    assert Cache(tmp_path).get("part", {"a": 1}, lambda: {"b": 3}) == {"b": 3}
    assert Cache(tmp_path, fresh=True).get("part", {"a": 1}, lambda: {"b": 4}) == {"b": 4}
    assert Cache(tmp_path).get("part", {"a": 1}, lambda: {"b": 5}) == {"b": 4}


def test_a_figure_that_is_not_finite_is_never_kept(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        Cache(tmp_path).get("part", {}, lambda: {"b": float("nan")})
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ bad input


def test_an_unknown_suite_names_the_nearest(material):
    with pytest.raises(ConfigError, match=r"got 'ful'.*Did you mean full"):
        suite.run_suite(material, "ful")


def test_counts_out_of_range_are_refused_before_any_work(material):
    for name, value in (("splice_tokens", 0), ("held_out_tokens", -5), ("dead_tokens", -1)):
        with pytest.raises(ConfigError, match=f"{name} is out of range"):
            dataclasses.replace(material, sizes=dataclasses.replace(SIZES, **{name: value}))


def test_a_store_of_another_model_is_refused_before_any_work(material):
    material.sae.provenance = {"model": {"model": "gpt", "weights": "e" * 64}}
    with pytest.raises(MismatchError, match=r"another .*weights.* than the store's"):
        suite.run_suite(material, "core")


def test_other_seeds_of_another_site_are_refused(material):
    other = real_sae(material.store.d_in, seed=2)
    other.provenance = {"site": "embed"}
    with pytest.raises(MismatchError, match="different sites"):
        suite.run_suite(dataclasses.replace(material, others=(other,)), "core")


def atlas(folder: Path, weights: str) -> Path:
    folder.mkdir()
    (folder / "atlas.json").write_text(json.dumps({"sae": {"hash": weights}}))
    table = {
        "latent": [0, 1, 2, 3],
        "n_active": [5, 5, 5, 0],
        "label": ["a", "b", None, None],
        "label_auc": [0.95, 0.7, None, None],
        "label_method": ["rule", "rule", None, None],
    }
    pq.write_table(pa.table(table), folder / "features.parquet")
    return folder


def test_label_scores_are_shares_of_alive_latents(material, tmp_path):
    held = atlas(tmp_path / "atlas", weights_hash(material.sae))
    found = label_scores.run(dataclasses.replace(material, atlas=held))
    assert found["n_alive"] == 3 and found["methods"] == {"rule": 2}
    assert found["scores"]["label_auc"]["share_over_0.9"] == pytest.approx(1 / 3)
    assert found["scores"]["label_auc"]["median"] == pytest.approx(0.825)


def test_an_atlas_of_another_sae_is_refused(material, tmp_path):
    held = atlas(tmp_path / "atlas", "f" * 64)
    with pytest.raises(MismatchError, match=r"another SAE.*ffff"):
        suite.run_suite(dataclasses.replace(material, atlas=held), "core")
    with pytest.raises(FormatError, match="not an atlas"):
        suite.run_suite(dataclasses.replace(material, atlas=tmp_path), "core")


def test_a_corpus_without_metadata_says_so(material):
    for i, doc in material.store.docs.items():
        material.store.docs[i] = dataclasses.replace(doc, meta={})
    assert "no metadata" in corpus_probes.run(material)["skipped"]
