"""Explaining and judging end to end, against a scripted judge whose scores are known beforehand."""

from __future__ import annotations

import io
import json
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from monoscope.errors import (
    ConfigError,
    EndpointError,
    FormatError,
    LatentError,
    MismatchError,
    OutputError,
)
from monoscope.features.atlas import Atlas, load_atlas
from monoscope.features.explain.cost import Budget, Prices
from monoscope.features.explain.endpoint import Endpoint
from monoscope.features.explain.journal import Journal
from monoscope.features.explain.plan import Settings
from monoscope.features.explain.run import explain, in_parallel, pick
from monoscope.features.explain.table import explanations
from monoscope.features.show import feature_page
from monoscope.locks import folder_lock
from monoscope.ops.codes import SparseCodes
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
    assert summary["balanced_accuracy"]["fuzzing"]["mean"] == 1.0
    assert summary["control"]["shuffled"]["n"] == 4
    fuzzing = summary["control"]["shuffled"]["fuzzing"]  # whose marks are right for another word
    assert fuzzing["n"] == 4 and fuzzing["mean"] < 0.75
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


def test_probabilities_make_the_auc_where_the_server_tells_them(atlas, store):
    def unsure(said: int, text: str) -> float:
        return 0.4 if said else 0.1  # below one half, yet in the right order

    summary = asked(atlas, store, Script(p_yes=unsure))
    for row in rows(atlas).values():
        assert row["detection_auc"] == 1.0 and row["detection_accuracy"] == 0.5
    assert summary["auc"]["detection"]["mean"] == 1.0
    assert summary["balanced_accuracy"]["detection"]["mean"] == 0.5
    assert summary["n_batches_with_logprobs"] == summary["n_batches"] > 0


class RandomCodes:
    """As evals.baselines.RandomSAE: latents that fire on tokens at random."""

    def encode(self, x: torch.Tensor) -> SparseCodes:
        draw = torch.Generator().manual_seed(int(x.double().sum() * 1000))
        return SparseCodes.from_dense((torch.rand(len(x), 6, generator=draw) < 0.05).float())


def test_the_random_control_goes_the_whole_way_and_scores_one_half(atlas, store):
    settings = Settings(n_items=30, width=4, n_control=6)
    summary = asked(atlas, store, Script(), random_sae=RandomCodes(), settings=settings)
    control = summary["control"]["random_sae"]
    assert control["given"] and control["detection"]["n"] == 6
    assert abs(control["detection"]["mean"] - 0.5) < 0.15
    assert summary["auc"]["detection"]["mean"] == 1.0
    without = asked(atlas, store, Script())
    assert not without["control"]["random_sae"]["given"]
    assert without["control"]["random_sae"]["detection"]["mean"] is None


def test_failures_are_counted_and_never_scored(atlas, store):
    def refuses(number: int, body: Any) -> Any:
        if "wine" in body["messages"][1]["content"].split("\n")[0]:
            choice = {"message": {"content": None, "refusal": "no"}, "finish_reason": "stop"}
            told = {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 1}}
            return 200, {}, json.dumps(told).encode()
        return None

    summary = asked(atlas, store, Script(disturb=refuses))
    table = rows(atlas)
    wine = table[NAMED.index("wine")]
    assert wine["detection_auc"] is None and wine["n_positive"] == 0 and wine["n_failed"] >= 1
    assert table[0]["detection_auc"] == 1.0 and table[0]["n_failed"] == 0
    assert summary["failures"] == {"refusal": summary["n_failed"]} and summary["n_failed"] > 1
    good = summary["spent"]["n_calls"] - summary["n_failed"]
    assert summary["spent"]["prompt_tokens"] == 100 * good + 7 * summary["n_failed"]


def test_a_run_that_was_stopped_goes_on_from_the_answers_it_has(atlas, store, tmp_path):
    path, one = tmp_path / "answers.jsonl", replace(SMALL, concurrency=1)
    script = Script(disturb=lambda number, body: (401, {}, b"{}") if number >= 9 else None)

    def again(url: str) -> dict[str, Any]:
        with Endpoint(url, "judge", key="") as endpoint:
            return explain(
                atlas, word_sae(), store, endpoint, LATENTS, journal=Journal(path), settings=one
            )

    with serving(script) as url:
        with pytest.raises(EndpointError, match="HTTP 401"):
            again(url)
        assert len(Journal(path)) == 9 and not rows(atlas)
        script.disturb = None
        path.write_bytes(path.read_bytes()[:-20])  # and the ninth was being written
        second = again(url)
        assert (second["reused"]["n_calls"], second["n_failed"]) == (8, 0)
        table, n_asked = rows(atlas), len(script.bodies)
        third = again(url)
        assert len(script.bodies) == n_asked and third["spent"]["n_calls"] == 0
        assert third["reused"]["n_calls"] == 8 + second["spent"]["n_calls"]
        assert rows(atlas) == table


def test_what_people_and_rules_said_stays(atlas, store):
    atlas.set_labels(
        {"latent": i, "label": f"rule {i}", "label_rule": '{"kind": "x"}', "label_method": "rule",
         "label_f1": 0.5, "label_auc": 0.75, "label_base": 0.01} for i in (0, 1)
    )  # fmt: skip
    atlas.annotate(0, "mine")
    asked(atlas, store, Script())
    after = load_atlas(atlas.folder)
    mine, river = after.feature(0), after.feature(2)
    assert (mine.label, mine.label_method, mine.rule_label) == ("mine", "human", "rule 0")
    assert mine.explanation["explanation"] == "the word paris"
    wine = after.feature(1)
    assert (wine.label, wine.label_method) == ("the word wine", "llm")
    assert (wine.label_auc, wine.label_f1, wine.label_base) == (1.0, None, 0.01)
    assert (wine.rule_label, wine.label_rule) == ("rule 1", {"kind": "x"})
    assert (river.label, river.rule_label) == ("the word river", None)
    assert after.feature(DEAD).explanation is None
    page = shown(wine)
    assert "named by judge: AUC 1.00, hard negatives 1.00, fuzzing 1.00" in page
    assert "sensitivity 1.00, specificity 1.00" in page and "language model" in page
    # A judge who is no good takes the label back; the rule's returns with its scores.
    asked(after, store, Script(verdict=lambda truth, text: int(not truth)))
    back = load_atlas(atlas.folder).feature(1)
    assert (back.label, back.label_method, back.label_f1, back.label_auc) == (
        "rule 1", "rule", 0.5, 0.75,
    )  # fmt: skip
    assert "the word wine" in shown(back)


def shown(feature: Any) -> str:
    console = Console(width=200, file=io.StringIO(), color_system=None)
    console.print(feature_page(feature))
    return console.file.getvalue()


def test_a_dry_run_and_a_budget_too_small_ask_nothing(atlas, store):
    script = Script()
    told = asked(atlas, store, script, dry_run=True)
    real = asked(atlas, store, Script())["spent"]["n_calls"]
    assert told["estimated"]["n_calls"] == real and told["estimated"]["cost"] is None
    with pytest.raises(ConfigError, match="more than --max-cost"):
        asked(atlas, store, script, budget=Budget(Prices(1.0, 1.0), max_cost=1e-6))
    assert script.bodies == []


def test_an_atlas_of_another_sae_and_a_latent_that_is_none_are_refused(atlas, store):
    other = word_sae()
    with torch.no_grad():
        other.W_enc.mul_(2)
    with Endpoint("http://127.0.0.1:9", "m", key="") as endpoint:
        with pytest.raises(MismatchError, match="another SAE"):
            explain(atlas, other, store, endpoint, [0])
        with pytest.raises(LatentError):
            explain(atlas, word_sae(), store, endpoint, [99])


def test_the_same_tables_after_another_index_hold_no_old_explanations(atlas, store):
    asked(atlas, store, Script())
    assert len(rows(atlas)) == 4
    assert explanations(atlas.folder, "another build") == {}
    (atlas.folder / "explanations.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(FormatError, match=r"explanations.parquet is damaged"):
        rows(atlas)


def test_a_failure_does_not_wait_for_threads_that_hang():
    free, done = threading.Event(), []

    def hangs() -> None:
        free.wait(60)
        done.append("hung")

    def fails() -> None:
        raise EndpointError("gone")

    with pytest.raises(EndpointError, match="gone"):
        in_parallel([hangs, fails, hangs], 2)
    assert done == []  # it was raised while the first still hung
    free.set()
    in_parallel([partial(done.append, i) for i in range(9)], 4)
    assert {*range(9)} <= {*done}


def test_pick_draws_alive_latents(atlas):
    assert pick(atlas, 99, 0) == list(range(DEAD))
    assert len(pick(atlas, 2, 0)) == 2


def test_while_another_command_labels_nothing_is_asked_but_an_estimate_is_given(atlas, store):
    script = Script()
    with folder_lock(atlas.folder, "label by rule"):
        with pytest.raises(OutputError, match="got label by rule, process"):
            asked(atlas, store, script)
        assert asked(atlas, store, script, dry_run=True)["estimated"]
    assert script.bodies == [] and not rows(atlas)
