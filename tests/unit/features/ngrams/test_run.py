"""N-gram labels of latents whose n-grams are known, from the search to the atlas."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from monoscope.errors import ConfigError, LatentError, MismatchError
from monoscope.features import side
from monoscope.features.atlas import load_atlas
from monoscope.features.explain.table import save as save_explanations
from monoscope.features.ngrams.patterns import from_json
from monoscope.features.ngrams.run import Settings, label_ngrams
from monoscope.features.ngrams.search import Limits, Probe
from tests.unit.features.ngrams.world import (
    ALWAYS,
    DEAD,
    EITHER,
    END,
    GAPPED,
    LONG,
    ONE,
    PAIR,
    WEAK,
    NgramLM,
    NgramStore,
    activations,
    ngram_atlas,
    ngram_sae,
)  # fmt: skip

ALL = [ONE, EITHER, PAIR, GAPPED, ALWAYS, LONG, WEAK]


@pytest.fixture(scope="module")
def store():
    return NgramStore()


@pytest.fixture
def atlas(store, tmp_path):
    return ngram_atlas(store, tmp_path / "atlas")


def run(atlas, store, latents=ALL, lm=None, **settings):
    return label_ngrams(
        atlas, ngram_sae(), store, lm or NgramLM(), latents, settings=Settings(**settings)
    )


def patterns(atlas, latent):
    row = side.read_row(atlas, "ngrams", latent)
    return {p.tokens for p in from_json(row["patterns"])}


def test_the_n_grams_that_the_latents_were_made_of_are_found(atlas, store):
    run(atlas, store)
    assert patterns(atlas, ONE) == {(5,)}
    assert patterns(atlas, EITHER) == {(6,), (7,)}
    assert (8, 9) in patterns(atlas, PAIR)
    assert patterns(atlas, GAPPED) == {(10, None, 11)}
    assert patterns(atlas, ALWAYS) == set()  # any token would do, so none says anything
    rows = side.read_rows(atlas, "ngrams")
    assert rows[LONG]["n_long"] == rows[LONG]["n_contexts"] > 0 and rows[LONG]["label"] is None
    assert rows[GAPPED]["label"] == '" w10… w11"'
    assert 10 <= rows[ONE]["n_contexts"] <= 15 and rows[ONE]["n_long"] == 0


def test_scores_are_those_of_the_dense_prediction_on_held_out_tokens(atlas, store):
    run(atlas, store, n_held_out=10**6)
    held = [d for d in store.docs.values() if d.split == "held_out"]
    for latent in (ONE, EITHER, PAIR, GAPPED):
        row = side.read_row(atlas, "ngrams", latent)
        real, predicted = [], []
        for doc in held:
            x = activations(doc.token_ids)[1:, latent]
            p = np.zeros(len(doc.token_ids))
            for pattern in from_json(row["patterns"]):
                n = len(pattern.tokens)
                for t in range(n - 1, len(p)):
                    window = doc.token_ids[t + 1 - n : t + 1]
                    if all(w in (None, v) for w, v in zip(pattern.tokens, window, strict=True)):
                        p[t] = max(p[t], pattern.value)
            real.append(x)
            predicted.append(p[1:])
        real, predicted = np.concatenate(real).astype(float), np.concatenate(predicted)
        assert row["r"] == pytest.approx(np.corrcoef(real, predicted)[0, 1], abs=1e-9)
        fires, says = real > 0, predicted > 0
        assert row["sensitivity"] == pytest.approx((says & fires).sum() / fires.sum())
        assert row["specificity"] == pytest.approx((~says & ~fires).sum() / (~fires).sum())
        assert row["n_fired"] == fires.sum() and row["n_tokens"] == len(real)
    assert side.read_row(atlas, "ngrams", ONE)["r"] == pytest.approx(1.0)


def test_values_are_weighed_on_train_documents_that_were_not_explained(atlas, store):
    run(atlas, store, n_tokens=10**6)
    row = side.read_row(atlas, "ngrams", PAIR)
    explained = {e["doc"] for e in json.loads(row["evidence"])}
    assert all(store.docs[d].split == "train" for d in explained)
    for pattern in from_json(row["patterns"]):
        if pattern.tokens != (9,):
            continue
        real = [
            activations(doc.token_ids)[t, PAIR]
            for doc in store.docs.values()
            for t in range(1, len(doc.token_ids))
            if doc.split == "train" and doc.doc not in explained and doc.token_ids[t] == 9
        ]
        assert pattern.value == pytest.approx(np.mean(real))


def test_the_control_predicts_with_anothers_patterns(atlas, store):
    summary = run(atlas, store)
    rows = side.read_rows(atlas, "ngrams")
    assert summary["median_r"] > 0.9 and abs(summary["control"]["median_r"]) < 0.1
    assert abs(summary["control"]["median_auc"] - 0.5) < 0.1
    for latent in (ONE, EITHER, GAPPED):
        assert rows[latent]["control_r"] < 0.1
    assert rows[LONG]["r"] == 0.0 and rows[LONG]["control_r"] is None


def test_what_it_costs_is_within_the_budget_and_the_lead_stands_in_front(atlas, store):
    lm = NgramLM()
    settings = Settings(n_top=4, per_band=1, longest=5, n_swaps=2)
    summary = run(atlas, store, [GAPPED], lm, n_top=4, per_band=1, longest=5, n_swaps=2)
    assert settings.most_texts == 9 * (5 + 2 * 6) == summary["cost"]["most_texts_a_latent"]
    assert 0 < len(lm.rows) <= settings.most_texts
    assert summary["cost"]["texts_a_latent"] == len(lm.rows)
    assert summary["cost"]["tokens_a_latent"] == sum(map(len, lm.rows))
    assert all(row[0] == END and len(row) <= 6 for row in lm.rows)


def test_a_worst_case_stays_within_the_budget(atlas, store, monkeypatch):
    probe = Probe(NgramLM(), ngram_sae())
    limits = Limits(longest=4, n_swaps=2)
    from monoscope.features.ngrams import search as module

    rng = np.random.default_rng(0)
    contexts = [
        module.Context(GAPPED, tuple(rng.integers(2, 40, 4).tolist()), 1.0, 0, 9) for _ in range(5)
    ]
    monkeypatch.setattr(
        Probe, "_codes",
        lambda self, texts: (
            setattr(self, "n_texts", self.n_texts + len(texts)),
            torch.tensor([[float(len(t) >= 4)] * 8 for t in texts]),
        )[1],
    )  # fmt: skip
    module.search(probe, contexts, np.arange(2, 40), limits, 0)
    assert all(c.suffix == 4 and c.wild == [True] * 4 for c in contexts)
    assert all(c.pattern is None for c in contexts)
    assert 0 < probe.n_texts <= limits.most_texts(len(contexts))


def test_without_the_lead_the_first_token_is_a_sink_and_masked():
    lm = NgramLM()
    probe = Probe(lm, ngram_sae())
    assert probe.ask([((5,), ONE)]) == {((5,), ONE): 4.0}
    lm.prefix_ids = (3,)
    assert Probe(lm, ngram_sae()).lead == (3,)
    probe.lead = ()
    assert probe.ask([((5,), ONE)]) == {((5,), ONE): 0.0}


def test_a_run_broken_off_goes_on_where_it_was(atlas, store, monkeypatch):
    import monoscope.features.ngrams.run as module

    monkeypatch.setattr(module, "_GROUP", 2)

    class Broken(Exception):
        pass

    def stop(done, total):
        if done >= 4:
            raise Broken

    with pytest.raises(Broken):
        label_ngrams(atlas, ngram_sae(), store, NgramLM(), ALL, progress=stop)
    assert set(side.read_rows(atlas, "ngrams")) == set(ALL[:4])
    lm = NgramLM()
    summary = run(atlas, store, ALL, lm)
    assert summary["cost"]["n_new"] == 3 and summary["n_latents"] == len(ALL)
    assert not any(5 in row and row[-1] == 5 and len(row) == 2 for row in lm.rows)  # ONE is done
    resumed = side.read_rows(atlas, "ngrams")
    lm = NgramLM()
    assert run(atlas, store, ALL, lm)["cost"]["n_new"] == 0 and lm.rows == []
    assert run(atlas, store, [ONE], seed=5)["cost"]["n_new"] == 1  # other settings
    assert resumed[PAIR]["r"] == side.read_row(atlas, "ngrams", PAIR)["r"]


def test_the_better_label_is_shown_and_the_rules_is_kept(atlas, store):
    before = {i: atlas.feature(i) for i in ALL}
    summary = run(atlas, store)
    after = {i: load_atlas(atlas.folder).feature(i) for i in ALL}
    assert after[GAPPED].label == '" w10… w11"' and after[GAPPED].label_method == "ngram"
    assert after[GAPPED].rule_label == before[GAPPED].label  # no rule can say this
    assert after[GAPPED].label_auc == 1.0 and after[GAPPED].label_f1 == 1.0
    assert after[ONE].label_method == "rule"  # a rule that is as good stays
    assert after[ALWAYS].label == before[ALWAYS].label
    assert summary["n_labelled"] == sum(f.label_method == "ngram" for f in after.values())
    assert after[GAPPED].ngram["shown"] and not after[ONE].ngram["shown"]


def test_a_persons_label_stays_in_front_and_rules_can_come_back(atlas, store):
    rule = atlas.feature(GAPPED).label
    atlas.annotate(GAPPED, "mine")
    run(atlas, store)
    assert load_atlas(atlas.folder).feature(GAPPED).label == "mine"
    assert atlas.annotations() == {GAPPED: "mine"}
    atlas.annotate(GAPPED, "")
    assert load_atlas(atlas.folder).feature(GAPPED).label_method == "ngram"
    run(atlas, store, [GAPPED], n_top=1, per_band=0, longest=1)  # too short for it
    back = load_atlas(atlas.folder).feature(GAPPED)
    assert (back.label, back.label_method) == (rule, "rule")
    run(atlas, store)
    assert load_atlas(atlas.folder).feature(GAPPED).rule_label == rule


def test_a_language_models_label_goes_in_front_and_gives_way_to_n_grams_again(atlas, store):
    rule = atlas.feature(GAPPED).label
    run(atlas, store)
    said = {"latent": GAPPED, "explanation": "said", "model": "m", "evidence": "null"}
    save_explanations(atlas, [said | {"detection_auc": 0.9}], floor=0.6)
    named = load_atlas(atlas.folder).feature(GAPPED)
    assert (named.label, named.label_method, named.rule_label) == ("said", "llm", rule)
    run(atlas, store)  # n-grams again: the language model's stays
    assert load_atlas(atlas.folder).feature(GAPPED).label == "said"
    save_explanations(atlas, [said | {"detection_auc": 0.4}], floor=0.6)
    back = load_atlas(atlas.folder).feature(GAPPED)
    assert (back.label, back.label_method, back.rule_label) == ('" w10… w11"', "ngram", rule)


def test_mistakes(atlas, store):
    with pytest.raises(LatentError):
        run(atlas, store, [99])
    with pytest.raises(ConfigError, match="longest is out of range"):
        Settings(longest=40)
    with pytest.raises(ConfigError, match="n_swaps is out of range"):
        Settings(n_swaps=0)
    other = NgramLM()
    other.identity = other.identity | {"weights": "c" * 64}
    with pytest.raises(MismatchError):
        run(atlas, store, lm=other)
    assert side.read_rows(atlas, "ngrams") == {}
    assert run(atlas, store, [DEAD])["n_scored"] == 0
