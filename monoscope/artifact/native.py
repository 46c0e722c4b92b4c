"""Monoscope's own folder: sae.json (config, provenance, hash) and sae.safetensors (weights)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from monoscope.errors import FormatError, require_version
from monoscope.files import atomic_path, require_folder, sha256_file, write_atomic
from monoscope.sae import SAE, SAEConfig

SCHEMA_VERSION = 1
ABOUT, WEIGHTS = "sae.json", "sae.safetensors"

__all__ = ["read_native", "save_sae"]


def save_sae(
    sae: SAE,
    folder: str | Path,
    provenance: dict[str, Any] | None = None,
    *,
    also: tuple[str, ...] = (),
) -> Path:
    """Write sae.json and sae.safetensors into `folder`, each whole or not at all.

    The weights must be folded: they take raw activations and return raw reconstructions.
    provenance: replaces sae.provenance if given.  also: names the folder may hold besides.
    Raises OutputError if the folder holds something else.
    """
    folder = require_folder(folder, ABOUT, also=also)
    tensors = {k: v.detach().cpu().contiguous() for k, v in sae.state_dict().items()}
    with atomic_path(folder / WEIGHTS) as part:
        save_file(tensors, part)
    about = {
        "schema_version": SCHEMA_VERSION,
        "config": sae.config.to_json(),
        "provenance": sae.provenance if provenance is None else provenance,
        "sha256": sha256_file(folder / WEIGHTS),
    }
    write_atomic(folder / ABOUT, json.dumps(about, indent=1))
    return folder


def read_native(folder: str | Path) -> SAE:
    """Read what save_sae wrote.

    Raises FormatError if a file is missing, damaged or newer, or if the name, shape or dtype of a
    weight is wrong.
    """
    folder = Path(folder)
    about = _read_about(folder)
    sae = SAE(SAEConfig.from_json(about["config"]), about["provenance"])
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise FormatError(f"cannot read {folder / WEIGHTS}", got=error) from error
    expected = sae.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        _check_leaf(name, tensors.get(name), expected.get(name))
    if sha256_file(folder / WEIGHTS) != about.get("sha256"):
        raise FormatError(
            "the SAE's weights are not those that were saved",
            got=folder / WEIGHTS,
            hint="Its hash does not match sae.json; copy the folder again or train it again.",
        )
    sae.load_state_dict(tensors)
    return sae


def _read_about(folder: Path) -> dict[str, Any]:
    path = folder / ABOUT
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FormatError(
            f"{folder} is not an SAE folder", got="no sae.json", hint="Give a folder made by train."
        ) from error
    except (OSError, ValueError) as error:
        raise FormatError(f"cannot read {path}", got=error) from error
    if not isinstance(about, dict):
        raise FormatError(f"{path} is damaged", got=type(about).__name__, expected="a JSON object")
    require_version(path, about.get("schema_version"), SCHEMA_VERSION)
    if not isinstance(about.get("config"), dict) or not isinstance(about.get("provenance"), dict):
        raise FormatError(f"{path} is damaged", got="no config or provenance")
    return about


def _check_leaf(name: str, got: torch.Tensor | None, want: torch.Tensor | None) -> None:
    if want is None or got is None:
        problem = "missing" if got is None else "not a weight of this SAE"
        raise FormatError(f"weight {name} in {WEIGHTS}", got=problem)
    if got.shape != want.shape or got.dtype != want.dtype:
        raise FormatError(
            f"weight {name} in {WEIGHTS} does not fit",
            got=f"{list(got.shape)} {got.dtype}",
            expected=f"{list(want.shape)} {want.dtype}",
        )
