"""The tools that pip does not bring, Chromium and node: where they are, or what to do about it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

HERE = Path(__file__).parent


def chromium() -> str:
    """The system's Chromium."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    return found or missing("Chromium", "apt-get install chromium")


def npm_packages() -> Path | None:
    """tests/viewer/node_modules, if what the tests use of it is there."""
    folder = HERE / "node_modules"
    whole = all((folder / name).is_dir() for name in ("axe-core", "typescript"))
    return folder if whole and shutil.which("node") else None


def missing(what: str, how: str) -> NoReturn:
    """Skip the test, saying why; fail it where CI is set, so that nothing is skipped unseen."""
    said = f"{what} is not installed here. On Debian and Ubuntu: {how}"
    if os.environ.get("CI"):
        pytest.fail(said, pytrace=False)
    pytest.skip(said)
