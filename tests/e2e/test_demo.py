"""The whole job on the real model and texts, at a size that takes a minute: run, reused, killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from monoscope.demo import run_demo, stages
from monoscope.features.labels import SUMMARY_FILE

# Large enough for features that promise something, so that one is steered with.
TOKENS, D_SAE = 8000, 352
SIZE = ("--tokens", str(TOKENS), "--d-sae", str(D_SAE), "--json")
STAGES = {
    "collect": "n_tokens d_in site tokens_per_s bytes",
    "train": "n_tokens fvu l0 dead_fraction tokens_per_s out",
    "eval": "fvu l0 dead_fraction dead_window_tokens cosine ce_clean ce_sae ce_zero ce_mean "
    "loss_recovered_zero loss_recovered_mean kl n_tokens baselines ci",
    "index": "n_features n_alive n_tokens tokens_per_s out",
    "label": "n_features n_alive n_labelled out",
    "steer": "default steered edits relative_norm kl",
}
"""The stages, and what the verb of that name prints under --json."""
pytestmark = pytest.mark.slow


def command(out: Path) -> list[str]:
    return [sys.executable, "-m", "monoscope", "demo", "--out", str(out), *SIZE]


def demo(out: Path) -> dict[str, Any]:
    run = subprocess.run(command(out), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for what in ("collect", "train", "evaluate", "index", "label", "find a feature that writes"):
        assert what in run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == 1, "--json prints one object and nothing else"
    return json.loads(lines[0])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("demo") / "run"
    return out, demo(out)


def measured(summary: dict[str, Any]) -> dict[str, Any]:
    """What each stage found, without what depends on the clock or the folder."""

    def still(value: Any) -> Any:
        if isinstance(value, dict):
            moving = ("out", "tokens_per_s", "tokens_per_step_second", "seconds", "build")
            return {k: still(v) for k, v in value.items() if k not in moving}
        return value

    return {stage: still(summary[stage]) for stage in STAGES}


def test_every_stage_gives_its_figures(finished):
    out, summary = finished
    assert summary == json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["reused"] == []
    assert set(summary["seconds"]) == {"load", *STAGES}
    assert all(seconds > 0 for seconds in summary["seconds"].values())
    for stage, keys in STAGES.items():
        assert set(keys.split()) <= set(summary[stage])
        assert all(summary[stage][key] is not None for key in keys.split())
    assert summary["collect"]["n_tokens"] >= 8000
    assert summary["collect"]["n_held_out"] > 0
    figures = summary["eval"]
    baselines = figures["baselines"]
    assert figures["fvu"] < baselines["random"]["fvu"] < 1
    assert figures["ce_clean"] < figures["ce_sae"] < figures["ce_zero"]
    assert 0 <= figures["dead_fraction"] <= 1
    assert summary["index"]["n_features"] == D_SAE >= summary["index"]["n_alive"] > 300
    assert summary["label"]["control"]["median_f1"] <= summary["label"]["median_f1"]
    steered = summary["steer"]
    assert steered["writer"] is not None and len(steered["samples"]) >= 3
    for sample in steered["samples"]:
        assert sample["default"] != sample["steered"]
        assert sample["relative_norm"] > 0 and sample["kl"] > 0
        assert [edit["latent"] for edit in sample["edits"]] == [steered["writer"]["latent"]]
    assert {p.name for p in out.iterdir()} >= {"store", "sae", "atlas", "report.html"}


class Links(HTMLParser):
    """Collects what a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "srcset", "data") or (tag == "link" and name == "href"):
                self.fetched.append(str(value))


def test_the_report_needs_nothing_else(finished):
    page = (finished[0] / "report.html").read_text(encoding="utf-8")
    links = Links()
    links.feed(page)
    assert links.fetched == []
    assert "<script" not in page and "url(" not in page and "@import" not in page
    assert "CC BY-SA" in page and "Wikipedia" in page


def test_a_second_run_reuses_every_stage(finished):
    out, summary = finished
    again = demo(out)
    assert set(again["reused"]) == set(STAGES)
    assert measured(again) == measured(summary)
    assert again["collect"]["tokens_per_s"] == summary["collect"]["tokens_per_s"]
    spent = {stage: again["seconds"][stage] for stage in STAGES}
    assert spent == {stage: summary["seconds"][stage] for stage in STAGES}


def test_a_run_killed_in_three_stages_ends_with_the_same_figures(finished, tmp_path, monkeypatch):
    out = tmp_path / "killed"
    for written in ("store/*", "sae/events.jsonl", f"atlas/{SUMMARY_FILE}"):
        kill_once(out, written)
    times = json.loads((out / "seconds.json").read_text(encoding="utf-8"))
    # Steering depends on nothing that a kill could have changed, and takes as long as all the rest.
    steer = json.loads((finished[0] / "steer.json").read_text(encoding="utf-8"))["figures"]
    monkeypatch.setattr(stages, "steer_sample", lambda *args, **kwargs: steer)
    summary = run_demo(out, tokens=TOKENS, d_sae=D_SAE, as_json=True)
    assert summary["reused"] == ["collect", "train", "eval", "index", "label"]
    assert measured(summary) == measured(finished[1])
    for stage in summary["reused"]:  # one killed at its end, before it was timed once, has none
        assert summary["seconds"].get(stage) == times.get(stage, {}).get("seconds")
    assert {"collect", "train"} <= times.keys()


def kill_once(out: Path, written: str) -> None:
    """Start the demo and kill it as soon as the file is there."""
    run = subprocess.Popen(
        command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ.copy()
    )
    try:
        until = time.monotonic() + 300
        while not any(out.glob(written)):
            assert run.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < until, f"no {written} in five minutes"
            time.sleep(0.02)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
