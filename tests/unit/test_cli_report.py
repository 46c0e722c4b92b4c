"""The verbs that judge, at the command line: what they print, write and refuse."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from monoscope import cli

FIGURES = {
    "fvu": 0.2, "l0": 32.0, "cosine": 0.9, "shrinkage": 0.9, "delta_ce": 0.1, "kl": 0.2,
    "loss_recovered_zero": 0.9, "dead_fraction": 0.1, "n_tokens": 9, "n_documents": 2, "ci": {},
}  # fmt: skip


def run(capsys, *args):
    with pytest.raises(SystemExit) as left:
        cli.main(list(args))
    said = capsys.readouterr()
    return left.value.code, said.out, said.err


@pytest.fixture
def results(tmp_path):
    paths = []
    for name, fvu in (("a", 0.2), ("b", 0.3)):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({**FIGURES, "fvu": fvu, "baselines": {"pca": FIGURES}}))
        paths.append(str(path))
    return paths


def test_report_sets_saes_side_by_side(capsys, results, tmp_path):
    code, out, err = run(capsys, "report", *results)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["a", "b"] and ["FVU", "0.200", "0.300"] in lines
    page = tmp_path / "r.html"
    code, out, err = run(capsys, "report", *results, "--out", str(page), "--json")
    told = json.loads(out)
    assert code == 0 and told["out"] == str(page)
    assert {name: row["fvu"] for name, row in told["saes"].items()} == {"a": 0.2, "b": 0.3}
    assert told["saes"]["a"]["probe_1"] is None
    assert page.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("report", "nowhere.json"), "cannot read the result nowhere.json"),
        (("eval", "s", "--store", "t", "--atlas", "a"), "--atlas is read by the larger suites"),
        (
            ("eval", "s", "--store", "t", "--other", "a", "--suite", "core"),
            "got --suite core. Use --suite cpu.",
        ),
        (("eval", "s", "--store", "t", "--suite", "cpu", "--no-baselines"), "is for the quick"),
        (("eval", "nowhere", "--store", "t", "--suite", "core"), "nowhere"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(capsys, args, said):
    code, out, err = run(capsys, *args)
    assert code == 2 and out == ""
    assert said in err and len(err.strip().splitlines()) == 1


def full(tmp_path, name, **more):
    """A result file with intervals and baselines."""
    figures = {**FIGURES, "fvu": 0.2, "ci": {"fvu": [0.19, 0.21], "delta_ce": [-0.05, 0.25]}}
    base = {**FIGURES, "fvu": 0.7, "ci": {"fvu": [0.69, 0.71]}}
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps({**figures, "baselines": {"random": base, "pca": base}, **more}))
    return str(path)


def test_report_of_one_sae_has_its_baselines_and_every_interval(capsys, tmp_path):
    code, out, _ = run(capsys, "report", full(tmp_path, "a"))
    lines = [line.split() for line in out.splitlines()]
    assert code == 0 and lines[0] == ["a", "random", "pca"]
    at = lines.index(["FVU", "0.200", "0.700", "0.700"])
    assert lines[at + 1] == ["0.190–0.210", "0.690–0.710", "0.690–0.710"]
    assert "-0.050 to 0.250" in out


def test_report_of_several_has_the_baselines_of_each_below_and_in_json(capsys, tmp_path):
    paths = full(tmp_path, "a"), full(tmp_path, "b", baselines={})
    _, out, _ = run(capsys, "report", *paths)
    lines = [line.split() for line in out.splitlines()]
    at = lines.index(["FVU", "0.200", "0.200"])
    assert lines[at + 1] == ["0.190–0.210", "0.190–0.210"]
    assert lines[at + 2] == ["random", "0.700", "–"]
    told = json.loads(run(capsys, "report", *paths, "--json")[1])
    assert told["baselines"]["a"]["pca"]["fvu"] == 0.7 and told["baselines"]["b"] == {}
    assert told["ci"]["a"]["fvu"] == [0.19, 0.21] and told["ci"]["a"]["l0"] is None


@pytest.fixture
def evaluated(monkeypatch):
    """Runs of `eval` in which the suite is what is asked for, and its result one made up."""
    asked = []
    told = {**FIGURES, "ci": {"fvu": (0.19, 0.21)}, "n_splice_tokens": 0, "dead_window_tokens": 50}
    base = {**FIGURES, "fvu": 0.7, "delta_ce": None, "ci": {"fvu": (0.69, 0.71)}}
    core = {**told, "baselines": {"pca": base}, "provenance": {}}

    def run_suite(material, suite, **more):
        asked.append((suite, material.beside))
        ours = {"families": {"core": core}, "not_saebench": ["sparsity"]}
        return {"eval_type_id": "core", "eval_result_unstructured": {"monoscope": ours}}

    sae = SimpleNamespace(to=lambda place: sae)
    monkeypatch.setattr("monoscope.artifact.load_sae", lambda path: sae)
    monkeypatch.setattr("monoscope.cli.assess.open_store", lambda path: None)
    monkeypatch.setattr("monoscope.evals.suite.run_suite", run_suite)
    return asked


def test_eval_shows_baselines_intervals_and_what_was_looked_at(capsys, evaluated):
    _, out, _ = run(capsys, "eval", "s", "--store", "t", "--no-model")
    lines = [line.split() for line in out.splitlines()]
    at = lines.index(["FVU", "0.200", "0.700"])
    assert lines[at + 1] == ["0.190–0.210", "0.690–0.710"]
    assert "9 held-out tokens of 2 documents, 0 through the model; dead: silent in 50 tokens" in out
    assert "SAEBench demands numbers where null is: sparsity" in out
    run(capsys, "eval", "s", "--store", "t", "--no-model", "--no-baselines")
    assert evaluated == [("quick", True), ("quick", False)]


def test_eval_writes_one_schema_and_prints_figures_or_the_whole(capsys, evaluated, tmp_path):
    """--out is SAEBench's always; --json the core figures alone, or the result of a named suite."""
    told = {}
    for suite in ("quick", "core"):
        file = tmp_path / f"{suite}.json"
        verb = ("eval", "s", "--store", "t", "--no-model", "--suite", suite)
        _, out, _ = run(capsys, *verb, "--out", str(file), "--json")
        told[suite] = json.loads(out)
        assert json.loads(file.read_text())["eval_type_id"] == "core"
    assert told["quick"]["fvu"] == 0.2 and "eval_type_id" not in told["quick"]
    assert told["core"] == json.loads((tmp_path / "core.json").read_text())
