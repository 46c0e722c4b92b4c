"""The page's JavaScript passes tsc --checkJs, strictly, and the check can fail."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
STATIC = HERE.parents[1] / "monoscope" / "viewer" / "static"


def tsc(node_modules: Path, project: Path) -> subprocess.CompletedProcess[str]:
    command = [str(node_modules / ".bin" / "tsc"), "--project", str(project), "--pretty", "false"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_page_is_typed(node_modules: Path) -> None:
    done = tsc(node_modules, HERE / "tsconfig.json")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_but_the_vendored_is_checked(node_modules: Path) -> None:
    command = [
        str(node_modules / ".bin" / "tsc"),
        "-p",
        str(HERE / "tsconfig.json"),
        "--listFilesOnly",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    listed = {Path(line) for line in done.stdout.splitlines()}
    ours = {p for p in STATIC.rglob("*.js") if "vendor" not in p.parts}
    assert ours <= listed
    assert not any(p.read_text(encoding="utf-8").count("@ts-nocheck") for p in ours)


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("/** @param {number} n */ export const f = (n) => n.nothing;", "TS2339"),
        ("export const f = (n) => n;", "TS7006"),
        ('import { absent } from "./kit.js"; absent;', "TS2305"),
    ],
)
def test_a_slip_is_found(node_modules: Path, tmp_path: Path, source: str, code: str) -> None:
    (tmp_path / "slip.js").write_text(source)
    (tmp_path / "kit.js").write_text("export const here = 1;")
    options = json.loads((HERE / "tsconfig.json").read_text())["compilerOptions"]
    (tmp_path / "tsconfig.json").write_text(
        json.dumps({"compilerOptions": options, "include": ["*.js"]})
    )
    done = tsc(node_modules, tmp_path / "tsconfig.json")
    assert done.returncode != 0
    assert code in done.stdout
