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


# The same from a store that is shuffled in windows, with what changes in the course of a run: the
# controller of a target L0, a k that anneals, thresholds, AuxK. Four SAEs take turns.
STORE_SCENARIOS: dict[str, list[str | None]] = {
    "in a window": [f"step:{_DRAW.randrange(20, 160)}", None],
    "twice in a checkpoint": [
        f"checkpoint:{_DRAW.randrange(4, 16)}:tensors",
        f"checkpoint:{_DRAW.randrange(4, 12)}:move",
        None,
    ],
}
GROUPS = {"tensor": SCENARIOS, "store": STORE_SCENARIOS}
CASES = [(source, name) for source, scenarios in GROUPS.items() for name in scenarios]


def orders(source: str) -> list[dict[str, Any]]:
    """Every recipe there is, so that one kill tests them all; or those of the store."""
    if source == "store":
        anneal = {"k_start": 12, "k_anneal_fraction": 0.6}
        asked: list[dict[str, Any]] = [
            {"recipe": "jumprelu", "target_l0": 3},
            {"recipe": "gated", "target_l0": 3},
            {"recipe": "topk", "k": 3, "settings": {**OFTEN, **anneal}},
            {"recipe": "batchtopk", "k": 3},
        ]
        common = {"d_sae": 24, "lr": 5e-3, "settings": OFTEN}
        return [common | {"seed": number} | order for number, order in enumerate(asked)]
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
def results(out: Path) -> dict[tuple[str, str], Any]:
    """Exit statuses and last notes by case; all of them are run by one process."""
    groups = [
        {"source": source, "orders": orders(source), "scenarios": list(scenarios.values())}
        for source, scenarios in GROUPS.items()
    ]
    one = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    # numba's workqueue has no threads to lose in a fork
    environment = {**os.environ, **one, "NUMBA_THREADING_LAYER": "workqueue"}
    done = subprocess.run(
        [sys.executable, str(CHILD), json.dumps({"out": str(out), "groups": groups})],
        cwd=ROOT, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [result for group in json.loads(done.stdout) for result in group]
    return dict(zip(CASES, found, strict=True))


def place(out: Path, source: str, name: str) -> Path:
    """Where the runs of a scenario, or those of "whole", lie."""
    number = name if name == "whole" else str(list(GROUPS[source]).index(name))
    return out / str(list(GROUPS).index(source)) / number


@pytest.mark.parametrize(("source", "scenario"), CASES)
def test_a_killed_run_ends_as_if_it_had_not_been(
    source: str, scenario: str, results: dict[tuple[str, str], Any], out: Path
) -> None:
    ended, _ = results[source, scenario]
    expected = [0 if when in (None, "cut") else KILLED for when in GROUPS[source][scenario]]
    if scenario == "at some moment":  # it may have been quick
        expected[0] = ended[0]
    assert ended == expected
    for number, order in enumerate(orders(source)):
        here = place(out, source, scenario) / str(number)
        whole = place(out, source, "whole") / str(number)
        assert sorted(p.name for p in here.iterdir()) == [
            "events.jsonl", "probe.safetensors", "run.json", "sae.json", "sae.safetensors",
        ]  # fmt: skip
        for file in ("sae.safetensors", "sae.json", "probe.safetensors"):
            assert (here / file).read_bytes() == (whole / file).read_bytes(), order["recipe"]
        figures = read_figures(here / "events.jsonl")
        assert figures == read_figures(whole / "events.jsonl"), order["recipe"]


@pytest.mark.parametrize("source", GROUPS)
def test_what_was_trained_is_not_trivial(
    source: str, results: dict[tuple[str, str], Any], out: Path
) -> None:
    """Runs that never changed would be equal too."""
    for number, order in enumerate(orders(source)):
        figures = read_figures(place(out, source, "whole") / str(number) / "events.jsonl")
        assert figures[-1]["step"] == 40, order["recipe"]
        assert figures[-1]["loss"] != figures[0]["loss"], order["recipe"]
        if "k_start" in order["settings"]:
            assert figures[0]["l0"] > figures[-1]["l0"] == order["k"]


def test_a_checkpoint_cut_short_gives_way_to_the_one_before_and_says_so(
    results: dict[tuple[str, str], Any], out: Path
) -> None:
    name = "and its newest checkpoint cut"
    said = [note for note in results["tensor", name][1] if "damaged" in note]
    assert len(said) == 1
    assert "checkpoint-000000016" in said[0] and "Went back to step 12 (384 tokens)" in said[0]
    events = (place(out, "tensor", name) / "0" / "events.jsonl").read_text()
    assert events.count('"note": "checkpoint_damaged"') == 1
    assert events.count('"note": "resumed"') == 1
