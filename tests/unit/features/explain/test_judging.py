"""Labels that are there, judged as they stand: by whom they were given, what they earn."""

from __future__ import annotations

import json

import pytest

from monoscope.features import side
from monoscope.features.atlas import load_atlas
from monoscope.features.methods import judged, lines
from tests.unit.features.explain.test_run import asked, atlas, store  # noqa: F401
from tests.unit.features.explain.world import DEAD, Script


@pytest.fixture
def labelled(atlas):  # noqa: F811
    labels = ["the word paris", "unclear · something", "the word seven", "the word river"]
    methods = ["rule", "rule", "rule", "ngram"]
    atlas.set_labels(
        {"latent": i, "label": text, "label_method": method, "label_f1": 0.5}
        for i, (text, method) in enumerate(zip(labels, methods, strict=True))
    )
    atlas.annotate(3, "the word seven")  # a person knows better
    return atlas


def test_each_label_is_judged_and_none_is_changed(labelled, store):  # noqa: F811
    script = Script()
    summary = asked(labelled, store, script, latents=[0, 1, 2, 3, DEAD], judge_labels=True)
    rows = side.read_rows(labelled, "judgements")
    assert set(rows) == {0, 2, 3}  # an unclear label, and none, say nothing to judge
    assert (rows[0]["label"], rows[0]["label_method"]) == ("the word paris", "rule")
    assert rows[0]["detection_auc"] == 1.0 and rows[0]["fuzzing_auc"] == 1.0
    assert rows[2]["detection_auc"] <= 0.5  # latent 2 is the river's: seven is not there
    assert (rows[3]["label"], rows[3]["label_method"]) == ("the word seven", "human")
    assert rows[3]["detection_auc"] == rows[3]["detection_sensitivity"] == 1.0
    assert rows[3]["detection_specificity"] == 1.0 and rows[3]["model"] == "judge"
    assert not any("xplain" in b["messages"][0]["content"].splitlines()[-1] for b in script.bodies)
    assert summary["method"] == "judge" and summary["n_scored"] == 3
    assert not summary["control"]["random_sae"]["given"]
    after = load_atlas(labelled.folder)
    assert after.labels() == labelled.labels() and after.annotations() == {3: "the word seven"}
    assert side.read_table(after, "explanations") is None
    feature = after.feature(3)
    assert [one.method for one in judged(feature)] == ["judged"]
    assert any(line.startswith("judged by judge: AUC 1.00") for line in lines(feature))
    told = json.loads((after.folder / "judgements.json").read_text(encoding="utf-8"))
    assert told["build"] == after.manifest["build"]


def test_the_estimate_leaves_explaining_out(labelled, store):  # noqa: F811
    one = asked(labelled, store, Script(), latents=[0], judge_labels=True, dry_run=True)
    other = asked(labelled, store, Script(), latents=[0], dry_run=True)
    assert other["estimated"]["n_calls"] == one["estimated"]["n_calls"] + 1
