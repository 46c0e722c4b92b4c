"""What a run will ask: for each latent what it is explained from and tested on, and the bill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from monoscope.errors import require_at_least
from monoscope.features.explain.cost import estimate
from monoscope.features.explain.endpoint import Usage
from monoscope.features.explain.evidence import Evidence, from_feature, from_windows
from monoscope.features.explain.items import Exam, Item, as_list, set_exam
from monoscope.features.explain.prompts import Prompts
from monoscope.features.explain.scores import LEAST
from monoscope.features.explain.windows import Encoder, Windows, cut_windows

if TYPE_CHECKING:
    from monoscope.data.store import ActivationStore
    from monoscope.features.atlas import Atlas

_EXPLANATION = "the word or phrase that the marked tokens have in common, in twenty words or fewer"
_OUT_EXPLAIN, _OUT_ITEM, _OUT_ANSWERS = 40, 3, 8  # tokens of usual answers, for the estimate


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much is asked, and of what.

    n_items: windows of each kind in a latent's exam; batch: excerpts in one question (1: no
    excerpt can sway the judgement of another). n_tokens: held-out tokens, and train tokens for the
    random SAE, that windows of `width` tokens are cut from. n_control: latents of each control.
    answer_tokens: the longest answer that is waited for.
    floor: detection AUC from which an explanation becomes the label.

    Raises ConfigError for a number out of range.
    """

    n_items: int = 10
    batch: int = 5
    width: int = 32
    n_tokens: int = 60_000
    n_control: int = 10
    answer_tokens: int = 300
    concurrency: int = 4
    floor: float = 0.6
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"n_items": LEAST, "batch": 1, "width": 4, "n_tokens": 1, "concurrency": 1}
        least["answer_tokens"] = 1
        require_at_least(self, least | {"n_control": 0})


@dataclass
class Case:
    """One latent on its way: what it is explained from, what it is tested on, how it did.

    given: a label that is judged as it stands; None where the model is to explain first.
    """

    latent: int
    evidence: Evidence
    exam: Exam
    explanation: str | None = None
    judged: list[tuple[Item, float]] = field(default_factory=list)
    shuffled: list[tuple[Item, float]] = field(default_factory=list)
    shuffled_fuzz: list[tuple[Item, float]] = field(default_factory=list)
    n_failed: int = 0
    given: str | None = None


def forecast(
    cases: Sequence[Case], shuffled: Sequence[Case], prompts: Prompts, settings: Settings
) -> Usage:
    """Tokens that asking everything anew would take, by length of the prompts; an estimate."""
    texts: list[int] = []
    n_out = 0
    for case in cases:
        if case.given is not None:
            continue
        texts.append(_length(prompts, "explain", excerpts=case.evidence.excerpts))
        n_out += _OUT_EXPLAIN
    exams = [case.exam for case in (*cases, *shuffled[: settings.n_control])]
    asked = [("detect", b) for exam in exams for b in exam.detect]
    asked += [("fuzz", b) for exam in exams for b in exam.fuzz]
    for name, items in asked:
        excerpts = as_list([item.text for item in items])
        texts.append(
            _length(prompts, name, n=len(items), explanation=_EXPLANATION, excerpts=excerpts)
        )
        n_out += _OUT_ANSWERS + _OUT_ITEM * len(items)
    return estimate(sum(texts), len(texts), n_out)


def latent_cases(
    atlas: Atlas, sae: Encoder, store: ActivationStore, latents: Sequence[int], settings: Settings
) -> list[Case]:
    """The latents of an atlas: explained from its examples, tested on held-out windows.

    Raises DataError without held-out text.
    """
    features = [atlas.feature(latent) for latent in latents]
    held = _held_out(store, sae, settings)
    cases = []
    for feature in features:
        evidence = from_feature(feature)
        near = sorted(feature.neighbours, key=lambda n: (n.rank, n.kind != "decoder"))
        others = list(dict.fromkeys(n.other for n in near))
        cases.append(_case(feature.latent, evidence, held, others, settings))
    return cases


def _held_out(store: ActivationStore, encoder: Encoder, settings: Settings) -> Windows:
    return cut_windows(
        store, "held_out", {"": encoder}, settings.n_tokens, width=settings.width,
        seed=settings.seed,
    )[""]  # fmt: skip


def _case(
    latent: int, evidence: Evidence, held: Windows, others: Sequence[int], settings: Settings
) -> Case:
    exam = set_exam(
        held, latent, others, evidence.docs, n=settings.n_items, batch=settings.batch,
        seed=settings.seed,
    )  # fmt: skip
    return Case(latent, evidence, exam if evidence.n else Exam())


def random_cases(
    random_sae: Encoder | None, store: ActivationStore, settings: Settings
) -> list[Case]:
    """Latents of the random SAE that fire often enough in both splits for the whole path."""
    if random_sae is None or not settings.n_control:
        return []
    held = _held_out(store, random_sae, settings)
    train = cut_windows(
        store, "train", {"": random_sae}, settings.n_tokens, width=settings.width,
        seed=settings.seed,
    )[""]  # fmt: skip
    often = [_firing_windows(windows) for windows in (train, held)]
    able = sorted(i for i, n in often[0].items() if min(n, often[1].get(i, 0)) >= LEAST)
    order = np.random.default_rng([settings.seed, 19]).permutation(able)[: settings.n_control]
    return [_case(i, from_windows(train, i), held, (), settings) for i in map(int, order)]


def _firing_windows(windows: Windows) -> dict[int, int]:
    """In how many windows each latent fires."""
    pairs = np.unique(np.stack([windows.latent, windows.window]), axis=1)[0]
    latents, counts = np.unique(pairs, return_counts=True)
    return dict(zip(latents.tolist(), counts.tolist(), strict=True))


def _length(prompts: Prompts, name: str, **values: object) -> int:
    return sum(len(message["content"]) for message in prompts.messages(name, **values))
