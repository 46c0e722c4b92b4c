"""Sparse probing: how well a few features tell two kinds of text apart, beside dense probes.

For each task the k strongest features of each basis (SAE latents, latents of a frozen random SAE,
raw neurons, principal components) feed a logistic regression; the ceiling is one on all of x.
After Gurnee et al. 2023 (arXiv 2305.01610) and Kantamneni et al. 2025 (arXiv 2502.16681).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from monoscope.evals.cache import Figures
from monoscope.evals.features import BASES, pool_texts
from monoscope.evals.material import Material
from monoscope.evals.probe_tasks import SKIPPED, available, load_task
from monoscope.evals.probes import dense_figures, mean_over, sparse_figures

VERSION = 1
KS = (1, 2, 5, 20)
MEASURES = ("auc", "accuracy")


def run(material: Material) -> Figures:
    """Figures by task and their means over tasks; {"skipped": …} without a language model."""
    if material.lm is None:
        return {"skipped": "needs the language model"}
    names = material.sizes.probe_tasks or tuple(available())
    tasks: Figures = {}
    for done, name in enumerate(names):
        material.tell(f"probing {name}", done, len(names))
        tasks[name] = _task(material, name)
    return {
        "tasks": tasks,
        "mean": means(tasks, material.bootstrap, material.seed),
        "left_out": dict(SKIPPED),
        "k": list(KS),
    }


def _task(material: Material, name: str) -> Figures:
    """One task, kept as soon as it is done."""

    def make() -> Figures:
        task = load_task(name, material.sizes.probe_texts, material.seed)
        pooled = pool_texts(material, task.texts, material.sizes.probe_text_tokens)
        found = compare(pooled.by_basis, task.labels, task.train, task.test, material.seed)
        return found | {"n_train": len(task.train), "n_test": len(task.test)}

    return material.part("probing-task", VERSION, {"task": name}, make)


def compare(
    by_basis: Mapping[str, np.ndarray],
    y: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    seed: int,
) -> Figures:
    """Sparse probes in every basis at every k, and the dense probe on x and on all SAE codes."""
    found: Figures = {b: sparse_figures(by_basis[b], y, train, test, KS, seed) for b in BASES}
    found["dense"] = dense_figures(by_basis["neurons"], y, train, test, seed)
    return found


def means(tasks: Mapping[str, Figures], bootstrap: int, seed: int) -> Figures:
    """Means over tasks by basis, k and measure, and the SAE's paired gain over raw neurons."""
    rows = list(tasks.values())
    out: Figures = {
        "dense": {m: mean_over([r["dense"][m] for r in rows], bootstrap, seed) for m in MEASURES}
    }
    for basis in BASES:
        out[basis] = {
            str(k): {
                m: mean_over([r[basis][str(k)][m] for r in rows], bootstrap, seed) for m in MEASURES
            }
            for k in KS
        }
    out["sae_minus_neurons"] = {
        str(k): mean_over(
            [r["sae"][str(k)]["auc"] - r["neurons"][str(k)]["auc"] for r in rows], bootstrap, seed
        )
        for k in KS
    }
    return out
