"""The layers that the linter guards: an empty house passes, and each wrong import is caught."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """The same modules, all empty, under the same contracts."""
    for path in (ROOT / "monoscope").rglob("*.py"):
        empty = tmp_path / path.relative_to(ROOT)
        empty.parent.mkdir(parents=True, exist_ok=True)
        empty.touch()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(house: Path) -> subprocess.CompletedProcess[str]:
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", command, "--no-cache", "--no-logo"],
        cwd=house, env={**os.environ, "PYTHONPATH": str(house)}, capture_output=True, text=True,
    )  # fmt: skip


def test_an_empty_house_passes(house):
    run = lint(house)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 broken" in run.stdout


@pytest.mark.parametrize(
    ("room", "wrong"),
    [
        ("errors", "from monoscope import sites"),
        ("ops", "from monoscope.sae import SAE"),
        ("sae", "from monoscope.lm import load_lm"),
        ("lm", "from monoscope.sae import SAE"),
        ("lm", "from monoscope.data import corpus"),
        ("data", "from monoscope.lm import protocol"),
        ("artifact", "from monoscope.data import store"),
        ("train", "from monoscope.lm import load_lm"),
        ("train", "from monoscope.data import store"),
        ("train", "def f():\n    from monoscope.evals import evaluate"),
        ("features", "from monoscope.steer import Add"),
        ("evals", "import monoscope.cli"),
        ("new_room", ""),
    ],
)
def test_a_wrong_import_is_caught(house, room, wrong):
    package = house / "monoscope" / room / "__init__.py"
    target = package if package.exists() else house / "monoscope" / f"{room}.py"
    target.write_text(f"{wrong}\n")
    run = lint(house)
    assert run.returncode == 1
    assert "BROKEN" in run.stdout, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("room", "right"),
    [
        ("sites", "from monoscope.errors import SiteError"),
        ("evals", "from monoscope.lm import protocol\nfrom monoscope.data import store"),
        ("train", "from monoscope.artifact import save_sae"),
        ("steer", "from monoscope.sae import SAE"),
        ("cli", "import monoscope as ms"),
    ],
)
def test_a_right_import_is_not(house, room, right):
    package = house / "monoscope" / room / "__init__.py"
    target = package if package.exists() else house / "monoscope" / f"{room}.py"
    target.write_text(f"{right}\n")
    run = lint(house)
    assert run.returncode == 0, run.stdout + run.stderr
