"""Explaining and judging end to end, against a scripted judge whose scores are known beforehand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from monoscope.features.atlas import Atlas, load_atlas
from monoscope.features.explain.endpoint import Endpoint
from monoscope.features.explain.plan import Settings
from monoscope.features.explain.run import explain, pick
from monoscope.features.explain.table import explanations
from tests.unit.features.explain.world import (
    DEAD,
    NAMED,
    Script,
    WordStore,
    coin,
    serving,
    word_atlas,
    word_sae,
)  # fmt: skip

SMALL = Settings(n_items=6, batch=4, width=8, concurrency=3, n_control=4)
LATENTS = range(len(NAMED))


@pytest.fixture(scope="module")
def store() -> WordStore:
    return WordStore()


@pytest.fixture
def atlas(store: WordStore, tmp_path: Path) -> Atlas:
    return word_atlas(store, tmp_path / "atlas")


def asked(atlas: Atlas, store: WordStore, script: Script, **settings: Any) -> dict[str, Any]:
    """The summary of a run against this script."""
    given = {"settings": SMALL, "latents": LATENTS} | settings
    with serving(script) as url, Endpoint(url, "judge", key="", retries=0) as endpoint:
        return explain(atlas, word_sae(), store, endpoint, **given)


def rows(atlas: Atlas) -> dict[int, dict[str, Any]]:
    return explanations(atlas.folder, atlas.manifest["build"])


def test_a_judge_who_knows_scores_one_and_the_shuffled_control_does_not(atlas, store):
    summary = asked(atlas, store, Script())
    for latent, row in rows(atlas).items():
        assert row["explanation"] == f"the word {NAMED[latent]}"
        for test in ("detection", "fuzzing", "contrast"):
            assert row[f"{test}_auc"] == row[f"{test}_accuracy"] == 1.0, (latent, test)
        assert row["n_positive"] == row["n_random"] == row["n_hard"] == 6
        assert row["shuffled_auc"] < 0.75
    assert summary["auc"]["detection"]["share_over_0_9"] == 1.0
    assert summary["control"]["shuffled"]["n"] == 4
    assert (summary["n_failed"], summary["n_labelled"]) == (0, 4)


def test_an_inverted_judge_scores_zero_and_labels_nothing(atlas, store):
    summary = asked(atlas, store, Script(verdict=lambda truth, text: int(not truth)))
    for row in rows(atlas).values():
        assert row["detection_auc"] == row["fuzzing_auc"] == row["contrast_auc"] == 0.0
    assert summary["n_labelled"] == 0
    assert set(load_atlas(atlas.folder).labels().values()) == {None}


@pytest.mark.parametrize("always", [0, 1])
def test_a_judge_with_one_answer_scores_one_half(atlas, store, always):
    asked(atlas, store, Script(verdict=lambda truth, text: always))
    for row in rows(atlas).values():
        assert row["detection_auc"] == row["fuzzing_accuracy"] == row["contrast_auc"] == 0.5
        assert (row["detection_sensitivity"], row["detection_specificity"]) == (always, 1 - always)


def test_a_coin_scores_about_one_half(atlas, store):
    summary = asked(
        atlas, store, Script(verdict=coin), settings=Settings(n_items=25, width=4, n_control=0)
    )
    assert abs(summary["auc"]["detection"]["mean"] - 0.5) < 0.15


def test_what_was_judged_is_held_out_and_its_negatives_are_silent(atlas, store):
    asked(atlas, store, Script())
    for latent, row in rows(atlas).items():
        evidence = json.loads(row["evidence"])
        assert evidence["explained_from"] and evidence["judged"]
        for kind, doc, start, _ in evidence["judged"]:
            assert doc not in evidence["explained_from"]
            assert store.docs[doc].split == "held_out"
            words = store.docs[doc].text.split()[start : start + SMALL.width]
            assert (NAMED[latent] in words) == (kind in ("positive", "marked", "mismarked"))
    hard = [j for j in json.loads(rows(atlas)[0]["evidence"])["judged"] if j[0] == "hard"]
    texts = [store.docs[d].text.split()[s : s + SMALL.width] for _, d, s, _ in hard]
    assert all(set(words) & set(NAMED) for words in texts)  # some neighbour fires
    assert any("wine" in words for words in texts)  # as does latent 4, which also fires on paris


def test_pick_draws_alive_latents(atlas):
    assert pick(atlas, 99, 0) == list(range(DEAD))
    assert len(pick(atlas, 2, 0)) == 2
