"""Label scores that flatter, beside ours on the same answers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monoscope.evals import label_scores
from monoscope.features.explain.items import set_exam
from monoscope.features.explain.scores import score
from monoscope.features.explain.windows import Windows


def test_a_judge_who_always_says_no():
    """Four of fourteen windows fire, as in an exam of ten random ones and four that fire."""
    truth = [True] * 4 + [False] * 10
    said = np.zeros(14)
    assert np.mean((said > 0.5) == truth) == pytest.approx(0.714, abs=5e-4)  # plain accuracy
    ours = score(truth, said.tolist())
    assert ours.balanced_accuracy == ours.auc == 0.5


def windows(n: int = 60, width: int = 4) -> Windows:
    """Latent 0 fires on even windows, 1 on every third, faintly on the second token of each."""
    hits = sorted(
        [(0, w, w % width, 1.0 + w) for w in range(0, n, 2)]
        + [(1, w, 1, 0.01) for w in range(0, n, 3)]
    )
    latent, window, at, value = (np.array(column) for column in zip(*hits, strict=True))
    texts = [tuple(f" t{w}.{i}" for i in range(width)) for w in range(n)]
    return Windows(width, np.arange(n) // 3, np.arange(n) % 3 * width, texts, latent, window, at,
                   value.astype(float))  # fmt: skip


def test_examples_seen_while_explaining_never_come_back():
    """Scorers that share 20 to 40 % of their examples with the explainer score its memory."""
    held = windows()
    free = set_exam(held, 0, [1], set(), n=12, batch=5, seed=0)
    barred = {item.doc for batch in free.detect for item in batch if item.doc % 2}
    exam = set_exam(held, 0, [1], barred, n=12, batch=5, seed=0)
    docs = {item.doc for batches in (exam.detect, exam.fuzz) for batch in batches for item in batch}
    assert docs and not docs & barred


def test_negatives_are_really_zero_however_faint_the_firing():
    exam = set_exam(windows(), 1, [0], set(), n=12, batch=5, seed=0)
    for item in (item for batch in exam.detect for item in batch):
        window = item.doc * 3 + item.start // 4
        assert (item.kind == "positive") == (window % 3 == 0), item
        assert item.kind != "hard" or window % 2 == 0  # there the neighbour fires


def test_both_sides_of_fuzzing_are_the_same_windows_and_never_in_one_batch():
    exam = set_exam(windows(), 0, [], set(), n=12, batch=5, seed=0)
    places = {"marked": set(), "mismarked": set()}
    for batch in exam.fuzz:
        assert len({(item.doc, item.start) for item in batch}) == len(batch)
        for item in batch:
            places[item.kind].add((item.doc, item.start))
            assert item.text.count("<<") == item.text.count(">>") == 1
    assert places["marked"] == places["mismarked"] and len(places["marked"]) == 12
    mixed = [len({item.kind for item in batch}) == 2 for batch in exam.fuzz]
    assert sum(mixed) >= len(mixed) / 2  # or a batch would be all of one kind, and say so


def test_scores_of_rules_and_of_language_models_are_not_mixed(tmp_path: Path):
    columns = {
        "latent": [0, 1, 2], "n_active": [5, 5, 0], "label_method": ["rule", "llm", None],
        "label_auc": [0.6, 1.0, None], "label_f1": [0.4, None, None],
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "features.parquet")
    about = {"sae": {"hash": "h"}, "build": "b"}
    (tmp_path / "atlas.json").write_text(json.dumps(about), "utf-8")
    told = dict.fromkeys(label_scores._TOLD, 1) | {"build": "b"}
    (tmp_path / "explanations.json").write_text(json.dumps(told), "utf-8")
    material = SimpleNamespace(atlas=tmp_path, weights="h", bootstrap=50, seed=0)
    found = label_scores.run(material)
    assert found["scores"]["label_auc"]["median"] == 0.6
    assert found["methods"] == {"llm": 1, "rule": 1}
    assert found["explanations"]["auc"] == 1 and found["ngrams"] is None
    kept = {"median_r": 0.5, "build": told["build"], "settings": {}}
    (tmp_path / "ngrams.json").write_text(json.dumps(kept), "utf-8")
    assert label_scores.run(material)["ngrams"] == {"median_r": 0.5}
    (tmp_path / "ngrams.json").write_text(json.dumps(kept | {"build": "old"}), "utf-8")
    assert label_scores.run(material)["ngrams"] is None
    (tmp_path / "explanations.json").write_text(json.dumps(told | {"build": "old"}), "utf-8")
    assert label_scores.run(material)["explanations"] is None
