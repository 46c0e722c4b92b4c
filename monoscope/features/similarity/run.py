"""Example-centroid AUC: how well the likeness to a latent's examples tells where else it fires.

No words are needed, so it says how much there is to explain, whoever explains. The centroid is
made of windows of train documents; every held-out window on which the latent was measured counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from monoscope.errors import require_at_least
from monoscope.features import side
from monoscope.features.explain.windows import Windows, cut_windows
from monoscope.features.labels import check_same

if TYPE_CHECKING:
    from monoscope.data.store import ActivationStore
    from monoscope.features.atlas import Atlas
    from monoscope.features.feature import Feature
    from monoscope.sae.model import SAE

NAME = "similarity"
VERSION = 1
LEAST = 10  # windows on either side below which a score would be noise, so is null
_GROUP = 64  # latents scored together and then written
_NEIGHBOURS = 5  # of each kind, whose windows are the hard negatives

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """n_top, per_band: examples in a centroid, of the strongest and of each activation band.

    n_held_out: held-out tokens that windows of `width` tokens are cut from.

    Raises ConfigError for a number out of range.
    """

    n_top: int = 10
    per_band: int = 2
    width: int = 32
    n_held_out: int = 60_000
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, {"n_top": 1, "per_band": 0, "width": 4, "n_held_out": 1})


@dataclass(frozen=True)
class Exam:
    """Held-out windows and their vectors [n, 384]; the same for every latent."""

    windows: Windows
    vectors: NDArray[np.float32]

    def score(self, centroid: NDArray[np.float32], feature: Feature) -> dict[str, Any]:
        """AUC of cos(window, centroid): firing windows against silent ones, and the hard of these.

        A window is silent if the latent is 0 on every token of it, hard if a neighbour fires there.
        """
        peaks = self.windows.peaks(feature.latent)
        near = [n.other for n in feature.neighbours if n.rank < _NEIGHBOURS]
        hard = np.zeros(len(peaks), bool)
        for other in dict.fromkeys(near):
            hard |= self.windows.peaks(other) > 0
        likeness = self.vectors @ centroid
        fires, silent = peaks > 0, peaks == 0
        return {
            "auc": auc(likeness[fires], likeness[silent]),
            "hard_auc": auc(likeness[fires], likeness[silent & hard]),
            "n_positive": int(fires.sum()),
            "n_silent": int(silent.sum()),
            "n_hard": int((silent & hard).sum()),
        }


class Examples:
    """Windows of train documents around examples; each is embedded once, however many share it."""

    def __init__(self, embed: Embed, settings: Settings) -> None:
        self.embed, self.settings, self.width = embed, settings, settings.width
        self.known: dict[tuple[int, int], NDArray[np.float32]] = {}

    def centroids(
        self, features: Sequence[Feature], store: ActivationStore
    ) -> list[tuple[NDArray[np.float32], list[int], int]]:
        """Each latent's mean vector over its examples, at length 1, their documents and number.

        A window starts at a multiple of the width, as those judged do, so that likeness cannot come
        from where in a window the latent fires. Examples of held-out documents are left out.
        """
        places = [self._places(feature) for feature in features]
        new = list(dict.fromkeys(p for own in places for p in own if p not in self.known))
        documents = store.get_documents({doc for doc, _ in new})
        texts = [_window(documents[doc], number * self.width, self.width) for doc, number in new]
        self.known |= dict(zip(new, self.embed(texts), strict=True)) if new else {}
        out = []
        for own in places:
            mean = np.mean([self.known[p] for p in own], axis=0) if own else np.zeros(1)
            length = float(np.linalg.norm(mean))
            unit = (mean / length if length > 0 else mean).astype(np.float32)
            out.append((unit, sorted({doc for doc, _ in own}), len(own)))
        return out

    def _places(self, feature: Feature) -> list[tuple[int, int]]:
        """Document and number of the window of each example, each window once."""
        bands = [feature.band(band)[: self.settings.per_band] for band in range(5)]
        some = [*feature.top[: self.settings.n_top], *(e for band in bands for e in band)]
        return list(dict.fromkeys((e.doc, e.pos // self.width) for e in some if e.split == "train"))


@side.one_writer("label by likeness")
def score_similarity(
    atlas: Atlas,
    sae: SAE,
    store: ActivationStore,
    embed: Embed,
    latents: Sequence[int],
    *,
    embedder: str,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score latents by their examples' centroid; write table and summary; the summary.

    embed: texts to unit rows; embedder: its name, by which scores of another are told apart.
    Latents that the table holds from the same settings are kept. Scores are null below 10 windows
    on either side.

    Raises MismatchError if atlas, SAE and store do not belong together, LatentError, DataError
    without held-out text.
    """
    settings = settings or Settings()
    check_same(atlas, sae, store)
    wanted = [atlas.require(latent) for latent in dict.fromkeys(latents)]
    mark = side.fingerprint(VERSION, asdict(settings), embedder, store.identity)
    held = side.read_rows(atlas, NAME)
    done = {i for i in wanted if i in held and held[i]["settings"] == mark}
    todo = [i for i in wanted if i not in done]
    if todo:
        exam, examples = _exam(sae, store, embed, settings), Examples(embed, settings)
        others = _others(wanted, settings.seed)
        for start in range(0, len(todo), _GROUP):
            features = [atlas.feature(latent) for latent in todo[start : start + _GROUP]]
            rows = _rows(features, [others.get(f.latent) for f in features], atlas, store, exam,
                         examples)  # fmt: skip
            side.merge_rows(atlas, NAME, [row | {"settings": mark} for row in rows])
            if progress is not None:
                progress(len(done) + start + len(features), len(wanted))
    rows = [side.read_rows(atlas, NAME)[latent] for latent in wanted]
    summary = summarise(rows, settings, embedder)
    side.write_summary(atlas, NAME, summary)
    return summary


def auc(yes: NDArray[Any], no: NDArray[Any]) -> float | None:
    """P(y > n) + ½ P(y = n) over pairs, by ranks; None below 10 of either."""
    if min(len(yes), len(no)) < LEAST:
        return None
    ranks = rankdata(np.concatenate([yes, no]))[: len(yes)]
    return float((ranks.sum() - len(yes) * (len(yes) + 1) / 2) / (len(yes) * len(no)))


def summarise(rows: Sequence[dict[str, Any]], settings: Settings, embedder: str) -> dict[str, Any]:
    """Medians and shares of all latents asked for, beside the control."""

    def of(name: str) -> dict[str, Any]:
        values = np.array([row[name] for row in rows if row[name] is not None])
        return {
            "n": len(values),
            "median": float(np.median(values)) if len(values) else None,
            "share_auc_0.9": float((values >= 0.9).sum() / len(rows)) if rows else None,
        }

    return {
        "schema_version": 1,
        "method": NAME,
        "embedder": embedder,
        "settings": asdict(settings),
        "n_latents": len(rows),
        "auc": of("auc"),
        "hard_auc": of("hard_auc"),
        "control": of("control_auc")
        | {"definition": "the latent's windows against the centroid of another latent's examples"},
    }


def _exam(sae: SAE, store: ActivationStore, embed: Embed, settings: Settings) -> Exam:
    windows = cut_windows(
        store, "held_out", {"": sae}, settings.n_held_out, width=settings.width, seed=settings.seed
    )[""]
    return Exam(windows, embed(["".join(pieces) for pieces in windows.texts]))


def _others(latents: Sequence[int], seed: int) -> dict[int, int]:
    """Another of the latents for each, in a random round; empty for fewer than two."""
    order = np.random.default_rng([seed, 31]).permutation(sorted(latents)).tolist()
    return dict(zip(order, order[1:] + order[:1], strict=True)) if len(order) > 1 else {}


def _rows(
    features: Sequence[Feature], others: Sequence[int | None], atlas: Atlas,
    store: ActivationStore, exam: Exam, examples: Examples,
) -> list[dict[str, Any]]:  # fmt: skip
    controls = [None if other is None else atlas.feature(other) for other in others]
    every = [*features, *(c for c in controls if c is not None)]
    found = dict(zip([f.latent for f in every], examples.centroids(every, store), strict=True))
    rows = []
    for feature, other in zip(features, others, strict=True):
        centroid, docs, n = found[feature.latent]
        row: dict[str, Any] = {"latent": feature.latent, "n_examples": n}
        blank = {"auc": None, "hard_auc": None, "n_positive": 0, "n_silent": 0, "n_hard": 0}
        row |= exam.score(centroid, feature) if docs else blank
        strange = found[other] if other is not None else None
        row["control_auc"] = (
            exam.score(strange[0], feature)["auc"] if strange is not None and strange[1] else None
        )
        rows.append(row | {"evidence": json.dumps({"explained_from": docs})})
    return rows


def _window(document: Any, start: int, width: int) -> str:
    ends = [document.ends[start - 1] if start else 0, *document.ends[start : start + width]]
    return "".join(document.text[a:b] for a, b in pairwise(ends))
