"""Which label stands in front: one rule over the stored tables, whatever was run last."""

from __future__ import annotations

import itertools
import shutil
import threading

import pyarrow.parquet as pq
import pytest

from monoscope.errors import OutputError
from monoscope.features import front, schema, side
from monoscope.features.atlas import load_atlas
from monoscope.features.explain.table import save as save_explanations
from monoscope.features.index import index
from monoscope.features.labels import label
from monoscope.features.ngrams.run import Settings, label_ngrams
from monoscope.features.ngrams.table import save
from monoscope.features.outputs import keep_outputs
from monoscope.features.similarity.run import score_similarity
from monoscope.locks import folder_lock
from tests.unit.features.ngrams.world import (
    GAPPED,
    ONE,
    PAIR,
    NgramLM,
    NgramStore,
    ngram_atlas,
    ngram_sae,
)

SOME = [ONE, PAIR, GAPPED]
SAID = {"latent": PAIR, "explanation": "said", "model": "m", "evidence": "null"}


@pytest.fixture(scope="module")
def store():
    return NgramStore()


@pytest.fixture(scope="module")
def made(store, tmp_path_factory):
    """An atlas with rules, n-grams of some latents, and one explanation that passed."""
    atlas = ngram_atlas(store, tmp_path_factory.mktemp("made") / "atlas")
    label_ngrams(atlas, ngram_sae(), store, NgramLM(), SOME, settings=Settings())
    save_explanations(atlas, [SAID | {"detection_auc": 0.9}], floor=0.6)
    return atlas


@pytest.fixture
def atlas(made, tmp_path):
    shutil.copytree(made.folder, tmp_path / "atlas")
    return load_atlas(tmp_path / "atlas")


def fronts(atlas):
    now = load_atlas(atlas.folder)
    return {i: (f.label, f.label_method, f.label_auc) for i, f in pages(now).items()}


def pages(atlas):
    return {i: atlas.feature(i) for i in SOME}


@pytest.mark.parametrize(
    ("gram", "told", "method"),
    [
        (None, None, "rule"),
        ({"shown": False}, None, "rule"),
        ({"shown": True}, None, "ngram"),
        ({"shown": True, "label": None}, None, "rule"),
        ({"shown": True}, {"detection_auc": 0.7, "floor": 0.6}, "llm"),
        ({"shown": False}, {"detection_auc": 0.6, "floor": 0.6}, "llm"),
        ({"shown": True}, {"detection_auc": 0.7, "floor": 0.8}, "ngram"),
        (None, {"detection_auc": 0.59, "floor": None}, "rule"),
        (None, {"detection_auc": 0.61}, "llm"),
        (None, {"detection_auc": None, "floor": 0.0}, "rule"),
        (None, {"detection_auc": 0.9, "floor": 0.6, "explanation": None}, "rule"),
    ],
)
def test_the_order(gram, told, method):
    rule = {"label": "r", "label_f1": 0.5, "label_auc": 0.7, "label_rule": "{}", "label_base": 0.1}
    gram = gram and {"label": "g", "f1": 0.6, "auc": 0.8} | gram
    told = told and {"explanation": "e"} | told
    found = front.front(rule, gram, told)
    text, f1 = {"rule": ("r", 0.5), "ngram": ("g", 0.6), "llm": ("e", None)}[method]
    assert (found["label"], found["label_method"], found["label_f1"]) == (text, method, f1)
    assert (found["label_rule"], found["label_base"]) == ("{}", 0.1)  # the rule's, whoever labels


def test_a_latent_without_any_label_has_no_method():
    assert set(front.front({}, None, None).values()) == {None}


def test_rules_again_leave_the_better_label_in_front(atlas, store):
    before = fronts(atlas)
    assert [before[i][1] for i in SOME] == ["rule", "llm", "ngram"]
    label(atlas, ngram_sae(), store)
    assert fronts(atlas) == before
    rules = front.rules_of(atlas)
    after = pages(load_atlas(atlas.folder))
    assert [f.rule_label for f in after.values()] == [rules[i]["label"] for i in SOME]
    atlas.annotate(PAIR, "mine")
    assert load_atlas(atlas.folder).feature(PAIR).label_method == "human"


def test_no_order_of_runs_matters(made, store, tmp_path):
    grams = list(side.read_rows(made, "ngrams").values())
    steps = {
        "rules": lambda atlas: label(atlas, ngram_sae(), store),
        "ngrams": lambda atlas: save(atlas, grams),
        "llm": lambda atlas: save_explanations(
            atlas, [SAID | {"detection_auc": 0.9}], floor=0.6
        ),
    }  # fmt: skip
    bare = ngram_atlas(store, tmp_path / "bare")
    for number, order in enumerate(itertools.permutations(steps)):
        shutil.copytree(bare.folder, tmp_path / str(number))
        atlas = load_atlas(tmp_path / str(number))
        for step in order:
            steps[step](atlas)
        assert fronts(atlas) == fronts(made), order


def test_another_rule_is_held_against_the_n_grams_that_are_there(atlas, store):
    """The verdicts are turned round and said to be about another rule; rules made anew undo it."""
    rows = side.read_rows(atlas, "ngrams")
    other = {"rule_label": "another", "train_r": None, "train_rule_r": None, "rule_r": None}
    wrong = [row | other | {"shown": not row["shown"]} for row in rows.values()]
    side.merge_rows(atlas, "ngrams", wrong)
    front.settle(atlas)
    assert [fronts(atlas)[i][1] for i in (ONE, GAPPED)] == ["ngram", "rule"]
    label(atlas, ngram_sae(), store)
    now = side.read_rows(atlas, "ngrams")
    for i in SOME:
        assert now[i]["shown"] == rows[i]["shown"]
        for name in ("train_r", "train_rule_r", "rule_r"):
            assert now[i][name] == pytest.approx(rows[i][name]), (i, name)
    assert [fronts(atlas)[i][1] for i in SOME] == ["rule", "llm", "ngram"]


def test_n_grams_held_against_another_rule_are_searched_again(atlas, store):
    def again():
        told = label_ngrams(atlas, ngram_sae(), store, NgramLM(), SOME, settings=Settings())
        return told["cost"]["n_new"]

    assert again() == 0
    row = side.read_row(atlas, "ngrams", GAPPED) | {"rule_label": "another"}
    side.merge_rows(atlas, "ngrams", [row])
    assert again() == 1


def test_an_atlas_from_before_the_rules_were_kept(atlas, store):
    rules, before = front.rules_of(atlas), fronts(atlas)
    (atlas.folder / "rules.parquet").unlink()
    told = pq.read_table(atlas.folder / "explanations.parquet")  # as it was: without its floor
    path = atlas.folder / "explanations.parquet"
    pq.write_table(told.drop_columns(["floor"]), path)
    assert load_atlas(atlas.folder).feature(GAPPED).rule_label == rules[GAPPED]["label"]
    assert front.rules_of(atlas) == rules and fronts(atlas) == before
    front.settle(atlas)
    assert fronts(atlas) == before
    save_explanations(atlas, [SAID | {"detection_auc": 0.1}], floor=0.6)
    assert fronts(atlas)[PAIR][0] == rules[PAIR]["label"]


def test_a_floor_that_was_asked_for_holds_later(atlas, store):
    save_explanations(atlas, [SAID | {"detection_auc": 0.8}], floor=0.85)
    assert fronts(atlas)[PAIR][1] == "rule"
    label(atlas, ngram_sae(), store)
    assert fronts(atlas)[PAIR][1] == "rule"


def embed(texts):
    raise AssertionError("nothing is embedded")


@pytest.mark.parametrize(
    "write",
    [
        lambda a, s: label(a, ngram_sae(), s),
        lambda a, s: label_ngrams(a, ngram_sae(), s, NgramLM(), SOME),
        lambda a, s: score_similarity(a, ngram_sae(), s, embed, SOME, embedder="e"),
        lambda a, s: keep_outputs(a, SOME, lambda *_: None, {}),
        lambda a, s: index(ngram_sae(), s, out=a.folder),
    ],
    ids=["rules", "ngrams", "similarity", "outputs", "index"],
)
def test_of_two_writers_the_second_is_told_who_is_first(atlas, store, write):
    def files():
        return {p.name: p.read_bytes() for p in atlas.folder.iterdir() if p.suffix != ".lock"}

    with folder_lock(atlas.folder, "label by a language model"):
        before = files()
        with pytest.raises(OutputError, match="got label by a language model, process") as caught:
            write(atlas, store)
        assert "Wait until it ends" in str(caught.value) and caught.value.exit_code == 2
        assert files() == before


class Score:
    """Figures of one latent, all the same."""

    steered, default, random, score = 0.5, 0.1, 0.1, 1.0

    def __init__(self, latent):
        self.latent, self.tokens, self.lens_tokens, self.basis = latent, [], [], "label"
        self.writes = self.lens = self.control = self


def test_two_runs_at_once_lose_no_row_and_a_person_goes_on_writing(atlas):
    begun, go_on = threading.Event(), threading.Event()

    def slow(latents, done):
        done([Score(latents[0])])
        begun.set()
        assert go_on.wait(60)
        done([Score(i) for i in latents[1:]])

    first = threading.Thread(target=lambda: keep_outputs(atlas, SOME, slow, {}), daemon=True)
    first.start()
    assert begun.wait(60)
    second = load_atlas(atlas.folder)
    try:
        with pytest.raises(OutputError, match=r"another process is writing to .*score outputs"):
            keep_outputs(second, [0], lambda some, done: done([Score(i) for i in some]), {"x": 1})
        second.annotate(ONE, "mine")  # as the viewer does
        second.notebook.set_note(ONE, "a note")
        second.notebook.put(ONE)
        assert load_atlas(atlas.folder).feature(ONE).label == "mine"
    finally:
        go_on.set()
        first.join(60)
    assert sorted(side.read_rows(atlas, "outputs")) == sorted(SOME)
    assert load_atlas(atlas.folder).feature(ONE).label == "mine"
    keep_outputs(second, [0], lambda some, done: done([Score(i) for i in some]), {"x": 1})
    assert len(side.read_rows(atlas, "outputs")) == len({0, *SOME})


def test_every_table_knows_its_size():
    assert {*schema.SCHEMAS, *schema.OPTIONAL} == {*schema._GROUP_ROWS}
