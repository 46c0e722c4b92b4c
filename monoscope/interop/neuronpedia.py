"""Neuronpedia: upload batches as its API takes them, and the bulk JSON lines that it imports."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from monoscope.artifact.interop.hooks import hook_of_site
from monoscope.files import require_folder, write_atomic
from monoscope.interop.shown import Shown, json_line, place, require_atlas, shown, silent

if TYPE_CHECKING:
    from monoscope.features.atlas import Atlas
    from monoscope.sae import SAE

BATCH = 128  # features that one POST /api/feature/upload-batch takes at most
MARK = "source.jsonl"
_SHOWN_LOGITS = 10


def write_neuronpedia(
    sae: SAE, folder: Path, atlas: Atlas | None, probe: Tensor | None
) -> dict[str, Any]:
    """Write an atlas for Neuronpedia; the source set is named as the folder.

    upload/batch-N.json: bodies for POST /api/feature/upload-batch, at most 128 features each.
    release, model, sourceset and source.jsonl beside features/, activations/ and explanations/ as
    batch-N.jsonl.gz: the bulk format. Latents that never fired are left out.
    """
    atlas = require_atlas(sae, atlas, "neuronpedia")
    require_folder(folder, MARK, also=("upload", "features", "activations", "explanations"))
    model, layer, _ = place(sae, atlas)
    name = re.sub(r"[^a-z0-9-]+", "-", folder.absolute().name.lower()).strip("-") or "monoscope"
    source = f"{layer}-{name}"
    about = _About(sae, atlas, model, source, name)
    for part in ("upload", "features", "activations", "explanations"):
        (folder / part).mkdir(exist_ok=True)
    counts = {"n_features": 0, "n_activations": 0, "n_explanations": 0, "n_batches": 0}
    for number, features in enumerate(shown(atlas, BATCH)):
        payload = {"modelId": model, "source": source, "features": [upload(f) for f in features]}
        write_atomic(folder / "upload" / f"batch-{number}.json", json_line(payload))
        tables = {
            "features": [about.feature(f) for f in features],
            "activations": [row for f in features for row in about.activations(f)],
            "explanations": [about.explanation(f) for f in features if f.label],
        }
        for table, rows in tables.items():
            _write_lines(folder / table / f"batch-{number}.jsonl.gz", rows)
            counts[f"n_{table}"] += len(rows)
        counts["n_batches"] += 1
    for table, row in about.tables().items():
        write_atomic(folder / f"{table}.jsonl", json_line(row))
    lost = [
        "creatorId: it is the uploader's account, null here",
        "quantileFraction and binContains: an atlas does not count tokens by band, null here",
        "scores of labels: its batches and rows have no place for them",
        *silent(atlas, counts["n_features"]),
    ]
    if sae.provenance.get("context_length") is None:
        lost.append("num_tokens_in_prompt: not recorded with this SAE, null here")
    return counts | {"model_id": model, "source": source, "lost": lost}


def upload(feature: Shown) -> dict[str, Any]:
    """One feature of an upload batch."""
    row = feature.row
    return {
        "index": feature.latent,
        "density": row["density"],
        "activations": [
            {
                "tokens": a.tokens, "values": a.values,
                "quantileMax": a.high, "quantileMin": a.low, "quantileFraction": None,
            }
            for a in feature.activations
        ],
        "explanations": [
            {
                "text": feature.label, "methodName": f"monoscope-{feature.method}",
                "modelName": feature.model,
            }
        ]
        if feature.label
        else [],
        "topLogits": _logits(row["top_tokens"], row["top_logits"]),
        "bottomLogits": _logits(row["bottom_tokens"], row["bottom_logits"]),
    }  # fmt: skip


class _About:
    """What every row of the bulk format repeats."""

    def __init__(self, sae: SAE, atlas: Atlas, model: str, source: str, name: str) -> None:
        self.sae, self.atlas, self.model, self.source, self.name = sae, atlas, model, source, name
        self.now = datetime.now(UTC).replace(microsecond=0, tzinfo=None).isoformat()
        self.hook = hook_of_site(atlas.manifest.get("site"))

    def tables(self) -> dict[str, dict[str, Any]]:
        """The four files of one row each."""
        manifest, now = self.atlas.manifest, self.now
        title = f"{self.sae.d_sae:,} latents at {manifest.get('site')} of {self.model}"
        corpus = (manifest.get("corpus") or {}).get("name")
        return {
            "release": {
                "name": self.name, "description": title, "descriptionShort": title, "urls": [],
                "creatorNameShort": "", "creatorName": "", "creatorId": None, "createdAt": now,
            },
            "model": {
                "id": self.model, "instruct": self.model.endswith(("-it", "-instruct")),
                "displayNameShort": self.model, "displayName": self.model, "creatorId": None,
                "createdAt": now, "updatedAt": now,
            },
            "sourceset": {
                "modelId": self.model, "name": self.name, "creatorId": None, "createdAt": now,
                "creatorName": "", "releaseName": self.name, "description": title,
                "visibility": "PUBLIC",
            },
            "source": {
                "modelId": self.model, "setName": self.name, "visibility": "PUBLIC",
                "dataset": corpus, "id": self.source, "num_prompts": manifest["n_documents"],
                "num_tokens_in_prompt": self.sae.provenance.get("context_length"),
                "hfRepoId": None, "hfFolderId": None, "creatorId": None,
            },
        }  # fmt: skip

    def feature(self, shown: Shown) -> dict[str, Any]:
        row = shown.row
        edges = self.atlas.manifest["histogram_edges"]
        values, heights = bars(row["hist"], edges)
        top, low = _SHOWN_LOGITS, _SHOWN_LOGITS
        return {
            "modelId": self.model, "layer": self.source, "index": str(shown.latent),
            "creatorId": None, "createdAt": self.now, "maxActApprox": row["max"],
            "hasVector": True,
            "vector": self.sae.W_dec[shown.latent].detach().tolist(),
            "vectorLabel": None, "vectorDefaultSteerStrength": row["max"], "hookName": self.hook,
            "neg_str": (row["bottom_tokens"] or [])[:low],
            "neg_values": (row["bottom_logits"] or [])[:low],
            "pos_str": (row["top_tokens"] or [])[:top],
            "pos_values": (row["top_logits"] or [])[:top],
            "frac_nonzero": row["density"],
            "freq_hist_data_bar_heights": heights, "freq_hist_data_bar_values": values,
        }  # fmt: skip

    def activations(self, shown: Shown) -> list[dict[str, Any]]:
        return [self._activation(shown, number) for number in range(len(shown.activations))]

    def _activation(self, shown: Shown, number: int) -> dict[str, Any]:
        a = shown.activations[number]
        top = max(a.values, default=0.0)
        # one place may be shown twice, as a strongest one and as a sample of its band
        key = f"{self.atlas.manifest['build']}/{self.source}/{shown.latent}/{number}"
        return {
            "id": identifier(key), "tokens": a.tokens, "index": str(shown.latent),
            "layer": self.source, "modelId": self.model, "maxValue": top,
            "maxValueTokenIndex": a.values.index(top) if a.values else 0,
            "minValue": min(a.values, default=0.0), "values": a.values, "creatorId": None,
            "createdAt": self.now, "binMin": a.low, "binMax": a.high, "binContains": None,
            "qualifyingTokenIndex": a.peak, "dfaValues": [], "lossValues": [],
        }  # fmt: skip

    def explanation(self, shown: Shown) -> dict[str, Any]:
        return {
            "id": identifier(f"{self.source}/{shown.latent}/{shown.label}"),
            "modelId": self.model, "layer": self.source, "index": str(shown.latent),
            "description": shown.label, "authorId": None,
            "typeName": f"monoscope-{shown.method}", "explanationModelName": shown.model,
            "notes": None, "createdAt": self.now,
        }  # fmt: skip


def bars(counts: list[int] | None, edges: list[float]) -> tuple[list[float], list[float]]:
    """(geometric middle, count) of the bins from the first to the last that hold anything."""
    heights = list(counts or [])
    full = [i for i, n in enumerate(heights) if n]
    if not full:
        return [], []
    middles = [(a * b) ** 0.5 for a, b in pairwise(edges)]
    span = slice(full[0], full[-1] + 1)
    return [round(float(v), 6) for v in middles[span]], [float(n) for n in heights[span]]


def identifier(key: str) -> str:
    """A key of 25 letters and digits that begins with c, as Neuronpedia's ids do."""
    return "c" + hashlib.sha256(key.encode()).hexdigest()[:24]


def _logits(tokens: list[str] | None, values: list[float] | None) -> list[dict[str, Any]] | None:
    if tokens is None or values is None:
        return None
    return [{"token": t, "value": round(float(v), 4)} for t, v in zip(tokens, values, strict=True)]


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    write_atomic(path, gzip.compress(text.encode("utf-8"), compresslevel=5, mtime=0))
