"""Probes: selection by hand, perfect and hopeless tasks, and intervals over tasks."""

from __future__ import annotations

import numpy as np
import pytest

from monoscope.evals import ablation, corpus_probes, letters, probes, probing
from monoscope.evals.corpus_probes import Concept, Corpus
from monoscope.evals.features import Pooled


def data(n: int = 200, width: int = 30, seed: int = 0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    x = rng.normal(size=(n, width))
    return rng, x, y


def test_the_strongest_feature_is_the_one_that_parts_the_classes():
    _, x, y = data()
    x[:, 7] += 2.0 * y
    x[:, 3] *= 100  # large, but says nothing
    x[:, 4] += 1.0 * y
    x[:, 5] = 1.0  # never varies
    assert probes.strongest(x, y, 2).tolist() == [7, 4]
    assert probes.strongest(x, y, 30).tolist()[-1] == 5
    gap = abs(x[y == 1].mean(0) - x[y == 0].mean(0))
    spread = np.sqrt((x[y == 1].var(0) + x[y == 0].var(0)) / 2)
    brute = np.argsort(-np.divide(gap, spread, out=np.zeros(30), where=spread > 0))
    assert probes.strongest(x, y, 29).tolist() == brute.tolist()[:29]


def test_a_feature_that_parts_them_without_noise_comes_first():
    _, x, y = data()
    x[:, 9] = y
    assert probes.strongest(x, y, 1).tolist() == [9]


def test_a_separable_task_is_solved_and_a_random_one_is_chance():
    rng, x, y = data(600)
    x[:, 7] += 6.0 * y
    train, test = np.arange(400), np.arange(400, 600)
    found = probes.sparse_figures(x, y, train, test, (1, 5), 0)
    assert found["1"]["auc"] > 0.99 and found["1"]["best"] == 7
    assert probes.dense_figures(x, y, train, test, 0)["accuracy"] > 0.95
    noise = rng.normal(size=(600, 30))
    assert probes.dense_figures(noise, y, train, test, 0)["auc"] == pytest.approx(0.5, abs=0.12)


def test_selection_and_fit_never_see_the_test_rows():
    _, x, y = data(400)
    train, test = np.arange(200), np.arange(200, 400)
    before = probes.strongest(x[train], y[train], 5)
    x[np.ix_(test, [11])] = y[test][:, None] * 50.0  # a giveaway in the test rows alone
    assert probes.sparse_figures(x, y, train, test, (5,), 0)["5"]["best"] == before[0]


def test_accuracy_is_balanced():
    _, x, _ = data(400)
    y = (np.arange(400) % 10 == 0).astype(int)
    train, test = np.arange(200), np.arange(200, 400)
    assert probes.dense_figures(x, y, train, test, 0)["accuracy"] < 0.7  # "always no" has 0.5


def test_a_probe_direction_is_in_the_features_own_units():
    _, x, y = data(300)
    x[:, 0] += y
    x[:, 1] *= 1000
    probe = probes.Probe(x, y, 1.0, 0)
    offset = probe.scores(x) - x @ probe.direction()
    assert np.allclose(offset, offset[0])


def test_the_interval_is_over_tasks():
    found = probes.mean_over([0.6, 0.8, 1.0], 2000, 0)
    assert found["mean"] == pytest.approx(0.8) and found["n"] == 3
    assert found["ci"] == pytest.approx([0.6, 1.0], abs=0.07)
    assert probes.mean_over([], 10, 0) == {"mean": None, "ci": None, "n": 0}
    assert probes.mean_over([0.5], 10, 0)["ci"] is None


def test_means_pair_the_sae_with_the_neurons():
    def row(sae: float, neurons: float):
        bases = {"sae": sae, "random": 0.5, "neurons": neurons, "pca": 0.5}
        held = {
            b: {str(k): {"auc": v, "accuracy": v} for k in probing.KS} for b, v in bases.items()
        }
        return held | {"dense": {"auc": 0.9, "accuracy": 0.9}}

    found = probing.means({"a": row(0.8, 0.7), "b": row(0.9, 0.6)}, 100, 0)
    assert found["sae_minus_neurons"]["1"]["mean"] == pytest.approx(0.2)
    assert found["sae"]["20"]["auc"]["mean"] == pytest.approx(0.85)


# ------------------------------------------------------------------ concepts of a corpus


def test_topics_are_only_set_against_topics_of_their_language(monkeypatch):
    meta = [{"lang": "en", "topic": t} for t in ("Arts", "Science") * 60]
    meta += [{"lang": "fr", "topic": t} for t in ("Santé", "Vie") * 60]
    order = np.random.default_rng(0).permutation(len(meta))
    meta = [meta[i] for i in order]
    found = list(corpus_probes.concepts(meta, 160))
    assert {(c.key, c.group, c.value) for c in found} == {
        ("lang", "", "en"), ("lang", "", "fr"),
        ("topic", "en: ", "Arts"), ("topic", "en: ", "Science"),
        ("topic", "fr: ", "Santé"), ("topic", "fr: ", "Vie"),
    }  # fmt: skip
    for concept in found:
        assert concept.train.max() < 160 <= concept.test.min()
        if concept.key == "topic":
            langs = {meta[i]["lang"] for i in (*concept.train, *concept.test)}
            assert langs == {concept.group[:2]}
        assert all(concept.labels[i] == (meta[i][concept.key] == concept.value) for i in range(240))


def test_a_value_with_too_few_documents_is_no_concept():
    meta = [{"lang": "en"}] * 100 + [{"lang": "fr"}] * 5
    assert list(corpus_probes.concepts(meta, 70)) == []


# ------------------------------------------------------------------ targeted ablation


class Part:
    """As much of a Material as ablation asks for."""

    seed, bootstrap = 0, 50


def test_removing_a_concepts_own_latent_spoils_its_probe_alone(monkeypatch):
    rng = np.random.default_rng(0)
    n, d = 900, 6
    kind = rng.integers(0, 3, n)
    codes = np.zeros((n, 8))
    codes[np.arange(n), kind] = 1.0
    directions = np.zeros((8, d))
    directions[:3, :3] = np.eye(3) * 4
    x = codes @ directions + rng.normal(size=(n, d))
    rows = np.arange(n)
    concepts = [
        Concept("lang", str(v), "", rows[:600], rows[600:], (kind == v).astype(int))
        for v in range(3)
    ]
    pooled = Pooled({"sae": codes, "neurons": x}, np.ones(n))
    corpus = Corpus(pooled, concepts)

    def remove(which, top):
        return x[which] - codes[np.ix_(which, top)] @ directions[top]

    monkeypatch.setattr(ablation, "NS", (1,))
    groups = ablation._groups(concepts)
    found = ablation._basis(Part(), corpus, groups, "sae", remove)["1"]
    assert found["own_drop"]["mean"] > 0.2
    assert found["score"]["mean"] == pytest.approx(
        found["own_drop"]["mean"] - found["others_drop"]["mean"], abs=1e-9
    )
    assert found["score"]["mean"] > 0.05

    def remove_another(which, top):
        return remove(which, (top + 1) % 3)

    assert ablation._basis(Part(), corpus, groups, "sae", remove_another)["1"]["score"]["mean"] < 0
    nothing = ablation._basis(Part(), corpus, groups, "sae", lambda which, top: x[which])["1"]
    assert nothing["score"]["mean"] == 0


# ------------------------------------------------------------------ absorption by first letters


def test_absorption_counts_words_that_another_latent_took_over():
    rng = np.random.default_rng(0)
    n, d = 400, 5
    y = (np.arange(n) % 2 == 0).astype(int)
    test = np.arange(n) >= 200
    x = rng.normal(size=(n, d)) * 0.1
    x[:, 0] += 2.0 * y
    directions = np.eye(4, d)
    directions[1] = directions[0]  # the absorber writes the letter's direction as well
    codes = np.zeros((n, 4))
    codes[:, 0] = 2.0 * y
    codes[:, 3] = 1.0
    probe = probes.Probe(x, y, 1.0, 0)
    assert letters.absorbed(codes, directions, x, y, test, probe)["absorption"] == 0
    held = np.flatnonzero(test & (y == 1))
    codes[held[:25], 1], codes[held[:25], 0] = 2.0, 0.0
    found = letters.absorbed(codes, directions, x, y, test, probe)
    assert found["latents"] == [0] and found["n_words"] == len(held)
    assert found["absorption"] == pytest.approx(25 / len(held))
    codes[held[:25], 1] = 0.0  # silent, but nobody took it over
    found = letters.absorbed(codes, directions, x, y, test, probe)
    assert found["absorption"] == 0 and found["silent"] == pytest.approx(25 / len(held))
