"""Results side by side: fronts by brute force, files that are none, a page that fetches nothing."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from monoscope.errors import ConfigError, FormatError
from monoscope.evals import compare
from monoscope.evals.compare_page import markdown, render
from monoscope.evals.tables import tables

EVIL = "<script>alert(1)</script>"


def result(fvu: float, l0: float, **more):
    figures = {
        "fvu": fvu, "l0": l0, "cosine": 0.9, "delta_ce": None, "kl": None, "n_tokens": 9,
        "n_documents": 2, "dead_fraction": 0.1, "loss_recovered_zero": None, "shrinkage": 0.9,
        "ci": {"fvu": [fvu - 0.1, fvu + 0.1]},
    }  # fmt: skip
    return {**figures, "baselines": {"pca": {**figures, "fvu": 0.5}}, **more}


def suite_result(fvu: float, l0: float, **families):
    held = {"core": result(fvu, l0), **families}
    return {"eval_result_unstructured": {"monoscope": {"families": held}}}


def write(path, data):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(data))
    return path


def test_the_front_is_what_no_other_point_beats():
    rng = np.random.default_rng(0)
    points = [tuple(p) for p in rng.random((40, 2)).round(1).tolist()]
    for less in ((True, True), (True, False), (False, False)):
        found = compare.front(points, less)
        sign = [1 if want else -1 for want in less]
        signed = np.array(points) * sign
        beaten = [any((q <= p).all() and (q < p).any() for q in signed) for p in signed]
        assert sorted(found) == [i for i, b in enumerate(beaten) if not b]
        assert [points[i] for i in found] == sorted(points[i] for i in found)


def test_both_kinds_of_results_and_the_demos_are_read(tmp_path):
    a = write(tmp_path / "a.json", result(0.2, 32))
    b = write(
        tmp_path / "b.json", suite_result(0.1, 64, geometry={"decoder": {"effective_rank": 7}})
    )
    c = write(tmp_path / "c.json", {"asked": {}, "figures": result(0.3, 16)})
    rows = compare.read_results([a, b, c])
    assert [r.name for r in rows] == ["a", "b", "c"]
    assert [r.figures["fvu"] for r in rows] == [0.2, 0.1, 0.3]
    assert rows[1].figures["rank"] == 7 and rows[0].figures["rank"] is None
    assert [c.key for c in compare.shown(rows)] == [
        "fvu",
        "l0",
        "cosine",
        "shrinkage",
        "dead",
        "rank",
    ]
    assert rows[0].cells()[compare.COLUMNS.index(compare.column("kl"))] == "–"


def test_files_named_alike_are_told_apart(tmp_path):
    paths = [write(tmp_path / d / "r.json", result(0.2, 1)) for d in ("x", "y")]
    assert [r.name for r in compare.read_results(paths)] == ["x/r", "y/r"]
    names = [r.name for r in compare.read_results([paths[0], paths[0]])]
    assert len(set(names)) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"fvu": 1}', '{"figures": 3}'])
def test_what_is_no_result_is_refused(tmp_path, text):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(FormatError, match=r"r\.json"):
        compare.read_results([path])
    with pytest.raises(FormatError, match="cannot read"):
        compare.read_results([tmp_path / "missing.json"])
    with pytest.raises(ConfigError, match="no results"):
        compare.read_results([])


def test_baselines_take_their_own_figures_from_every_family():
    probing = {"mean": {"pca": {"1": {"auc": {"mean": 0.7}}}, "sae": {}}}
    [pca] = compare.baseline_rows({"core": result(0.2, 1), "probing": probing})
    assert pca.name == "pca" and pca.figures["fvu"] == 0.5 and pca.figures["probe_1"] == 0.7


def test_the_page_holds_every_sae_and_fetches_nothing():
    mean = {"auc": {"mean": 0.8, "ci": [0.7, 0.9], "n": 3}}
    bases = {b: {k: mean for k in ("1", "5")} for b in ("sae", "random", "neurons", "pca")}
    gain = {"1": {"mean": 0.05, "ci": [-0.01, 0.11]}, "5": {"mean": None, "ci": None}}
    families = {
        "core": result(0.2, 32),
        "probing": {"mean": {**bases, "dense": mean, "sae_minus_neurons": gain}},
        "density": {
            "density_histogram": {"first": -4.0, "per_decade": 4, "counts": [3, 0, 9]},
            "l0_histogram": [0, 4, 2],
        },
        "slices": {"lang": {"en": {"sae": {"fvu": 0.3, "n_tokens": 7}}}},
        "stability": {"skipped": "needs other SAEs"},
    }
    rows = [compare.row(EVIL, families), compare.row("b", {"core": result(0.3, 16)})]
    text = render(rows)
    assert "<script" not in text and "&lt;script&gt;" in text
    assert not re.search(r"https?://|url\(|@import|src=|href=", text)
    assert text.count("<circle") == 2  # FVU of both; what one of them lacks is no trade-off
    assert "Trade-offs" not in render(rows[:1])
    assert "stability: not measured, needs other SAEs" in text
    assert "0.800 <span>(0.700 to 0.900)</span>" in text and "lang en" in text
    assert "0.050 <span>(-0.010 to 0.110)</span>" in text
    told = markdown(rows)
    assert "| k = 1 | 0.800 (0.700 to 0.900) |" in told and "| k = 5 |" in told
    cells = {line.count("|") for line in told.splitlines() if line.startswith("| k = ")}
    assert len(cells) == 1  # the undefined gain is a dash, and keeps its column
    assert "nan" not in text.lower().replace("nance", "")


def test_every_table_stands_where_its_family_was_measured():
    """A whole result of a tiny model: no family is without its table, and none has an empty row."""
    figure = {"mean": 0.5, "ci": [0.4, 0.6], "n": 3}
    method = {"mcc": 0.9, "uniqueness": 0.8, "f1": 0.7, "absorption": None, "ci": {"mcc": [0.8, 1]}}
    kind = {b: method for b in ("sae", "random", "neurons", "pca")} | {"chance_mcc": 0.3}
    pair = {"cosine": 0.5, "found": 0.2, "cosine_range": [0.4, 0.6], "found_range": None, "ci": {}}
    cut = {"score": figure, "own_drop": figure, "others_drop": figure}
    special = {**result(0.2, 32), "n_predictions": 4}
    families = {
        "core": result(0.2, 32),
        "special_tokens": {"without": special, "with": special, "share_of_tokens_masked": 0.02},
        "slices": {"position": {"0–3": {"sae": {"fvu": 0.3, "l0": 9.0, "n_tokens": 7}}}},
        "geometry": {"decoder": {"effective_rank": 7.0}, "encoder": {}, "random": None},
        "worlds": {"recipe": "topk", "superposed": kind},
        "corpus_probes": {"skipped": "no metadata"},
        "ablation": {"by_basis": {"sae": {"1": cut}, "pca": {"1": cut}}, "n": [1], "n_concepts": 3},
        "letters": {
            "sae": {"absorption": figure}, "random": {"absorption": figure}, "probe_auc": figure,
            "n_words": 10, "n_letters": 2,
        },
        "stability": {
            "between_seeds": pair, "given_against_them": pair, "chance": pair, "threshold": 0.7,
            "n_others": 2, "trained_here_tokens": None,
        },
        "random_model": {"core": result(0.4, 32), "trained_on_tokens": 1000},
        "label_scores": {
            "n_alive": 5, "control": {"median_auc": 0.5},
            "scores": {"label_auc": {"n": 4, "median": 0.6, "share_over_0.9": 0.1}},
        },
    }  # fmt: skip
    made = {table.title: table for table in tables(families)}
    assert len(made) == 10
    for table in made.values():
        assert all(len(row) == len(table.head) for row in table.rows)
        assert all(any(cell != "–" for cell in row[1:]) for row in table.rows)
    worlds = made["Worlds with known truth"]
    assert (
        worlds.rows[0][1].split() == ["0.900", "(0.800", "to", "1.000)"]
        and worlds.rows[0][-1] == "0.300"
    )
    assert len(worlds.rows) == 3  # absorption is undefined in a world without parents
    assert made["Labels"].rows[0][3] == "0.500"
