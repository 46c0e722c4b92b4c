"""The scores that an atlas's labels earned on held-out documents, summed up.

Reads the atlas's own table (docs/design/architecture.md), whatever method wrote the labels; new
score columns named label_… that hold numbers are summed up like the first ones.

A language model's scores are of another kind (windows of text, not tokens) and of a sample of the
latents, so they stand apart under `explanations`, with the controls of their own run.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from monoscope.artifact.checks import same_weights
from monoscope.errors import FormatError
from monoscope.evals.cache import Figures
from monoscope.evals.material import Material
from monoscope.evals.probes import mean_over
from monoscope.files import sha256_file

VERSION = 4
_NO_SCORES = ("label_base",)  # a share of tokens, not a judgement of the label
_TABLE, _ABOUT, _SUMMARY = "features.parquet", "atlas.json", "labels.json"
_EXPLAINED, _BY_MODEL = "explanations.json", "llm"
_BESIDE = ("ngrams", "similarity", "outputs", "judgements")  # further methods' summaries
_UNTOLD = ("build", "schema_version", "settings", "url", "cost", "estimated", "spent", "reused")
_TOLD = ("model", "n_latents", "n_explained", "n_scored", "auc", "control", "n_failed", "failures")


def depends(material: Material) -> Figures:
    """The atlas's labels as they are now."""
    if material.atlas is None:
        return {"atlas": None}
    further = [f"{name}.json" for name in _BESIDE]
    held = [material.atlas / name for name in (_TABLE, _SUMMARY, _EXPLAINED, *further)]
    return {"atlas": [sha256_file(path) for path in held if path.exists()]}


def run(material: Material) -> Figures:
    """Medians and shares of every label score; {"skipped": …} without an atlas.

    Raises MismatchError for another SAE's atlas, FormatError for a folder that is none.
    """
    if material.atlas is None:
        return {"skipped": "no atlas was given"}
    folder = Path(material.atlas)
    check_atlas(folder, material.weights)
    table = pq.read_table(folder / _TABLE)
    alive = int(np.count_nonzero(table["n_active"].to_numpy(zero_copy_only=False)))
    out: Figures = {"n_latents": len(table), "n_alive": alive, "scores": {}}
    methods = table["label_method"].to_pylist() if "label_method" in table.column_names else []
    scored = table
    if methods:
        scored = table.filter(pa.array([method != _BY_MODEL for method in methods]))
    for name in table.column_names:
        column = scored[name]
        if name in _NO_SCORES:
            continue
        if name.startswith("label_") and pa.types.is_floating(column.type):
            values = column.drop_null().to_numpy()
            out["scores"][name] = _summary(values, alive, material.bootstrap, material.seed)
    out["methods"] = {str(m): methods.count(m) for m in sorted({m for m in methods if m})}
    summary = folder / _SUMMARY
    if summary.exists():
        out["control"] = json.loads(summary.read_text(encoding="utf-8")).get("control")
    told = _told(folder, _EXPLAINED)
    out["explanations"] = None if told is None else {name: told[name] for name in _TOLD}
    for name in _BESIDE:
        told = _told(folder, f"{name}.json")
        out[name] = told and {k: value for k, value in told.items() if k not in _UNTOLD}
    return out


def _told(folder: Path, name: str) -> Figures | None:
    """The summary of a method's last run with its controls, if it was of this very atlas."""
    path = folder / name
    if not path.exists():
        return None
    told: Figures = json.loads(path.read_text(encoding="utf-8"))
    about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    return told if told.get("build") == about.get("build") else None


def check_atlas(folder: Path, weights: str) -> None:
    """Raise unless `folder` is an atlas of the SAE whose weights have this hash."""
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        held = str(about["sae"]["hash"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise FormatError(
            f"{folder} is not an atlas", got=exc, hint="Give one made by index."
        ) from exc
    same_weights(weights, held)


def _summary(values: np.ndarray, alive: int, bootstrap: int, seed: int) -> Figures:
    """Median, mean and share ≥ 0.9 of the alive latents; 95 % bootstrap over the scored ones."""
    if not len(values):
        return {"n": 0, "median": None, "share_over_0.9": None}
    share = len(values) / alive if alive else None  # of the latents that have a score at all
    over = mean_over((values >= 0.9).tolist(), bootstrap, seed)
    return {
        "n": len(values),
        "median": float(np.median(values)),
        "mean": float(values.mean()),
        "share_over_0.9": None if share is None else over["mean"] * share,
        "ci": {
            "median": _median_interval(values, bootstrap, seed),
            "share_over_0.9": over["ci"] and share and [end * share for end in over["ci"]],
        },
    }


def _median_interval(values: np.ndarray, bootstrap: int, seed: int) -> list[float] | None:
    if len(values) < 2 or not bootstrap:
        return None
    draws = np.random.default_rng(seed).integers(len(values), size=(bootstrap, len(values)))
    medians = [float(np.median(values[draw])) for draw in draws]
    return [float(end) for end in np.quantile(medians, [0.025, 0.975])]
