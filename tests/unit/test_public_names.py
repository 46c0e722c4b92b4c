"""The front door: exactly these names, each from its room, and nothing loaded before its time."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

import monoscope as ms

NAMES = [
    "Ablate",
    "Add",
    "Cap",
    "Corpus",
    "Live",
    "MonoscopeError",
    "SAE",
    "SAEConfig",
    "Scale",
    "Set",
    "__version__",
    "collect",
    "evaluate",
    "generate",
    "index",
    "info",
    "label",
    "load_atlas",
    "load_lm",
    "load_sae",
    "load_store",
    "save_sae",
    "sweep",
    "train",
]


def loaded_after(code: str) -> set[str]:
    """Modules in sys.modules of a fresh interpreter that ran `code`."""
    script = f"import sys\nbefore = set(sys.modules)\n{code}\nprint(*(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stderr == ""
    return set(run.stdout.split())


def test_the_names_are_these():
    assert sorted(ms.__all__) == sorted(NAMES)
    assert set(NAMES) <= set(dir(ms))


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_a_thing_and_not_a_module(name):
    assert not isinstance(getattr(ms, name), ModuleType)
    assert name == "__version__" or getattr(ms, name).__module__.startswith("monoscope.")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        ms.trian  # noqa: B018


def test_importing_monoscope_loads_nothing_else():
    ours = {name for name in loaded_after("import monoscope") if name.startswith("monoscope")}
    assert ours == {"monoscope"}
    assert not {"torch", "numpy", "transformers", "numba", "pydantic"} & loaded_after(
        "import monoscope"
    )


@pytest.mark.slow
def test_no_public_name_loads_the_viewer_or_the_command_line():
    loaded = loaded_after("from monoscope import *")
    assert "monoscope.sae" in loaded
    shut = ("monoscope.viewer", "monoscope.cli", "monoscope.demo")
    assert not [name for name in loaded if name.startswith(shut)]


@pytest.mark.slow
@pytest.mark.parametrize("first", ["import monoscope.train", "from monoscope.train import train"])
def test_train_is_the_function_whatever_was_imported_first(first):
    loaded_after(f"{first}\nimport monoscope as ms\nassert callable(ms.train)\nms.train.__name__")
