"""A sweep over sites that is killed and resumed ends with the bytes of one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from monoscope.train import grid
from tests.faults.sweep_child import SITES, sweep

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CHILD = Path(__file__).with_name("sweep_child.py")
# Four SAEs a site take a batch together, the sites in turns, and two after the tenth; so at
# both of these one site has saved itself where the other has not yet.
STEPS = (70, 99)


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `sweep` sets for its process is set back."""
    for name in ("CALIBRATION_TOKENS", "SAMPLE_TOKENS"):
        monkeypatch.setattr(grid, name, getattr(grid, name))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def hindmost(out: Path, site: str) -> int:
    """Steps of the SAE of a site that is saved at the fewest."""
    newest: dict[str, int] = {}
    for path in out.glob(f"saes/{site}-*/checkpoint-*"):
        step = int(path.name.rpartition("-")[2])
        newest[path.parent.name] = max(step, newest.get(path.parent.name, 0))
    return min(newest.values(), default=0)


@pytest.mark.usefixtures("_small")
def test_a_sweep_over_sites_that_is_killed_ends_with_the_same_bytes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(CHILD), str(tmp_path), *map(str, STEPS)], cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [-signal.SIGKILL] * len(STEPS)
    places = [[hindmost(tmp_path / str(at), site) for site in SITES] for at in STEPS]
    assert places == [[9, 6], [15, 12]]
    whole = {row["name"]: Path(row["out"]) for row in sweep(tmp_path / "whole").rows}
    assert len(whole) == 8
    for at in STEPS:
        for row in sweep(tmp_path / str(at), resume=True).rows:
            again, once = Path(row["out"]), whole[row["name"]]
            assert row["status"] == "finished"
            for name in ("sae.safetensors", "sae.json"):
                assert (again / name).read_bytes() == (once / name).read_bytes()
            assert not list(again.glob("checkpoint-*"))
