"""monoscope: a microscope for what a neural network knows.

The public names, nothing else. Each is fetched from its room when it is first asked for, so that
`import monoscope` costs nothing and pulls in neither torch nor any other library.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from monoscope.artifact import load_sae, save_sae
    from monoscope.data.corpus import Corpus
    from monoscope.data.harvest import collect
    from monoscope.data.live import Live
    from monoscope.data.store import load_store
    from monoscope.describe import info
    from monoscope.errors import MonoscopeError
    from monoscope.evals.run import evaluate
    from monoscope.features.atlas import load_atlas
    from monoscope.features.index import index
    from monoscope.features.labels import label
    from monoscope.lm import load_lm
    from monoscope.sae import SAE, SAEConfig
    from monoscope.steer import Ablate, Add, Cap, Scale, Set, generate
    from monoscope.sweep import sweep
    from monoscope.train import train

__version__ = "0.1.0"

_ROOMS = {
    "load_lm": "monoscope.lm",
    "Corpus": "monoscope.data.corpus",
    "collect": "monoscope.data.harvest",
    "load_store": "monoscope.data.store",
    "train": "monoscope.train",
    "Live": "monoscope.data.live",
    "sweep": "monoscope.sweep",
    "load_sae": "monoscope.artifact",
    "save_sae": "monoscope.artifact",
    "SAE": "monoscope.sae",
    "SAEConfig": "monoscope.sae",
    "evaluate": "monoscope.evals.run",
    "index": "monoscope.features.index",
    "label": "monoscope.features.labels",
    "load_atlas": "monoscope.features.atlas",
    "generate": "monoscope.steer",
    "Add": "monoscope.steer",
    "Set": "monoscope.steer",
    "Cap": "monoscope.steer",
    "Scale": "monoscope.steer",
    "Ablate": "monoscope.steer",
    "info": "monoscope.describe",
    "MonoscopeError": "monoscope.errors",
}

__all__ = [
    "SAE",
    "Ablate",
    "Add",
    "Cap",
    "Corpus",
    "Live",
    "MonoscopeError",
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


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module 'monoscope' has no attribute {name!r}")
    value = getattr(importlib.import_module(_ROOMS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _FrontDoor(ModuleType):
    """Keeps a public name from being hidden by the package it comes from.

    Importing `monoscope.train` makes Python bind that package to `monoscope.train`, where
    `ms.train` must be the function. `from monoscope.train import …` is not affected.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _ROOMS and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _FrontDoor
