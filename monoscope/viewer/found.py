"""What lies under a folder: training runs, SAEs and atlases, named by their paths below it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from monoscope.errors import ConfigError, FormatError, MismatchError

RUN, SAE, ATLAS = "run.json", "sae.json", "atlas.json"
EVALS = ("eval.json", "result.json")
WEIGHTS = "sae.safetensors"
MAX_DEPTH, MAX_FOLDERS = 5, 5000
_LEAVES = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")  # in the order that the hash takes


class NotFoundError(ConfigError):
    """A name that leads to no folder of the kind asked for."""

    status = 404


@dataclass(frozen=True)
class Found:
    """Folders that hold a run, an SAE or an atlas; `more`: the search stopped at MAX_FOLDERS."""

    root: Path
    runs: tuple[Path, ...]
    saes: tuple[Path, ...]
    atlases: tuple[Path, ...]
    more: bool

    def name(self, folder: Path) -> str:
        """How a folder is named to the outside: its path below the root, with slashes."""
        return folder.relative_to(self.root).as_posix()

    def joined(self, other: Found) -> Found:
        """These folders and those of another search; names stay those of this root."""
        held = zip(
            (self.runs, self.saes, self.atlases),
            (other.runs, other.saes, other.atlases),
            strict=True,
        )
        runs, saes, atlases = (tuple(dict.fromkeys((*mine, *more))) for mine, more in held)
        return Found(self.root, runs, saes, atlases, self.more or other.more)


def look(root: Path) -> Found:
    """Search `root` and below it, MAX_DEPTH deep; links and hidden folders are passed by."""
    root = root.resolve()
    held: dict[str, list[Path]] = {RUN: [], SAE: [], ATLAS: []}
    n = 0
    for folder, names in _walk(root):
        n += 1
        if n > MAX_FOLDERS:
            break
        for head in held.keys() & names:
            held[head].append(folder)
    runs, saes, atlases = (tuple(sorted(held[head])) for head in (RUN, SAE, ATLAS))
    return Found(root, runs, saes, atlases, n > MAX_FOLDERS)


def inside(root: Path, name: str, head: str) -> Path:
    """The folder that `name` (as `Found.name` gives it) means, which holds the file `head`.

    Raises NotFoundError for a name that leads out of the root or to no such folder.
    """
    kind = {RUN: "run", SAE: "SAE", ATLAS: "atlas"}[head]
    root = root.resolve()
    try:
        folder = (root / name).resolve()
        fits = folder.is_relative_to(root) and ".." not in Path(name).parts
        fits = fits and (folder / head).is_file()
    except (OSError, ValueError):  # a name too long, or with a zero byte
        fits = False
    if not fits:
        shown = name[:120].encode("utf-8", "replace").decode()
        raise NotFoundError(
            f"there is no such {kind} here",
            got=repr(shown),
            expected=f"a folder in {root.name}/ with {head}",
        )
    return folder


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where the file is missing or holds something else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def sae_of(found: Found, manifest: dict[str, Any]) -> Path:
    """The folder of the SAE that an atlas was made from, known by the hash of its weights.

    Raises MismatchError if none of those found is it.
    """
    wanted = manifest["sae"]
    for folder in found.saes:
        about = read_json(folder / SAE) or {}
        config = about.get("config")
        if (
            isinstance(config, dict)
            and config == wanted["config"]
            and weights_hash(folder) == wanted["hash"]
        ):
            return folder
    raise MismatchError(
        "the atlas's SAE is not here",
        got=f"none of {len(found.saes)} SAEs in {found.root} has its weights",
        expected=f"weights {wanted['hash'][:12]}",
        hint="Put its folder beside the atlas, or name one that holds both with --runs.",
    )


def weights_hash(folder: Path) -> str | None:
    """As artifact.checks.weights_hash of the SAE in a folder, without torch; None if unreadable."""
    try:
        stat = (folder / WEIGHTS).stat()
    except OSError:
        return None
    return _hash(folder, stat.st_mtime_ns, stat.st_size)


def decoder(folder: Path) -> NDArray[np.float32]:
    """W_dec [L, D] of the SAE in a folder, read without torch.

    Raises FormatError if the file is damaged.
    """
    try:
        with safe_open(folder / WEIGHTS, "np") as file:
            rows: NDArray[np.float32] = file.get_tensor("W_dec").astype(np.float32, copy=False)
            return rows
    except (SafetensorError, OSError, TypeError) as exc:
        raise FormatError(f"{folder / WEIGHTS} is damaged", got=exc) from exc


@lru_cache(maxsize=256)
def _hash(folder: Path, changed: int, size: int) -> str | None:
    digest = hashlib.sha256()
    try:
        with safe_open(folder / WEIGHTS, "np") as file:
            held = set(file.keys())
            for leaf in (*(n for n in _LEAVES if n in held), *sorted(held - set(_LEAVES))):
                digest.update(leaf.encode())
                digest.update(np.ascontiguousarray(file.get_tensor(leaf), np.float32).data)
    except (SafetensorError, OSError, TypeError):
        return None
    return digest.hexdigest()


def _walk(root: Path) -> Iterator[tuple[Path, set[str]]]:
    """Every folder with the names of its files, parents first."""
    waiting = [(root, 0)]
    while waiting:
        folder, depth = waiting.pop()
        files, folders = set(), []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.name)
                    elif entry.is_file():
                        files.add(entry.name)
        except OSError:
            continue
        yield folder, files
        if depth < MAX_DEPTH:
            kept = (
                n for n in folders if not n.startswith((".", "checkpoint-")) and n != "node_modules"
            )
            waiting += [(folder / n, depth + 1) for n in sorted(kept, reverse=True)]
