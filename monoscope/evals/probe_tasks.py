"""Binary text classification tasks for sparse probing, read from the pinned package of their data.

None of that package's code is imported and none of its data is kept with monoscope. Tasks whose
labels turned out not to be what their names say are left out, each with what was seen.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import zstandard

from monoscope import assets
from monoscope.errors import ConfigError, nearest

SKIPPED = {
    "100_news_fake": "label 1 is the real news: 98 % of it says (Reuters), none of label 0 does",
    "140_news_class_Technology": "the positives are business news: shares, oil, profits",
    "141_news_class_Entertainment": "the positives are science and technology news",
    "145_disease_class_digestive system diseases": "positives speak of digestion less often (20 %) "
    "than negatives (27 %): they are the general class",
    "146_disease_class_cardiovascular diseases": "84 % of positives are about tumours, 5 % about "
    "the heart or vessels",
    "161_agnews_0": "97 % of the negatives are source code: any text detector solves it",
    "162_agnews_1": "97 % of the negatives are source code: any text detector solves it",
    "163_agnews_2": "97 % of the negatives are source code: any text detector solves it",
    "48_cm_correct": "label 1 is the wrong act, not the correct one (ETHICS, commonsense)",
    "49_cm_isshort": "every long text and no short one says AITA: a marker, not a length",
    "142_cancer_cat_Thyroid_Cancer": "58 % of the positives never mention the thyroid",
    "144_cancer_cat_Colon_Cancer": "48 % of the positives never mention colon, rectum or bowel",
}
"""Tasks left out, and why; found by reading samples and counting words in all of the texts."""

CPU_TASKS = (
    "5_hist_fig_ismale",
    "6_hist_fig_isamerican",
    "7_hist_fig_ispolitician",
    "21_headline_istrump",
    "22_headline_isobama",
    "23_headline_ischina",
    "24_headline_isiran",
    "26_headline_isfrontpage",
    "54_cs_tf",
    "65_high-school",
    "66_living-room",
    "67_social-security",
    "73_control-group",
    "78_north-america",
    "81_public-health",
    "87_glue_cola",
    "92_glue_sst2",
    "96_spam_is",
    "105_click_bait",
    "113_movie_sent",
    "114_nyc_borough_Manhattan",
    "118_us_state_CA",
    "121_us_timezone_New_York",
    "123_world_country_United_Kingdom",
    "124_world_country_United_States",
    "125_world_country_Italy",
    "126_art_type_book",
    "127_art_type_song",
    "128_art_type_movie",
    "130_temp_cat_Frequency",
    "131_temp_cat_Typical Time",
    "133_context_type_Causality",
    "139_news_class_Politics",
    "149_twt_emotion_happiness",
    "154_athlete_sport_football",
    "156_athlete_sport_baseball",
)
"""36 tasks with short texts, so that a small machine can run them all."""

_LONGEST = 1 << 24  # characters of one text


@dataclass(frozen=True)
class Task:
    """Texts with yes/no labels, as many of one as of the other, in two halves by seed."""

    name: str
    texts: list[str]
    labels: np.ndarray
    train: np.ndarray
    test: np.ndarray


def available() -> list[str]:
    """Names of the binary tasks that are not skipped, in the package's order.

    Raises AssetError if the package is altered or cannot be fetched.
    """
    return [name for name in _files() if name not in SKIPPED and _is_binary(name)]


def load_task(name: str, n_texts: int, seed: int) -> Task:
    """A balanced sample of at most n_texts different texts, two thirds of them for training.

    A text that occurs twice is kept once, so none is in both parts; one that occurs with both
    labels is dropped. Label 1 is the second of the two label values in alphabetical order.

    Raises ConfigError for a task that does not exist, is skipped or is not binary.
    """
    if name in SKIPPED or name not in _files():
        close = nearest(name, available())
        raise ConfigError(
            "no such probing task" if name not in SKIPPED else "a probing task that is left out",
            got=repr(name),
            expected=SKIPPED.get(name),
            hint=f"Did you mean {close}?" if close else None,
        )
    by_text: dict[str, set[str]] = {}
    for text, label in _rows(name):
        by_text.setdefault(text, set()).add(label)
    held = {text: next(iter(labels)) for text, labels in by_text.items() if len(labels) == 1}
    values = sorted(set(held.values()))
    if len(values) != 2:
        raise ConfigError("not a binary task", got=f"{name} with {len(values)} labels")
    rng = np.random.default_rng([seed, 3])
    sides = [rng.permutation([t for t in held if held[t] == v]).tolist() for v in values]
    n = min(n_texts // 2, *(len(side) for side in sides))
    texts = [*sides[0][:n], *sides[1][:n]]
    labels = np.repeat([0, 1], n)
    cut = 2 * n // 3
    part = np.tile(np.arange(n), 2)
    return Task(name, texts, labels, np.flatnonzero(part < cut), np.flatnonzero(part >= cut))


@cache
def _files() -> dict[str, Path]:
    suffix = ".csv.zst"
    paths = {p.name.removesuffix(suffix): p for p in assets.probe_task_paths()}
    return dict(sorted(paths.items(), key=lambda item: int(item[0].split("_")[0])))


def _is_binary(name: str) -> bool:
    return len({label for _, label in _rows(name)}) == 2


def _rows(name: str) -> list[tuple[str, str]]:
    with open(_files()[name], "rb") as file:
        raw = zstandard.ZstdDecompressor().stream_reader(file).read()
    csv.field_size_limit(_LONGEST)
    table = csv.DictReader(io.StringIO(raw.decode("utf-8"), newline=""))
    return [(row["prompt"], row["target"]) for row in table]
