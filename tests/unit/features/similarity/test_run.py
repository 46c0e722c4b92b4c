"""Example-centroid AUC on texts whose likeness is known, and its control."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from monoscope.errors import LatentError, MismatchError
from monoscope.features import side
from monoscope.features.similarity.run import Settings, auc, score_similarity
from monoscope.sae import SAE, SAEConfig
from tests.unit.features.explain.world import (
    DEAD,
    FILLER,
    NAMED,
    WordStore,
    word_atlas,
    word_sae,
)  # fmt: skip

ALL = list(range(len(NAMED)))
WORDS = [*NAMED, *FILLER]
SMALL = Settings(width=8, n_held_out=10**6)


class Bag:
    """Embeds a text as its counts of words, at length 1; notes what it was asked."""

    def __init__(self, words=WORDS):
        self.words, self.asked = words, []

    def __call__(self, texts):
        self.asked += texts
        rows = np.array([[t.split().count(w) for w in self.words] for t in texts], np.float32)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


@pytest.fixture(scope="module")
def store():
    return WordStore(n_docs=120)


@pytest.fixture
def atlas(store, tmp_path):
    return word_atlas(store, tmp_path / "atlas")


def run(atlas, store, latents=ALL, embed=None, settings=SMALL, embedder="bag"):
    return score_similarity(
        atlas, word_sae(), store, embed or Bag(), latents, embedder=embedder, settings=settings
    )


def test_auc_is_that_of_sklearn_and_null_for_few():
    rng = np.random.default_rng(0)
    yes, no = rng.integers(0, 5, 30) / 4 + 0.2, rng.integers(0, 5, 50) / 4
    truth = [True] * 30 + [False] * 50
    assert auc(yes, no) == pytest.approx(roc_auc_score(truth, np.concatenate([yes, no])))
    assert auc(yes[:9], no) is None and auc(yes, no[:9]) is None


def test_scores_are_those_of_the_centroid_written_out(atlas, store):
    run(atlas, store)
    embed = Bag()
    held = [d for d in store.docs.values() if d.split == "held_out"]
    for latent, name in enumerate(NAMED):
        row = side.read_row(atlas, "similarity", latent)
        feature = atlas.feature(latent)
        bands = [e for band in range(5) for e in feature.band(band)[:2]]
        places = {(e.doc, e.pos // 8) for e in [*feature.top[:10], *bands]}
        words = {(d, i): store.docs[d].text.split()[8 * i : 8 * i + 8] for d, i in places}
        centroid = embed([" ".join(w) for w in words.values()]).mean(0)
        truth, like, hard = [], [], []
        near = {n.other for n in feature.neighbours if n.rank < 5}
        for doc in held:
            tokens = doc.text.split()
            for start in range(1, len(tokens) - 7, 8):  # the first token is masked
                window = tokens[start : start + 8]
                truth.append(name in window)
                like.append(float((embed([" ".join(window)])[0] * centroid).sum()))
                others = {NAMED[n] for n in near if n < len(NAMED)}
                others |= {"paris", "wine"} if len(NAMED) in near else set()
                hard.append(bool(others & set(window)))
        truth, like, hard = map(np.array, (truth, like, hard))
        assert (row["n_positive"], row["n_silent"]) == (truth.sum(), (~truth).sum())
        assert row["auc"] == pytest.approx(roc_auc_score(truth, like), abs=5e-4)  # ties, in float32
        kept = truth | hard
        assert row["n_hard"] == (hard & ~truth).sum() > 0
        assert row["hard_auc"] == pytest.approx(roc_auc_score(truth[kept], like[kept]), abs=5e-4)
        assert row["n_examples"] == len(places)
        docs = json.loads(row["evidence"])["explained_from"]
        assert docs and all(store.docs[d].split == "train" for d in docs)


def test_likeness_tells_and_another_latents_examples_do_not(atlas, store):
    summary = run(atlas, store)
    assert summary["auc"]["median"] > 0.8
    assert summary["control"]["median"] < 0.55
    blind = run(atlas, store, embed=lambda texts: np.ones((len(texts), 3), np.float32),
                embedder="blind")  # fmt: skip
    assert blind["auc"]["median"] == 0.5


def test_what_is_done_is_kept_and_each_window_is_embedded_once(atlas, store):
    embed = Bag()
    first = run(atlas, store, ALL[:2], embed)
    rows = side.read_rows(atlas, "similarity")
    windows = embed.asked
    assert len(set(windows)) > 0 and len(windows) - len(set(windows)) < len(windows) // 10
    again = Bag()
    assert run(atlas, store, ALL[:2], again) == first and again.asked == []
    run(atlas, store, ALL, again)
    assert set(side.read_rows(atlas, "similarity")) == set(ALL) and again.asked
    assert side.read_rows(atlas, "similarity")[0] == rows[0]
    other = Bag()
    run(atlas, store, [0], other, embedder="another")
    assert other.asked


def test_a_latent_that_never_fires_has_no_score_and_mistakes_are_named(atlas, store):
    summary = run(atlas, store, [DEAD, 0])
    row = side.read_row(atlas, "similarity", DEAD)
    assert row["auc"] is None and row["n_examples"] == 0 and summary["auc"]["n"] == 1
    with pytest.raises(LatentError):
        run(atlas, store, [99])
    other = SAE(SAEConfig(d_in=word_sae().d_in, d_sae=word_sae().d_sae, activation="relu", k=None))
    with pytest.raises(MismatchError):
        score_similarity(atlas, other, store, Bag(), [0], embedder="bag")
