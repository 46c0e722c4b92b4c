"""benchmarks/demo.py: each thing asked of the demo can be missed, and then it says so."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks import demo


def summary(**changed: Any) -> dict[str, Any]:
    figures = {
        "fvu": 0.15, "l0": 32.5, "delta_ce": 0.14, "dead_fraction": 0.03,
        "dead_window_tokens": 500_000, "baselines": {k: {"fvu": 0.5} for k in demo.BASELINES},
    }  # fmt: skip
    return {
        "collect": {"n_tokens": changed.pop("n_tokens", 400_000)},
        "seconds": changed.pop("seconds", {"collect": 400.0, "train": 200.0}),
        "eval": figures | changed,
    }


def missed(**changed: Any) -> list[str]:
    return [what for what, _, _, ok in demo.rows(summary(**changed)) if ok is False]


def test_a_run_that_has_it_all_misses_nothing():
    assert missed() == []


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"n_tokens": 399_999}, "tokens harvested"),
        ({"seconds": {"collect": 400.0, "train": 200.1}}, "seconds, in all"),
        ({"seconds": {"collect": 40.0, "train": None}}, "seconds, in all"),
        ({"fvu": 0.1801}, "FVU, held out"),
        ({"l0": 33.5}, "L0, held out"),
        ({"dead_fraction": 0.05005}, "dead in 500,000 tokens"),
        ({"baselines": {"random": {"fvu": 0.14}, "pca": {"fvu": 1}, "neurons": {"fvu": 1}}},
         "FVU of random"),
        ({"baselines": {"random": {"fvu": 1}, "pca": {"fvu": 1}}}, "FVU of neurons"),
    ],
)  # fmt: skip
def test_each_thing_asked_can_be_missed(changed, what):
    assert missed(**changed) == [what]


@pytest.mark.parametrize(("fvu", "code"), [(0.15, 0), (0.2, 1)])
def test_the_exit_code(monkeypatch, capsys, tmp_path, fvu, code):
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(summary(fvu=fvu)), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["demo.py", str(tmp_path)])
    with pytest.raises(SystemExit) as left:
        demo.main()
    assert int(left.value.code) == code
    assert ("MISSED" in capsys.readouterr().out) == bool(code)
