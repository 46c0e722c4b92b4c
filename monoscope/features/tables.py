"""The atlas's Parquet tables: their columns, and how statistics become their rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from monoscope.features.logits import Logits
from monoscope.features.neighbours import Neighbours
from monoscope.features.sample_kernels import REACH, WINDOW
from monoscope.features.samples import Chosen
from monoscope.features.schema import SCHEMAS
from monoscope.features.statistics import Statistics


def features_table(statistics: Statistics, logits: Logits | None) -> pa.Table:
    """One row per latent: figures over its active tokens, metadata shares, logit lens, no label."""
    moments, schema = statistics.moments, SCHEMAS["features"]
    n = statistics.n_latents
    columns: dict[str, Any] = {
        "latent": np.arange(n),
        "n_active": moments.count,
        "density": moments.count / statistics.n_tokens,
        "mean": moments.mean(),
        "std": moments.std(),
        "max": moments.peak,
        "hist": _lists(moments.hist.ravel(), np.full(n, moments.hist.shape[1]), pa.int64()),
        "meta_mass": _meta_mass(statistics),
    }
    if logits is not None:
        columns |= vars(logits)
    return _table(columns, n, schema)


def examples_table(chosen: Sequence[Chosen], documents: Mapping[int, Any]) -> pa.Table:
    """One row per example, sorted by latent; `values` covers the tokens of the document that lie
    within REACH of the example's own. documents: those of the examples, by number."""
    order = np.argsort(np.concatenate([c.latent for c in chosen]), kind="stable")

    def joined(name: str) -> NDArray[Any]:
        array: NDArray[Any] = np.concatenate([getattr(c, name) for c in chosen])[order]
        return array

    doc, pos, band = joined("doc"), joined("pos").astype(np.int64), joined("band")
    length = np.array([len(documents[d].ends) for d in doc.tolist()], np.int64)
    start, end = np.maximum(pos - REACH, 0), np.minimum(pos + REACH + 1, length)
    place = pos[:, None] + np.arange(-REACH, REACH + 1)
    inside = (place >= start[:, None]) & (place < end[:, None])
    assert inside.shape[1] == WINDOW
    columns = {
        "latent": joined("latent"),
        "kind": np.where(band < 0, "top", "band"),
        "band": pa.array(band, pa.int8(), mask=band < 0),
        "rank": joined("rank"),
        "value": joined("value"),
        "doc": doc,
        "pos": pos,
        "token": [piece(documents[d], p) for d, p in zip(doc.tolist(), pos.tolist(), strict=True)],
        "start": start,
        "values": _lists(joined("window")[inside], inside.sum(1), pa.float32()),
    }
    return _table(columns, len(doc), SCHEMAS["examples"])


def contexts_table(documents: Mapping[int, Any]) -> pa.Table:
    """One row per document that an example comes from, sorted by number."""
    rows = [documents[number] for number in sorted(documents)]
    columns = {
        "doc": [row.doc for row in rows],
        "split": [row.split for row in rows],
        "text": [row.text for row in rows],
        "token_ids": [list(row.token_ids) for row in rows],
        "ends": [list(row.ends) for row in rows],
        "meta": [json.dumps(row.meta, ensure_ascii=False, sort_keys=True) for row in rows],
    }
    return _table(columns, len(rows), SCHEMAS["contexts"])


def neighbours_table(decoder: Neighbours, coactivation: Neighbours) -> pa.Table:
    """One row per pair, sorted by latent, kind and rank; pmi is null where never both active."""
    parts = []
    for kind, pairs in (("decoder", decoder), ("coactivation", coactivation)):
        columns = {**vars(pairs), "kind": np.full(len(pairs.latent), kind, dtype=object)}
        columns["pmi"] = pa.array(pairs.pmi, mask=np.isnan(pairs.pmi))
        parts.append(_table(columns, len(pairs.latent), SCHEMAS["neighbours"]))
    order = [("latent", "ascending"), ("kind", "descending"), ("rank", "ascending")]
    return pa.concat_tables(parts).sort_by(order)


def piece(document: Any, i: int) -> str:
    """The text of a document's token i; empty where the token only continues a character."""
    text: str = document.text[document.ends[i - 1] if i else 0 : document.ends[i]]
    return text


def _meta_mass(statistics: Statistics) -> pa.Array:
    """The share of each latent's activation on each metadata value, zero shares left out."""
    names = statistics.meta.names(statistics.n_documents)
    mass = statistics.meta.mass[:, [column for _, column in names]]
    latent, which = np.nonzero(mass)
    share = mass[latent, which] / statistics.moments.total[latent]
    counts = np.bincount(latent, minlength=statistics.n_latents)
    offsets = np.concatenate([[0], counts.cumsum()]).astype(np.int32)
    keys = pa.array([name for name, _ in names], pa.string()).take(pa.array(which))
    return pa.MapArray.from_arrays(pa.array(offsets), keys, pa.array(share, pa.float64()))


def _lists(flat: NDArray[Any], lengths: NDArray[np.int64], kind: pa.DataType) -> pa.Array:
    """Lists of the given lengths, in order, over the values of `flat`."""
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat, kind))


def _table(columns: Mapping[str, Any], n: int, schema: pa.Schema) -> pa.Table:
    """A table of n rows with exactly the schema's columns; those not given are null."""
    arrays = []
    for field in schema:
        given = columns.get(field.name)
        if given is None:
            arrays.append(pa.nulls(n, field.type))
        elif isinstance(given, pa.Array):
            arrays.append(given.cast(field.type))
        else:
            arrays.append(pa.array(given, field.type))
    return pa.Table.from_arrays(arrays, schema=schema)
