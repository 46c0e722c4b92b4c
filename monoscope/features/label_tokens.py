"""The tokens that a label carries in what is recorded of it: what it says a latent fires on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from monoscope.features.front import NGRAM, RULE

_EXACT = ("token", "next")  # the token itself; what the label says comes after it
_UNCLEAR = "unclear"


def label_tokens(
    label: str | None,
    method: str | None,
    rule: Mapping[str, Any] | None,
    ngram: Mapping[str, Any] | None,
) -> list[str]:
    """Tokens of the label in front, best first; empty where it is in words alone, or unclear.

    rule: the rule as data; its tokens, words (in the forms a token has) and what it says follows.
    ngram: the row of the table; the last token of each pattern, heaviest first. A person's or a
    language model's label carries none.
    """
    if not label or label.startswith(_UNCLEAR):
        return []
    if method == RULE and rule is not None:
        return _of_rule(rule)
    if method == NGRAM and ngram is not None:
        patterns = json.loads(ngram["patterns"] or "[]")
        patterns.sort(key=lambda p: (-p["n_contexts"] * p["value"], str(p["tokens"])))
        last = (p["texts"][-1] for p in patterns)
        return list(dict.fromkeys(text for text in last if text))
    return []


def _of_rule(rule: Mapping[str, Any]) -> list[str]:
    if rule.get("kind") == "both":
        return [*_of_rule(rule["left"]), *_of_rule(rule["right"])]
    values = [str(value) for value in rule.get("values", ())]
    if rule.get("field") in _EXACT:
        return values
    if rule.get("field") == "word":  # kept without its space and in lower case
        return [form for v in values for form in (f" {v}", v, f" {v.capitalize()}", v.capitalize())]
    return []
