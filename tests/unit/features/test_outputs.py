"""Output scores kept with an atlas: by group, resumed, and what they make of a feature."""

from __future__ import annotations

from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from monoscope.features import side
from monoscope.features.atlas import load_atlas
from monoscope.features.does import does
from monoscope.features.methods import judged, lines
from monoscope.features.outputs import keep_outputs
from monoscope.viewer.catalogue import Catalogue
from monoscope.viewer.find import search
from tests.unit.features.explain.world import WordStore, word_atlas


def figures(nats):
    return SimpleNamespace(steered=0.2, default=0.1, random=0.05, score=nats)


def scored(latent, nats):
    return SimpleNamespace(
        latent=latent, writes=None if nats is None else figures(nats), lens=figures(2.0),
        control=None, tokens=[" a"], lens_tokens=["b"], basis="label" if latent else "contexts",
    )  # fmt: skip


NATS = {0: 1.5, 1: 0.1, 2: None, 3: 0.9}


@pytest.fixture
def atlas(tmp_path):
    made = word_atlas(WordStore(), tmp_path / "atlas")
    made.set_labels(
        {"latent": i, "label": f"l{i}", "label_method": "rule", "label_auc": auc}
        for i, auc in enumerate([0.9, 0.9, 0.9, 0.6])
    )
    return made


class Scorer:
    def __init__(self):
        self.asked = []

    def __call__(self, latents, done):
        self.asked += latents
        for latent in latents:
            done([scored(latent, NATS[latent])])


def test_a_feature_reads_or_writes_by_its_two_figures(atlas):
    assert [does(r, w) for r, w in ((0.7, 0.5), (0.69, 0.5), (0.7, 0.49), (0.6, 0.1))] == [
        "both", "writes", "reads", "neither",
    ]  # fmt: skip
    assert does(None, 1.0) is None and does(0.9, None) is None
    summary = keep_outputs(atlas, list(NATS), Scorer(), {"seed": 1})
    assert summary["does"] == {"both": 1, "reads": 1, "writes": 1, "neither": 0, "unknown": 1}
    assert summary["writes"]["n"] == 3 and summary["writes"]["median"] == 0.9
    assert summary["writes"]["share_that_writes"] == pytest.approx(2 / 3)
    atlas.annotate(0, "mine")  # a person's label does not change what was measured
    assert [load_atlas(atlas.folder).feature(i).does for i in NATS] == [
        "both", "reads", None, "writes",
    ]  # fmt: skip
    told = atlas.feature(0).to_json()
    assert told["does"] == "both" and told["output"]["writes"] == 1.5 and told["reads"] == 0.9
    assert lines(atlas.feature(0)) == [
        "does: both · label AUC 0.90 · turned up, nats: its contexts' tokens +1.50, its logit lens "
        "+2.00"
    ]
    assert "its label's tokens +0.10" in lines(atlas.feature(1))[0]
    assert summary["basis"] == {"contexts": 1, "label": 3}


def test_what_is_kept_is_not_scored_again(atlas):
    scorer, seen = Scorer(), []
    keep_outputs(atlas, [0, 1], scorer, {"seed": 1}, lambda *at: seen.append(at))
    keep_outputs(atlas, [0, 1, 3], scorer, {"seed": 1})
    assert scorer.asked == [0, 1, 3] and seen == [(1, 2), (2, 2)]
    keep_outputs(atlas, [1], scorer, {"seed": 2})
    assert scorer.asked == [0, 1, 3, 1]
    atlas.annotate(1, "mine")  # another label promises something else
    keep_outputs(atlas, [0, 1, 3], scorer, {"seed": 2})
    assert scorer.asked == [0, 1, 3, 1, 0, 1, 3]


def test_a_table_from_before_the_basis_was_told_is_read(atlas):
    keep_outputs(atlas, [0], Scorer(), {})
    path = atlas.folder / "outputs.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["basis"]), path)
    assert side.read_row(atlas, "outputs", 0)["basis"] is None
    assert "its tokens +1.50" in lines(atlas.feature(0))[0]


def test_features_are_found_by_what_they_write(atlas):
    def latents(q):
        asked = search(q, atlas.notebook, sort="latent")
        sql = f"{asked.sql} SELECT latent FROM found ORDER BY {asked.order}"
        return [row["latent"] for row in Catalogue(atlas).ask(sql, asked.given)]

    assert latents("writes>0.5") == []
    keep_outputs(atlas, list(NATS), Scorer(), {})
    assert latents("writes>0.5") == [0, 3] and latents("writes>0.5 reads>=0.7") == [0]
    assert 2 not in latents("writes<9") and 2 in latents("-writes<9")


def test_a_table_of_another_index_is_left_aside(atlas):
    keep_outputs(atlas, [0], Scorer(), {})
    assert side.read_row(atlas, "outputs", 0) is not None
    again = word_atlas(WordStore(seed=5), atlas.folder)
    assert side.read_table(again, "outputs") is None and again.feature(0).output is None


def test_rules_of_older_atlases_say_their_specificity_all_the_same():
    held = {"auc": 0.8, "recall": 0.7, "f1": 0.5}
    feature = SimpleNamespace(
        label_rule={"held_out": held}, rule_label="x", ngram=None, similarity=None,
        explanation=None, judgement=None,
    )  # fmt: skip
    one = judged(feature)[0]
    assert (one.sensitivity, one.specificity) == (0.7, pytest.approx(0.9))
