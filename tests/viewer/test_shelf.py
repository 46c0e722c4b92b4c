"""Two test runs in one tree use the same slide, and neither removes what the other works with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import shelf

ROOT = Path(__file__).parents[2]
# Makes or uses a folder, tells so line by line, and goes on when it is told to.
OTHER = """
import sys
from pathlib import Path
from tests.viewer.shelf import kept

def make(folder):
    (folder / "part").write_text("half")
    print("making", folder.name, flush=True)
    sys.stdin.readline()
    (folder / "part").write_text("whole " + sys.argv[3])

print("has", (kept(Path(sys.argv[1]), sys.argv[2], make) / "part").read_text(), flush=True)
sys.stdin.readline()
"""


class Other:
    """Another process at the same shelf."""

    def __init__(self, place: Path, name: str, mark: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER, str(place), name, mark], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def others():
    started: list[Other] = []

    def start(*given):
        started.append(Other(*given))
        return started[-1]

    yield start
    for other in started:
        other.kill()
        for pipe in (other.process.stdin, other.process.stdout):
            pipe.close()


def fill(folder: Path) -> None:
    (folder / "part").write_text("mine")


def held(place: Path) -> set[str]:
    return {path.name for path in place.iterdir()}


def test_what_another_process_is_making_or_using_stays(tmp_path, others):
    (tmp_path / "older").mkdir()
    (tmp_path / ".123-dead").mkdir()
    maker = others(tmp_path, "old", "theirs")
    draft = maker.says().removeprefix("making ")
    assert held(tmp_path) == {draft}  # and what nobody held is gone
    mine = shelf.kept(tmp_path, "new", fill)
    assert (mine / "part").read_text() == "mine" and draft in held(tmp_path)
    maker.go_on()
    assert maker.says() == "has whole theirs"
    assert shelf.kept(tmp_path, "newer", fill).is_dir()
    assert held(tmp_path) == {"old", "new", "newer"}  # in use, the first by the other
    maker.kill()
    shelf.kept(tmp_path, "newest", fill)
    assert held(tmp_path) == {"new", "newer", "newest"}


def test_a_killed_makers_half_is_removed_and_never_used(tmp_path, others):
    maker = others(tmp_path, "slide", "theirs")
    draft = maker.says().removeprefix("making ")
    maker.kill()
    assert (tmp_path / draft / "part").read_text() == "half"
    assert (shelf.kept(tmp_path, "slide", fill) / "part").read_text() == "mine"
    assert held(tmp_path) == {"slide"}


def test_of_two_makers_the_first_to_end_serves_both(tmp_path, others):
    first, second = others(tmp_path, "slide", "a"), others(tmp_path, "slide", "b")
    assert {first.says().split()[0], second.says().split()[0]} == {"making"}
    assert len(held(tmp_path)) == 2
    second.go_on()
    assert second.says() == "has whole b"
    first.go_on()
    assert first.says() == "has whole b"
    assert held(tmp_path) == {"slide"}
    assert (shelf.kept(tmp_path, "slide", fill) / "part").read_text() == "whole b"


def test_a_maker_that_fails_leaves_nothing(tmp_path):
    def broken(folder: Path) -> None:
        fill(folder)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        shelf.kept(tmp_path, "slide", broken)
    with pytest.raises(FileNotFoundError):
        shelf.kept(tmp_path, "slide", lambda folder: os.rmdir(folder / "nowhere"))
    assert held(tmp_path) == set()
