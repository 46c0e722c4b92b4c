"""The verbs that judge, at the command line: what they print, write and refuse."""

from __future__ import annotations

import json

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
