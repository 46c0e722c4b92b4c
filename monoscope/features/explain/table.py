"""The explanations on disk: a table beside the atlas, and which of them become labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from monoscope.errors import FormatError
from monoscope.features import schema, side
from monoscope.features.ngrams import table as ngrams

if TYPE_CHECKING:
    from monoscope.features.atlas import Atlas

NAME = "explanations"
METHOD = "llm"

Row = dict[str, Any]


def explanations(folder: Path, build: str) -> dict[int, Row]:
    """Every explanation that belongs to this build of the atlas, by latent; empty without any.

    Raises FormatError if the table is damaged.
    """
    return {row["latent"]: row for row in _read(folder, build, None)}


def explanation(folder: Path, build: str, latent: int) -> Row | None:
    """One latent's explanation with its scores; None where there is none.

    Raises FormatError if the table is damaged.
    """
    rows = _read(folder, build, [("latent", "=", latent)])
    if not rows:
        return None
    return rows[0] | {"evidence": json.loads(rows[0]["evidence"] or "null")}


def save(atlas: Atlas, rows: Sequence[Row], *, floor: float) -> int:
    """Merge rows into the table, and give the atlas those labels that earned it; their number.

    An explanation becomes the label where its detection AUC is at least `floor`; where it is not,
    the label there was, by rule or n-grams, stays or comes back. The rule's own text and scores
    are kept in the table. A human's label is stored elsewhere and goes before both.
    """
    held = explanations(atlas.folder, atlas.manifest["build"])
    now = pq.read_table(
        atlas.folder / schema.table_file("features"), columns=[*schema.LABEL_COLUMNS]
    )
    grams = side.read_rows(atlas, ngrams.NAME)
    labels: list[Row] = []
    n_set = 0
    for row in rows:
        latent = row["latent"]
        current = {name: now[name][latent].as_py() for name in schema.LABEL_COLUMNS}
        rule = _rule_of(current, held.get(latent), grams.get(latent))
        held[latent] = row | rule
        earned = row["detection_auc"] is not None and row["detection_auc"] >= floor
        if earned and row["explanation"]:
            n_set += 1
            labels.append(_label(row, current))
        elif current["label_method"] == METHOD:
            labels.append(_back(latent, rule, current, grams.get(latent)))
    table = pa.Table.from_pylist([held[i] for i in sorted(held)], schema=schema.OPTIONAL[NAME])
    path = atlas.folder / schema.table_file(NAME)
    schema.write_table(table, NAME, path, atlas.manifest)  # first, as it holds the rules' texts
    if labels:
        atlas.set_labels(labels)
    return n_set


def _label(row: Row, current: Row) -> Row:
    """Label columns for an explanation: no F1, which is over tokens and would not compare."""
    return {
        "latent": row["latent"],
        "label": row["explanation"],
        "label_rule": current["label_rule"],
        "label_method": METHOD,
        "label_f1": None,
        "label_auc": row["detection_auc"],
        "label_base": current["label_base"],
    }


def _rule_of(current: Row, held: Row | None, gram: Row | None) -> Row:
    """The rule's label and scores, from the atlas or, once replaced there, from a table."""
    if current["label_method"] in (METHOD, ngrams.METHOD):
        held = (held if current["label_method"] == METHOD else gram) or {}
        return {name: held.get(name) for name in ("rule_label", "rule_f1", "rule_auc")}
    return {
        "rule_label": current["label"],
        "rule_f1": current["label_f1"],
        "rule_auc": current["label_auc"],
    }


def _back(latent: int, rule: Row, current: Row, gram: Row | None) -> Row:
    """Label columns of the n-grams where they are better than the rule, else of the rule."""
    if gram is not None and gram["shown"]:
        return ngrams.label_columns(gram, current)
    return {
        "latent": latent,
        "label": rule["rule_label"],
        "label_rule": current["label_rule"],
        "label_method": None if rule["rule_label"] is None else "rule",
        "label_f1": rule["rule_f1"],
        "label_auc": rule["rule_auc"],
        "label_base": current["label_base"],
    }


def _read(folder: Path, build: str, filters: Any) -> list[Row]:
    path = folder / schema.table_file(NAME)
    if not path.is_file():
        return []
    try:
        found = pq.read_schema(path)
        metadata: Mapping[bytes, bytes] = found.metadata or {}
        if metadata.get(schema.BUILD, b"").decode() != build:
            return []  # of another index
        table = pq.read_table(path, filters=filters, schema=schema.OPTIONAL[NAME])
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise FormatError(
            f"{path} is damaged", got=exc, hint="Delete it and label again; answers are kept."
        ) from exc
    rows: list[Row] = table.to_pylist()
    return rows
