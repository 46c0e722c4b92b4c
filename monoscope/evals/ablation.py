"""Targeted ablation: does removing a concept's latents harm that concept's probe and no other?

A dense probe is fitted for every concept on mean activations x̄ of documents. For a concept its n
strongest features are removed from x̄ and every probe is measured again:
    score(n) = mean over concepts c of [drop of c's probe − mean drop of the others' probes]
in balanced accuracy at each probe's own threshold: AUC sees order alone, and stays at 1 where a
removal shifts a whole class. The SAE's error term stays: x̄' = x̄ − Σ_{i∈top n} f̄_i W_dec[i], exact
for means, since everything is linear. After targeted probe perturbation (SAEBench; Marks 2024).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from monoscope.evals import corpus_probes
from monoscope.evals.cache import Figures
from monoscope.evals.corpus_probes import Concept, Corpus
from monoscope.evals.material import NO_DIRECTIONS, Material
from monoscope.evals.probes import Probe, mean_over, strongest

VERSION = 2
NS = (1, 2, 5, 10, 20, 50)

Remove = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Rows of documents, features to remove -> x̄' [rows,D]."""


def run(material: Material) -> Figures:
    """score, own drop and others' drop by basis and n, each a mean over concepts."""
    if not material.has_directions:
        return {"skipped": NO_DIRECTIONS}
    corpus = corpus_probes.load(material)
    groups = _groups(corpus.concepts)
    if not groups:
        return {"skipped": "fewer than two concepts of one kind have enough documents"}
    out: Figures = {}
    for name, remove in _removals(material, corpus).items():
        out[name] = _basis(material, corpus, groups, name, remove)
    n_concepts = sum(len(group) for group in groups)
    return {"by_basis": out, "n_concepts": n_concepts, "n": list(NS)}


def _groups(concepts: list[Concept]) -> list[list[Concept]]:
    """Concepts that are alternatives to each other: of one key, inside one group."""
    found: dict[tuple[str, str], list[Concept]] = {}
    for concept in concepts:
        found.setdefault((concept.key, concept.group), []).append(concept)
    return [held for held in found.values() if len(held) > 1]


def _removals(material: Material, corpus: Corpus) -> dict[str, Remove]:
    """How each basis removes features from x̄."""
    x, by_basis = corpus.pooled.x, corpus.pooled.by_basis
    decoder = material.sae.W_dec.detach().float().cpu().numpy()
    random = material.random.directions.numpy()
    components = material.pca.components.numpy()
    mean = material.mean.numpy()

    def with_rows(codes: np.ndarray, directions: np.ndarray) -> Remove:
        return lambda rows, top: x[rows] - codes[np.ix_(rows, top)] @ directions[top]

    def neurons(rows: np.ndarray, top: np.ndarray) -> np.ndarray:
        out = x[rows].copy()
        out[:, top] = mean[top]
        return out

    return {
        "sae": with_rows(by_basis["sae"], decoder),
        "random": with_rows(by_basis["random"], random),
        "neurons": neurons,
        "pca": with_rows(by_basis["pca"], components.T),
    }


def _basis(
    material: Material, corpus: Corpus, groups: list[list[Concept]], name: str, remove: Remove
) -> Figures:
    features = corpus.pooled.by_basis[name]
    rows: dict[int, list[tuple[float, float]]] = {n: [] for n in NS}
    for group in groups:
        probes = [_probe(corpus, concept, material.seed) for concept in group]
        clean = [
            probe.figures(corpus.pooled.x[c.test], c.labels[c.test])["accuracy"]
            for probe, c in zip(probes, group, strict=True)
        ]
        for mine, concept in enumerate(group):
            top = strongest(features[concept.train], concept.labels[concept.train], max(NS))
            for n in NS:
                drops = [
                    before - probe.figures(remove(c.test, top[:n]), c.labels[c.test])["accuracy"]
                    for probe, c, before in zip(probes, group, clean, strict=True)
                ]
                others = [d for i, d in enumerate(drops) if i != mine]
                rows[n].append((drops[mine], float(np.mean(others))))
    figures: Figures = {}
    for n, held in rows.items():
        own, others = [a for a, _ in held], [b for _, b in held]
        parts = {"score": [a - b for a, b in held], "own_drop": own, "others_drop": others}
        figures[str(n)] = {
            key: mean_over(values, material.bootstrap, material.seed)
            for key, values in parts.items()
        }
    return figures


def _probe(corpus: Corpus, concept: Concept, seed: int) -> Probe:
    x = corpus.pooled.x[concept.train]
    return Probe(x, concept.labels[concept.train], None, seed)
