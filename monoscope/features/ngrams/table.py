"""N-gram labels on disk: a table beside the atlas, and which of them stand in front of a rule's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from monoscope.features import schema, side

if TYPE_CHECKING:
    from monoscope.features.atlas import Atlas

NAME = "ngrams"
METHOD = "ngram"

Row = dict[str, Any]


def show(atlas: Atlas, rows: Sequence[Row]) -> int:
    """Put n-gram labels in front of rules' where their rows say so; their number.

    Where one no longer is, the rule's comes back. Latents that a language model named keep its
    label, and a person's is stored elsewhere. The rule's text and scores are kept in the table.
    """
    path = atlas.folder / schema.table_file("features")
    now = pq.read_table(path, columns=[*schema.LABEL_COLUMNS])
    told = side.read_rows(atlas, "explanations")
    labels: list[Row] = []
    for row in rows:
        current = {name: now[name][row["latent"]].as_py() for name in schema.LABEL_COLUMNS}
        if current["label_method"] in (None, "rule"):
            row |= {f"rule_{n}": current[c] for n, c in _RULE.items()}
        elif current["label_method"] != METHOD and row["latent"] in told:
            row |= {f"rule_{n}": told[row["latent"]][f"rule_{n}"] for n in _RULE}
        if row["shown"] and current["label_method"] in (None, "rule", METHOD):
            labels.append(label_columns(row, current))
        elif current["label_method"] == METHOD:
            labels.append(rule_columns(row, current))
    side.merge_rows(atlas, NAME, rows)  # first, as it holds the rules' texts
    if labels:
        atlas.set_labels(labels)
    return sum(row["label_method"] == METHOD for row in labels)


def remembered(held: Mapping[int, Row], row: Row) -> Row:
    """A new row with what an older one of the latent remembers of the rule's label."""
    return {f"rule_{name}": held.get(row["latent"], {}).get(f"rule_{name}") for name in _RULE} | row


def label_columns(row: Mapping[str, Any], current: Mapping[str, Any]) -> Row:
    """Label columns for an n-gram label; what else is known of the latent stays."""
    return {
        "latent": row["latent"],
        "label": row["label"],
        "label_rule": current["label_rule"],
        "label_method": METHOD,
        "label_f1": row["f1"],
        "label_auc": row["auc"],
        "label_base": current["label_base"],
    }


def rule_columns(row: Mapping[str, Any], current: Mapping[str, Any]) -> Row:
    """Label columns of the rule that the table remembers."""
    return {
        "latent": row["latent"],
        "label": row["rule_label"],
        "label_rule": current["label_rule"],
        "label_method": None if row["rule_label"] is None else "rule",
        "label_f1": row["rule_f1"],
        "label_auc": row["rule_auc"],
        "label_base": current["label_base"],
    }


_RULE = {"label": "label", "f1": "label_f1", "auc": "label_auc"}
