"""The reconstruction figures by position in the document and by source, language or topic.

Each slice's FVU is against the mean of that slice's own tokens: Σ‖x−x̂‖² / Σ‖x−μ_slice‖², so it says
how much of what varies inside the slice is kept, and the slices do not average to the whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monoscope.evals import downstream, reconstruction, splice, tokens
from monoscope.evals.bootstrap import DocumentSums, Sums, intervals, point
from monoscope.evals.cache import Figures
from monoscope.evals.material import Material

VERSION = 2
_MAX_VALUES = 24  # a metadata key with more values (titles) makes no slices
_VARIANCE = reconstruction.COLUMNS.index("variance")


def run(material: Material) -> Figures:
    """{"position": {bucket: {method: figures}}, "source": …} on held-out documents.

    "downstream" stands beside the methods: what splicing the SAE costs the model there.
    """
    docs = material.held_out_docs(material.sizes.slice_tokens)
    meta = {i: d.meta for i, d in material.store.get_documents(docs).items()}
    keys = [key for key in _keys(meta) if key != "position"]
    out = _cut(material, docs, ["position", *keys], meta)
    if material.lm is not None:
        for key, value, figures in _downstream(material, keys):
            out[key].setdefault(value, {})["downstream"] = figures
    return out


def _keys(meta: Mapping[int, Mapping[str, str]]) -> list[str]:
    """Metadata keys that sort documents into a few groups each."""
    counts: dict[str, Counter[str]] = {}
    for values in meta.values():
        for key, value in values.items():
            counts.setdefault(key, Counter())[value] += 1
    most = min(_MAX_VALUES, len(meta) // 3)
    return sorted(k for k, held in counts.items() if 2 <= len(held) <= most)


def _cut(
    material: Material, docs: list[int], keys: Sequence[str], meta: Mapping[int, Any]
) -> Figures:
    """Figures of every method in every slice of every key."""
    means = _means(material, docs, keys, meta)
    sums: dict[tuple[str, str, str], DocumentSums] = {}
    for x, doc, pos in _tiles(material, docs):
        labels = {key: _labels(key, doc, pos, meta) for key in keys}
        for name, reconstruct in material.methods.items():
            table = reconstruction.token_table(x, *reconstruct(x), material.mean.double())
            for key, held in labels.items():
                for value in sorted(set(held) - {""}):
                    rows = torch.tensor([v == value for v in held])
                    part = table[rows]
                    part[:, _VARIANCE] = (x[rows].double() - means[key, value]).square().sum(1)
                    at = sums.setdefault((key, value, name), DocumentSums(reconstruction.COLUMNS))
                    at.add(doc[rows], part)
    out: Figures = {key: {} for key in keys}
    for (key, value, name), held_sums in sums.items():
        out[key].setdefault(value, {})[name] = _figures(material, held_sums.sums())
    if "position" in out:
        out["position"] = {
            b: out["position"][b] for b in downstream.bucket_names() if b in out["position"]
        }
    return out


def _means(
    material: Material, docs: list[int], keys: Sequence[str], meta: Mapping[int, Any]
) -> dict[tuple[str, str], Tensor]:
    """Mean [D] fp64 of the tokens of each slice."""
    totals: dict[tuple[str, str], Tensor] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for x, doc, pos in _tiles(material, docs):
        for key in keys:
            held = _labels(key, doc, pos, meta)
            for value in set(held) - {""}:
                rows = torch.tensor([v == value for v in held])
                zero = torch.zeros(x.shape[1], dtype=torch.float64)
                totals[key, value] = totals.get((key, value), zero) + x[rows].double().sum(0)
                counts[key, value] += int(rows.sum())
    return {at: total / counts[at] for at, total in totals.items()}


def _labels(key: str, doc: Tensor, pos: Tensor, meta: Mapping[int, Any]) -> list[str]:
    """The slice each token is in; "" where its document does not say."""
    if key == "position":
        names = downstream.bucket_names()
        return [names[i] for i in downstream.bucket_of(pos).tolist()]
    return [meta[d].get(key, "") for d in doc.tolist()]


def _tiles(material: Material, docs: list[int]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    wanted = torch.tensor(sorted(docs), dtype=torch.int64)
    for batch in material.store.batches("held_out", tokens.TILE):
        mine = torch.isin(batch.doc, wanted)
        if mine.any():
            yield batch.acts[mine].float(), batch.doc[mine], batch.pos[mine]


def _figures(material: Material, sums: Sums) -> Figures:
    found: Figures = dict(point(sums, reconstruction.figures))
    found["ci"] = intervals(sums, reconstruction.figures, material.bootstrap, material.seed)
    found["n_tokens"] = int(sums.total()["n"][0])
    found["n_documents"] = len(sums.docs)
    return found


def _downstream(material: Material, keys: list[str]) -> Iterator[tuple[str, str, Figures]]:
    """ΔCE, KL and loss recovered of the SAE by slice: key, value, figures."""
    inside = downstream.of(material)
    for number, name in enumerate(downstream.bucket_names()):
        if len((part := inside.at(number)).docs):
            yield "position", name, _inside(material, part)
    sums = inside.by_document()
    stored = material.store.get_documents(sums.docs.tolist())
    for key in keys:
        values = np.array([stored[d].meta.get(key, "") for d in sums.docs.tolist()])
        for value in sorted(set(values.tolist()) - {""}):
            part = sums.rows(values == value)
            if part.total()["n"][0]:
                yield key, value, _inside(material, part)


def _inside(material: Material, sums: Sums) -> Figures:
    metrics = partial(splice.figures, name="sae")
    found: Figures = dict(point(sums, metrics))
    found["ci"] = intervals(sums, metrics, material.bootstrap, material.seed)
    found["n_predictions"] = int(sums.total()["n"][0])
    return found
