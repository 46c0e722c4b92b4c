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

SIZE = ("--tokens", "8000", "--d-sae", "256", "--json")
STAGES = ("collect", "train", "eval", "index", "label", "steer")
pytestmark = pytest.mark.slow


def command(out: Path) -> list[str]:
    return [sys.executable, "-m", "monoscope", "demo", "--out", str(out), *SIZE]


def demo(out: Path) -> dict[str, Any]:
    run = subprocess.run(command(out), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
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
    assert set(STAGES) <= set(summary["seconds"])
    assert summary["collect"]["n_tokens"] >= 8000
    assert summary["collect"]["n_held_out"] > 0
    figures = summary["eval"]
    baselines = figures["baselines"]
    assert figures["fvu"] < baselines["random"]["fvu"] < 1
    assert figures["ce_clean"] < figures["ce_sae"] < figures["ce_zero"]
    assert 0 <= figures["dead_fraction"] <= 1
    assert summary["index"]["n_features"] == 256 >= summary["index"]["n_alive"] > 200
    assert summary["label"]["control"]["median_f1"] <= summary["label"]["median_f1"]
    for sample in summary["steer"]["samples"]:
        assert sample["default"] != sample["steered"]
        assert sample["relative_norm"] > 0 and sample["kl"] > 0
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


def test_a_run_killed_twice_ends_with_the_same_figures(finished, tmp_path):
    out = tmp_path / "killed"
    for written in ("store/*", "sae/events.jsonl"):
        kill_once(out, written)
    summary = demo(out)
    assert "collect" in summary["reused"]
    assert measured(summary) == measured(finished[1])


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
