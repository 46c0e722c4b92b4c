"""Output scores kept with an atlas, and what they make of a feature: it reads, writes, or both.

This room knows no steering: whoever scores is handed over, see `steer.outputs.output_scores`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow.parquet as pq

from monoscope.features import schema, side
from monoscope.features.does import READS_AUC, WRITES_NATS, does

if TYPE_CHECKING:
    from monoscope.features.atlas import Atlas

NAME = "outputs"
VERSION = 2  # 1 promised the tokens of the contexts alone, whatever the label said

Row = dict[str, Any]
Progress = Callable[[int, int], None]


class Figures(Protocol):
    """One promise's output score: the shares it comes from, and itself in nats."""

    steered: float
    default: float
    random: float

    @property
    def score(self) -> float: ...


@side.one_writer("score outputs")
def keep_outputs(
    atlas: Atlas,
    latents: Sequence[int],
    score: Callable[[list[int], Callable[[Sequence[Any]], None]], object],
    settings: Mapping[str, Any],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score latents, keep each group as it is done, write the summary; the summary.

    score: given latents and whom to tell of each finished group, scores them. settings: what the
    scores depend on; latents kept from the same ones, and the same label, are not scored again.

    Raises LatentError, and what `score` raises.
    """
    wanted = [atlas.require(latent) for latent in dict.fromkeys(latents)]
    labels = _labels(atlas)
    marks = {i: side.fingerprint(VERSION, dict(settings) | {"label": labels[i]}) for i in wanted}
    held = side.read_rows(atlas, NAME)
    todo = [i for i in wanted if i not in held or held[i]["settings"] != marks[i]]
    n_done = len(wanted) - len(todo)

    def keep(group: Sequence[Any]) -> None:
        nonlocal n_done
        side.merge_rows(atlas, NAME, [_row(o, marks[o.latent]) for o in group])
        n_done += len(group)
        if progress is not None:
            progress(n_done, len(wanted))

    if todo:
        score(todo, keep)
    rows = side.read_rows(atlas, NAME)
    summary = summarise(atlas, [rows[latent] for latent in wanted], settings)
    side.write_summary(atlas, NAME, summary)
    return summary


def summarise(atlas: Atlas, rows: Sequence[Row], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Medians, how many write by each promise, and how many read, write, do both or neither."""

    def of(name: str) -> dict[str, float | int | None]:
        values = np.array([row[name] for row in rows if row[name] is not None])
        return {
            "n": len(values),
            "median": float(np.median(values)) if len(values) else None,
            "share_that_writes": float((values >= WRITES_NATS).mean()) if len(values) else None,
        }

    reads = label_aucs(atlas)
    kinds = [does(reads.get(row["latent"]), row["writes"]) for row in rows]
    return {
        "schema_version": 1,
        "method": "output",
        "settings": dict(settings),
        "thresholds": {"reads_auc": READS_AUC, "writes_nats": WRITES_NATS},
        "n_latents": len(rows),
        "writes": of("writes"),
        "basis": dict(Counter(row["basis"] for row in rows if row["basis"] is not None)),
        "lens": of("lens"),
        "control": of("control") | {"definition": "another latent's own tokens"},
        "does": {k: kinds.count(k) for k in ("both", "reads", "writes", "neither")}
        | {"unknown": kinds.count(None)},
    }


def label_aucs(atlas: Atlas) -> dict[int, float | None]:
    """The held-out AUC of every latent's label, a person's left aside."""
    path = atlas.folder / schema.table_file("features")
    table = pq.read_table(path, columns=["latent", "label_auc"])
    return {row["latent"]: row["label_auc"] for row in table.to_pylist()}


def _labels(atlas: Atlas) -> dict[int, str | None]:
    """The label in front of every latent, a person's first."""
    path = atlas.folder / schema.table_file("features")
    rows = pq.read_table(path, columns=["latent", "label"]).to_pylist()
    return {row["latent"]: row["label"] for row in rows} | atlas.annotations()


def _row(outputs: Any, mark: str) -> Row:
    row: Row = {"latent": outputs.latent, "settings": mark}
    for name in ("writes", "lens", "control"):
        figures: Figures | None = getattr(outputs, name)
        row[name] = None if figures is None else figures.score
        for part in ("steered", "default", "random"):
            row[f"{name}_{part}"] = None if figures is None else getattr(figures, part)
    words = ("tokens", "lens_tokens", "basis")
    return row | {name: getattr(outputs, name) for name in words}
