"""The explanations on disk: a table beside the atlas, and which of them become labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from monoscope.errors import FormatError
from monoscope.features import front, schema, side

if TYPE_CHECKING:
    from monoscope.features.atlas import Atlas

NAME = front.EXPLANATIONS
METHOD = front.LLM

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
    """Merge rows into the table, and put those in front that earned it; their number.

    An explanation becomes the label where its detection AUC is at least `floor`; where it is not,
    n-grams' or the rule's label stands there, see `front`.
    """
    rules = front.rules_of(atlas)
    told = [row | front.rule_figures(rules[row["latent"]]) | {"floor": floor} for row in rows]
    side.merge_rows(atlas, NAME, told)
    return front.settle(atlas, [row["latent"] for row in rows])[METHOD]


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
