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
        (("eval", "s", "--store", "t", "--fresh"), "--fresh belongs to a suite. Add --suite cpu."),
        (("eval", "s", "--store", "t", "--atlas", "a"), "--atlas belongs to a suite"),
        (("eval", "s", "--store", "t", "--suite", "cpu", "--no-baselines"), "has its baselines"),
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


def test_eval_prints_the_interval_of_every_figure_that_has_one(capsys, monkeypatch):
    base = {"fvu": 0.7, "l0": 32.0, "delta_ce": None, "kl": None, "ci": {"fvu": (0.69, 0.71)}}
    told = {**FIGURES, "ci": {"fvu": (0.19, 0.21)}, "baselines": {"pca": base}, "provenance": {}}
    sae = SimpleNamespace(to=lambda place: sae)
    monkeypatch.setattr("monoscope.artifact.load_sae", lambda path: sae)
    monkeypatch.setattr("monoscope.cli.assess.open_store", lambda path: None)
    result = SimpleNamespace(to_json=lambda: told)
    monkeypatch.setattr("monoscope.evals.evaluate", lambda *args, **kwargs: result)
    _, out, _ = run(capsys, "eval", "s", "--store", "t", "--no-model")
    lines = [line.split() for line in out.splitlines()]
    assert ["fvu", "0.2", "(0.19", "to", "0.21)"] in lines and ["l0", "32"] in lines
    assert "pca (baseline): fvu 0.7 (0.69 to 0.71), l0 32" in out
