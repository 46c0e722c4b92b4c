"""A run that is killed at any instant and resumed ends with the bytes of one that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from monoscope.sae.config import WITH_K
from monoscope.sae.recipes import RECIPES
from monoscope.train.events import read_figures

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CHILD = Path(__file__).with_name("train_child.py")
OFTEN = {"checkpoint_every_tokens": 4 * 32, "dead_after_tokens": 3 * 32}
N = len(RECIPES)
KILLED = -signal.SIGKILL
_DRAW = random.Random(20)

# Each is killed where it says, then resumed until it ends. Steps and checkpoints are counted over
# all recipes, which take turns: forty steps each, a checkpoint at every fourth.
SCENARIOS: dict[str, list[str | None]] = {
    "before the first checkpoint": [f"step:{2 * N}", None],
    "in some step": [f"step:{_DRAW.randrange(5 * N, 40 * N)}", None],
    "in some other step": [f"step:{_DRAW.randrange(5 * N, 40 * N)}", None],
    "at some moment": ["after:0.6", None],
    "while weights are written": [f"checkpoint:{_DRAW.randrange(N, 8 * N)}:tensors", None],
    "between weights and note": [f"checkpoint:{_DRAW.randrange(N, 8 * N)}:note", None],
    "before it is in place": [f"checkpoint:{_DRAW.randrange(N, 8 * N)}:move", None],
    "while an old one goes": [f"checkpoint:{_DRAW.randrange(3 * N)}:drop", None],
    "three times": [f"step:{9 * N + 2}", f"step:{8 * N + 1}", f"step:{7 * N}", None],
    "and its newest checkpoint cut": [f"step:{18 * N}", "cut", None],
}


def orders() -> list[dict[str, Any]]:
    """Every recipe there is, so that one kill tests them all."""
    asked = []
    for number, (name, recipe) in enumerate(RECIPES.items()):
        d_sae = 5 if name == "autoencoder" else 24  # a bottleneck, or more than D = 8
        order = {"recipe": name, "d_sae": d_sae, "seed": number, "lr": 5e-3, "settings": OFTEN}
        asked.append(order | ({"k": 3} if recipe.activation in WITH_K else {}))
    return asked


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def results(out: Path) -> dict[str, Any]:
    """Exit statuses and last notes by scenario; all of them are run by one process."""
    told = {"out": str(out), "orders": orders(), "scenarios": list(SCENARIOS.values())}
    one = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    # numba's workqueue has no threads to lose in a fork
    environment = {**os.environ, **one, "NUMBA_THREADING_LAYER": "workqueue"}
    done = subprocess.run(
        [sys.executable, str(CHILD), json.dumps(told)],
        cwd=ROOT, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(zip(SCENARIOS, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_killed_run_ends_as_if_it_had_not_been(
    scenario: str, results: dict[str, Any], out: Path
) -> None:
    ended, _ = results[scenario]
    expected = [0 if when in (None, "cut") else KILLED for when in SCENARIOS[scenario]]
    if scenario == "at some moment":  # it may have been quick
        expected[0] = ended[0]
    assert ended == expected
    for number, name in enumerate(RECIPES):
        here = out / str(list(SCENARIOS).index(scenario)) / str(number)
        whole = out / "whole" / str(number)
        assert sorted(p.name for p in here.iterdir()) == [
            "events.jsonl", "probe.safetensors", "run.json", "sae.json", "sae.safetensors",
        ]  # fmt: skip
        for file in ("sae.safetensors", "sae.json", "probe.safetensors"):
            assert (here / file).read_bytes() == (whole / file).read_bytes(), name
        assert read_figures(here / "events.jsonl") == read_figures(whole / "events.jsonl"), name


def test_what_was_trained_is_not_trivial(results: dict[str, Any], out: Path) -> None:
    """Runs that never changed would be equal too."""
    for number, name in enumerate(RECIPES):
        figures = read_figures(out / "whole" / str(number) / "events.jsonl")
        assert figures[-1]["step"] == 40, name
        assert figures[-1]["loss"] != figures[0]["loss"], name


def test_a_checkpoint_cut_short_gives_way_to_the_one_before_and_says_so(
    results: dict[str, Any], out: Path
) -> None:
    number = list(SCENARIOS).index("and its newest checkpoint cut")
    said = [note for note in results["and its newest checkpoint cut"][1] if "damaged" in note]
    assert len(said) == 1
    assert "checkpoint-000000016" in said[0] and "Went back to step 12 (384 tokens)" in said[0]
    events = (out / str(number) / "0" / "events.jsonl").read_text()
    assert events.count('"note": "checkpoint_damaged"') == 1
    assert events.count('"note": "resumed"') == 1
