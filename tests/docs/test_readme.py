"""The blocks in README.md and docs/ run as they stand, and the file tree in README.md is the tree.

```python blocks of one page share their names, in order, in an empty folder. ```console blocks run
their `$ ` lines in that same folder; lines below a command must appear in its output, in order,
where `…` stands for anything. A block after `<!-- not run: REASON -->` is skipped, and says why.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import tree

ROOT = tree.ROOT
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = re.compile(r"<!-- not run: (.+) -->")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str
    not_run: str | None


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page, with the line its first line stands on."""
    found = []
    lines = page.read_text(encoding="utf-8").split("\n")
    fences = [i for i, line in enumerate(lines) if line.startswith("```")]
    for start, end in zip(fences[::2], fences[1::2], strict=True):
        before = next((line for line in reversed(lines[:start]) if line.strip()), "")
        reason = NOT_RUN.fullmatch(before.strip())
        text = "\n".join(lines[start + 1 : end]) + "\n"
        language = lines[start].removeprefix("```").strip()
        found.append(Block(page, start + 2, language, text, reason[1] if reason else None))
    return found


def commands(block: Block) -> list[tuple[str, list[str]]]:
    """Each `$ ` line of a console block, with the output lines that follow it."""
    found: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif found and line.strip():
            found[-1][1].append(line.strip())
    return found


def appear_in_order(expected: list[str], output: str) -> bool:
    pattern = ".*".join(re.escape(line).replace("…", ".*") for line in expected)
    return re.search(pattern, output, re.DOTALL) is not None


def run_python(block: Block, names: dict[str, object]) -> None:
    # Blank lines in front keep the line numbers of a traceback those of the page.
    source = "\n" * (block.line - 1) + block.text
    exec(compile(source, str(block.page), "exec"), names)


def run_console(block: Block, folder: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for command, expected in commands(block):
        run = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, f"{block.page}:{block.line}: {command}\n{run.stderr}"
        assert appear_in_order(expected, run.stdout), f"{command}\n{run.stdout}"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run(page, tmp_path, monkeypatch, subtests):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language not in ("python", "console"):
            continue
        with subtests.test(msg=f"{page.name}:{block.line}"):
            if block.not_run:
                pytest.skip(block.not_run)
            if block.language == "python":
                run_python(block, names)
            else:
                run_console(block, tmp_path)


def test_the_tree_has_every_room_of_the_package():
    package = ROOT / "monoscope"
    rooms = {p.name for p in package.iterdir() if p.is_dir() and any(p.glob("*.py"))}
    assert rooms == set(tree.ROOMS), "name it in ROOMS of tests/docs/tree.py"


def test_the_tree_in_the_readme_is_the_tree():
    hint = "run: python tests/docs/tree.py"
    assert tree.in_readme().splitlines() == tree.lines(), hint


def test_each_file_says_what_it_is_for():
    assert [line for line in tree.lines() if len(line.split()) < 2] == []


def test_console_output_is_compared():
    assert appear_in_order(["a … c", "d"], "a b c\nx\nd\n")
    assert not appear_in_order(["d", "a"], "a\nd\n")
