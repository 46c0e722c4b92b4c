"""Holds n-grams that were found before against new rules; nothing is searched or asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from monoscope.features import front, side
from monoscope.features.label_sample import Sample
from monoscope.features.ngrams import patterns as pat
from monoscope.features.ngrams.run import Part, better, by_rule, scored
from monoscope.features.ngrams.table import NAME

if TYPE_CHECKING:
    from monoscope.data.store import ActivationStore
    from monoscope.features.atlas import Atlas

Row = dict[str, Any]


def held_against(
    atlas: Atlas, store: ActivationStore, rules: Mapping[int, Row], train: Sample, held: Sample
) -> list[Row]:
    """The n-gram table's rows whose rule is another now, saying who predicts better.

    Both predict the activation on the train tokens that the rules were made from, documents that
    the n-grams were found in left out; held-out tokens choose nothing.
    """
    found = side.read_rows(atlas, NAME)
    changed = [row for i, row in found.items() if not front.is_against(row, rules[i])]
    if not changed:
        return []
    parts = Part.of(store, train), Part.of(store, held)
    return [row | _again(row, rules[row["latent"]], *parts) for row in changed]


def _again(row: Row, rule: Row, train: Part, test: Part) -> Row:
    latent, data = row["latent"], json.loads(rule["label_rule"] or "null")
    docs = sorted({one["doc"] for one in json.loads(row["evidence"])})
    patterns = pat.from_json(row["patterns"])
    mine, theirs = scored(patterns, latent, train, docs), by_rule(latent, data, train, docs)
    same_tokens = row["r"] is not None and row["n_tokens"] == test.reading.n
    on_held_out = by_rule(latent, data, test, ()) if same_tokens else None
    return {
        **front.rule_figures(rule),
        "shown": bool(patterns) and better(mine, theirs),
        "train_r": None if mine is None else mine.r,
        "train_rule_r": None if theirs is None else theirs.r,
        "rule_r": None if on_held_out is None else on_held_out.r,
    }
