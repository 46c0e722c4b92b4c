"""Topic and language probes from the corpus's own metadata, on stored activations alone.

One value against the rest, fitted on train documents and measured on held-out ones. A topic is
only ever set against other topics of its own language: the values are words of that language, and
across languages a probe for the topic would be a probe for the language.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from monoscope.evals import probing
from monoscope.evals.cache import Figures
from monoscope.evals.features import Pooled, pool_stored
from monoscope.evals.material import Material

VERSION = 1
LEAST_TRAIN, LEAST_TEST = 20, 8
"""Documents of a class, in each split, below which no probe is fitted."""
KEYS = ("lang", "topic")

_GROUPED_BY = {"topic": "lang"}  # where a value only means something inside another's


@dataclass(frozen=True)
class Concept:
    """A yes/no question about documents: rows that take part, and their labels, by split."""

    key: str
    value: str
    group: str
    train: np.ndarray
    test: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Corpus:
    """Train and held-out documents together: pooled features and what they are asked."""

    pooled: Pooled
    concepts: list[Concept]


def run(material: Material) -> Figures:
    """Figures by concept as in `probing`, and their means over the concepts of each key."""
    corpus = load(material)
    if not corpus.concepts:
        return {"skipped": "the corpus has no metadata that sorts its documents"}
    found: Figures = {}
    for done, concept in enumerate(corpus.concepts):
        material.tell(f"probing {concept.value}", done, len(corpus.concepts))
        figures = probing.compare(
            corpus.pooled.by_basis, concept.labels, concept.train, concept.test, material.seed
        )
        counts = {"n_train": len(concept.train), "n_test": len(concept.test)}
        found.setdefault(concept.key, {})[f"{concept.group}{concept.value}"] = figures | counts
    means = {
        key: probing.means(rows, material.bootstrap, material.seed) for key, rows in found.items()
    }
    return {"concepts": found, "mean": means}


def load(material: Material) -> Corpus:
    """Documents of both splits, pooled, with every concept that has enough of them."""
    n = material.sizes.corpus_docs
    train, train_meta = pool_stored(material, "train", n)
    test, test_meta = pool_stored(material, "held_out", max(n // 3, 1))
    joined = {
        name: np.concatenate([train.by_basis[name], test.by_basis[name]]) for name in train.by_basis
    }
    pooled = Pooled(joined, np.concatenate([train.n_tokens, test.n_tokens]))
    return Corpus(pooled, list(concepts([*train_meta, *test_meta], len(train_meta))))


def concepts(meta: Sequence[dict[str, str]], n_train: int) -> Iterator[Concept]:
    """Every value of KEYS with enough documents on both sides of both splits.

    Documents before n_train are train documents. A value equal to its whole group is no concept.
    """
    for key in KEYS:
        by_group: dict[str, list[int]] = {}
        for i, about in enumerate(meta):
            if key in about:
                group = about.get(_GROUPED_BY.get(key, ""), "")
                by_group.setdefault(group, []).append(i)
        for group, rows in sorted(by_group.items()):
            counts = Counter(meta[i][key] for i in rows)
            for value in sorted(counts):
                labels = np.array([int(a.get(key) == value) for a in meta])
                train = np.array([i for i in rows if i < n_train], dtype=np.int64)
                test = np.array([i for i in rows if i >= n_train], dtype=np.int64)
                if _enough(labels[train], LEAST_TRAIN) and _enough(labels[test], LEAST_TEST):
                    prefix = f"{group}: " if group else ""
                    yield Concept(key, value, prefix, train, test, labels)


def _enough(labels: np.ndarray, least: int) -> bool:
    return min(int(labels.sum()), len(labels) - int(labels.sum())) >= least
