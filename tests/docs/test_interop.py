"""docs/interop.md says of every format what the code does, and names the tested versions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from monoscope.artifact.interop import FORMATS
from monoscope.artifact.interop.dictionary_learning import CLASSES
from monoscope.artifact.interop.saelens import _READS
from monoscope.interop.exchange import writable

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "interop.md").read_text(encoding="utf-8")
PEERS = "\n".join(p.read_text() for p in (ROOT / "tests" / "interop" / "peers").glob("*.txt"))


def row(name: str) -> list[str]:
    """The cells of the format's row in the table of SAEs."""
    found = re.search(rf"^\| `{name}` \|.*\|$", PAGE.partition("## SAEs")[2], re.MULTILINE)
    assert found, f"docs/interop.md has no row {name}"
    return [cell.strip() for cell in found[0].strip("|").split("|")]


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_says_what_is_written(name):
    said = row(name)[3]
    assert said == (", ".join(FORMATS[name].writes) or "–")


def test_what_is_read_is_listed():
    assert all(architecture in row("saelens")[2] for architecture in _READS)
    assert row("dictionary_learning")[2] == ", ".join(CLASSES)


@pytest.mark.parametrize("name", writable())
def test_everything_that_can_be_written_is_described(name):
    assert f"`{name}`" in PAGE


@pytest.mark.parametrize(
    "package",
    ["sae-lens", "eai-sparsify", "dictionary-learning", "llamascopium", "neuronpedia",
     "sae-dashboard", "sae-bench"],
)  # fmt: skip
def test_versions_are_those_that_are_installed(package):
    said = set(re.findall(rf"\b{package} (\d[\w.]*\w)", PAGE))
    pinned = set(re.findall(rf"^{package.replace('-', '[-_]')}==(\S+)$", PEERS, re.MULTILINE))
    assert said == pinned and len(said) == 1
