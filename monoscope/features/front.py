"""Which label stands in front of a latent: one rule, applied to the stored tables anew each time.

A person's label is kept apart (annotations.py) and goes before all. Then comes a language model's
that passed its exam, then n-grams' where they predict train tokens better than the rule, then the
rule's. Whoever changes one of the tables calls `settle`, so that no order of runs matters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from monoscope.features import schema, side

if TYPE_CHECKING:
    from monoscope.features.atlas import Atlas

RULES, NGRAMS, EXPLANATIONS = "rules", "ngrams", "explanations"
RULE, NGRAM, LLM = "rule", "ngram", "llm"  # label_method, from last to first
FLOOR = 0.6  # detection AUC that earns a place, where the table does not say what was asked

Row = dict[str, Any]
_OF_RULE = {"rule_label": "label", "rule_f1": "label_f1", "rule_auc": "label_auc"}


def front(rule: Row, gram: Row | None, told: Row | None) -> Row:
    """The label columns of a latent from its rows in the three tables.

    label_rule and label_base are the rule's, whoever labels. A language model's label has no F1,
    which is over tokens and would not compare.
    """
    columns = {name: rule.get(name) for name in schema.LABEL_COLUMNS}
    if told is not None and passed(told):
        auc = told["detection_auc"]
        new = {"label": told["explanation"], "label_method": LLM, "label_f1": None}
        return columns | new | {"label_auc": auc}
    if gram is not None and gram["shown"] and gram["label"]:
        new = {"label": gram["label"], "label_method": NGRAM, "label_f1": gram["f1"]}
        return columns | new | {"label_auc": gram["auc"]}
    return columns | {"label_method": None if columns["label"] is None else RULE}


def passed(told: Row) -> bool:
    """Whether an explanation's detection AUC reaches the floor that was asked of it."""
    floor = FLOOR if told.get("floor") is None else told["floor"]
    auc = told["detection_auc"]
    return bool(told["explanation"]) and auc is not None and auc >= floor


def settle(atlas: Atlas, latents: Iterable[int] | None = None) -> Counter[str | None]:
    """Put in front what belongs there, of these latents or of all; how many of each method.

    Raises LatentError, FormatError if a table is damaged, OutputError if none can be written.
    """
    rules = rules_of(atlas)
    grams, told = side.read_rows(atlas, NGRAMS), side.read_rows(atlas, EXPLANATIONS)
    wanted = range(atlas.n_features) if latents is None else dict.fromkeys(latents)
    rows = [
        {"latent": i, **front(rules.get(i, {}), grams.get(i), told.get(i))}
        for i in map(atlas.require, wanted)
    ]
    if rows:
        atlas.set_labels(rows)
    return Counter(row["label_method"] for row in rows)


def keep_rules(atlas: Atlas, rows: Iterable[Row]) -> None:
    """Keep the rules' label columns, whoever stands in front of them."""
    names = schema.OPTIONAL[RULES].names
    side.merge_rows(atlas, RULES, [{name: row[name] for name in names} for row in rows])


def rules_of(atlas: Atlas) -> dict[int, Row]:
    """The rules' label columns by latent; an atlas from before they were kept is given the table.

    There they stand in front, or are remembered by whoever was put in front of them.
    """
    held = side.read_rows(atlas, RULES)
    if held:
        return held
    path = atlas.folder / schema.table_file("features")
    now = pq.read_table(path, columns=["latent", *schema.LABEL_COLUMNS]).to_pylist()
    memory = {NGRAM: side.read_rows(atlas, NGRAMS), LLM: side.read_rows(atlas, EXPLANATIONS)}
    for row in now:
        method = row.pop("label_method")
        if method in memory:
            before: Mapping[str, Any] = memory[method].get(row["latent"], {})
            row |= {column: before.get(name) for name, column in _OF_RULE.items()}
    if any(row["label"] is not None for row in now):
        keep_rules(atlas, now)
    return {row["latent"]: row for row in now}


def rule_figures(rule: Mapping[str, Any]) -> Row:
    """The rule's label, F1 and AUC as the other tables remember them."""
    return {name: rule.get(column) for name, column in _OF_RULE.items()}


def is_against(row: Mapping[str, Any], rule: Mapping[str, Any]) -> bool:
    """Whether a row of another table was held against this rule."""
    return all(row.get(name) == value for name, value in rule_figures(rule).items())
