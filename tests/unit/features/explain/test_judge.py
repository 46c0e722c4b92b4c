"""Reading answers strictly, scoring them, and keeping them, against arithmetic done elsewhere."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from monoscope.errors import ConfigError
from monoscope.features.explain.cost import Budget, Prices, bill
from monoscope.features.explain.endpoint import Reply, Usage
from monoscope.features.explain.items import mark
from monoscope.features.explain.journal import Journal
from monoscope.features.explain.judge import read_explanation, read_json, read_verdicts
from monoscope.features.explain.prompts import NAMES, Prompts
from monoscope.features.explain.scores import mean, score
from monoscope.features.explain.windows import Window


def reply(text: str, logprobs=None) -> Reply:
    return Reply(text, Usage(1, 5, 2), logprobs)


@pytest.mark.parametrize(
    "text",
    [
        '{"answers": [1, 0]}',
        '```json\n{"answers": [1, 0]}\n```',
        'Sure! {"answers": [1, 0,]} Anything else?',
        '<think>{"answers": [0]}?</think>{"answers": [true, false]}',
    ],
)
def test_json_is_found_in_its_wrappings(text):
    assert read_verdicts(reply(text), 2) == ([1.0, 0.0], False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1, 0", "no JSON object"),
        ('{"answers": [1, 0', "no JSON object"),
        ('{"answers": 1 0}', "not valid"),
        ('{"answers": "10"}', "list of 0 and 1"),
        ('{"answers": [1, 2]}', "list of 0 and 1"),
        ('{"answers": [1, null]}', "list of 0 and 1"),
        ('{"answers": [0.9, 1]}', "list of 0 and 1"),
        ('{"answers": ["1", "0"]}', "list of 0 and 1"),
        ('{"answers": [1]}', "1 answers instead of 2"),
        ('{"answers": [1, 0, 0]}', "3 answers instead of 2"),
    ],
)
def test_what_is_no_answer_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        read_verdicts(reply(text), 2)


@pytest.mark.parametrize("text", ['{"explanation": " "}', '{"explanation": 3}', "{}"])
def test_what_is_no_explanation_is_refused(text):
    with pytest.raises(ValueError, match="explanation"):
        read_explanation(reply(text))


def test_an_explanation_is_one_line_of_limited_length():
    assert read_explanation(reply('{"explanation": " a\\n b "}')) == "a b"
    with pytest.raises(ValueError, match="longer"):
        read_explanation(reply(json.dumps({"explanation": "x" * 301})))
    assert read_json('{"a": {"b": 1}}') == {"a": {"b": 1}}


def test_log_probabilities_are_of_one_against_zero():
    def digit(own: str, p0: float, p1: float):
        tops = {"0": math.log(p0), " 1": math.log(p1), "x": math.log(1 - p0 - p1)}
        return own, tops

    head, comma, tail = ('{"answers": [', {}), (", ", {}), ("]}", {})
    told = (head, digit(" 1", 0.1, 0.3), comma, digit("0", 0.6, 0.2), tail)
    found, soft = read_verdicts(reply('{"answers": [1, 0]}', told), 2)
    assert soft and found == pytest.approx([0.75, 0.25])
    merged = ((head[0] + "1", {}), (", ", {}), digit("0", 0.6, 0.2), tail)  # "[1" is one token
    assert read_verdicts(reply('{"answers": [1, 0]}', merged), 2) == ([1.0, 0.0], False)


def test_scores_equal_scikit_learns():
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth = rng.random(30) < 0.4
        p = rng.integers(0, 5, 30) / 4  # ties
        got = score(truth.tolist(), p.tolist())
        assert got.auc == pytest.approx(roc_auc_score(truth, p), abs=1e-12)
        assert got.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, p > 0.5))
        assert (got.n_pos, got.n_neg) == (truth.sum(), (~truth).sum())


def test_too_few_answers_have_no_score():
    assert score([True] * 9 + [False] * 2, [1.0] * 11).auc is None
    assert mean([None, None]).mean is None
    told = mean([0.5, None, 1.0])
    assert (told.n, told.mean, told.share_over_0_9) == (2, 0.75, 0.5)
    assert told.low == 0.5 and told.high == 1.0


def test_marks():
    pieces = (" a", " b", "", "é", " c", " d")
    window = Window(0, 0, pieces, (0.0, 4.0, 0.9, 0.0, 1.0, 2.0))
    assert mark(window) == " a<< b>>é<< c d>>"  # 0.9 is under a quarter of the peak
    assert mark(window, [2]) == " a b<<é>> c d"  # a mark in a character goes to its end
    assert mark(window, []) == window.text


def test_the_journal_survives_a_line_cut_short(tmp_path: Path):
    path = tmp_path / "deep" / "j.jsonl"
    first = Journal(path)
    told = (("1", {"1": -0.1, "0": -2.5}),)
    first.put("a", reply("é\n", told))
    first.put("b", reply("second"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])  # killed while writing
    again = Journal(path)
    assert again.get("a") == reply("é\n", told) and again.get("b") is None and again.n_damaged == 1
    again.put("c", reply("third"))
    last = Journal(path)
    assert last.get("a") and last.get("c") == reply("third") and len(last) == 2


def test_the_key_is_of_all_that_was_asked():
    asked = ("m", "u", [{"role": "user", "content": "x"}], {"max_tokens": 5})
    keys = {Journal.key(*asked)}
    for i, other in enumerate(("n", "v", [{"role": "user", "content": "y"}], {"max_tokens": 6})):
        keys.add(Journal.key(*asked[:i], other, *asked[i + 1 :]))
    assert len(keys) == 5


def test_bills():
    usage, prices = Usage(3, 2_000_000, 500_000), Prices(0.5, 2.0)
    assert bill(usage, prices)["cost"] == 2.0
    assert "no prices" in bill(usage, Prices())["note"]
    assert "did not count" in bill(Usage(1, known=False), prices)["note"]
    with pytest.raises(ConfigError, match="belong together"):
        Prices(1.0)
    with pytest.raises(ConfigError, match="--max-cost needs prices"):
        Budget(max_cost=1.0)
    with pytest.raises(ConfigError, match=r"more than --max-cost: got about 2 for 3 questions"):
        Budget(prices, 1.9).approve(usage)
    Budget(prices, 2.1).approve(usage)


def test_prompts_are_files_that_can_be_replaced(tmp_path: Path):
    own = Prompts()
    filled = own.messages("detect", n=3, explanation="{{n}} of \\1", excerpts="E")
    assert [m["role"] for m in filled] == ["system", "user"]
    assert "Explanation: {{n}} of \\1" in filled[1]["content"]  # what is filled in is not read
    (tmp_path / "detect.md").write_text("## user\n{{explanation}}? {{excerpts}}", "utf-8")
    changed = Prompts(tmp_path)
    assert changed.messages("detect", n=1, explanation="a", excerpts="b")[0]["content"] == "a? b"
    assert changed.texts["fuzz"] == own.texts["fuzz"] and changed.hash != own.hash


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{excerpts}} {{explanation}}", "no role"),
        ("## user\n{{excerpts}}", r"lacks a name to fill in: got {{explanation}}"),
        ("## user\n{{excerpts}} {{explanation}} {{wrong}}", r"unknown name .*got {{wrong}}"),
    ],
)
def test_a_prompt_that_cannot_work_is_refused(tmp_path: Path, text, said):
    (tmp_path / "detect.md").write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=said):
        Prompts(tmp_path)


def test_a_folder_without_prompts_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="holds none"):
        Prompts(tmp_path)
    assert set(NAMES) == {"explain", "detect", "fuzz", "repair"}
