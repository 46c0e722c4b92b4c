"""Which tokens a label carries, by who gave it."""

from __future__ import annotations

import json

import pytest

from monoscope.features.label_tokens import label_tokens
from monoscope.features.ngrams.patterns import Pattern, describe, to_json
from monoscope.features.rules import AnyOf, Both


def of(rule) -> list[str]:
    return label_tokens(rule.describe(), "rule", rule.to_json() | {"held_out": {}}, None)


@pytest.mark.parametrize(
    ("rule", "tokens"),
    [
        (AnyOf("token", (" est", "est")), [" est", "est"]),
        (AnyOf("word", ("king",)), [" king", "king", " King", "King"]),
        (AnyOf("next", (" of",)), [" of"]),  # before " of": the label says that it comes
        (AnyOf("previous", (" and",)), []),  # after " and": what comes is not said
        (AnyOf("phrase", (" set of",)), []),
        (AnyOf("shape", ("digits",)), []),
        (AnyOf("meta:lang", ("fr",)), []),
        (Both(AnyOf("token", (" est",)), AnyOf("meta:lang", ("fr",))), [" est"]),
    ],
)
def test_rules(rule, tokens):
    assert of(rule) == tokens


def test_ngrams_promise_the_last_token_of_each_pattern_in_the_labels_order():
    patterns = [
        Pattern((5, 1), 2.0, 3), Pattern((2,), 9.0, 4), Pattern((7, None, 1), 1.0, 1),
        Pattern((7, None), 8.0, 1),
    ]  # fmt: skip
    texts = {5: " a", 1: " b", 2: " c", 7: " d"}
    row = {"patterns": to_json(patterns, texts)}
    label = describe(patterns, texts)
    assert label.startswith('" c" · ')
    assert label_tokens(label, "ngram", None, row) == [" c", " b"]
    assert json.loads(row["patterns"])[0]["texts"] == [" a", " b"]


def test_words_alone_carry_none():
    rule = AnyOf("token", (" est",)).to_json()
    for label, method in (
        ("French verbs", "llm"), ("mine", "human"), (None, None),
        ('unclear · best guess " est"', "rule"),
    ):  # fmt: skip
        assert label_tokens(label, method, rule, None) == []
