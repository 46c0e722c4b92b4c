"""Reading foreign weight files as data: safetensors, NumPy archives, and torch files without code.

Nothing here ever runs what a file holds: torch files are read with weights_only=True, NumPy ones
with allow_pickle=False, and what needs more than that is refused.
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError  # what torch.load(weights_only=True) refuses code with
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from monoscope.errors import FormatError, nearest

_CONFIG = "its config"
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_NAMED = re.compile(r"(?:GLOBAL|[Uu]nsupported (?:class|operand)):? ([\w.]{1,80})")
_PICKLE = (
    "Pickle can run code when it is read, so monoscope refuses it. Save the weights again as "
    "safetensors, or as a plain dictionary of tensors, where you trust them."
)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; FormatError if it is missing, damaged or not an object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FormatError(f"{path} is missing") from error
    except (OSError, ValueError) as error:
        raise FormatError(f"cannot read {path}", got=error, expected="JSON") from error
    if not isinstance(value, dict):
        raise FormatError(f"{path} is not as it should be", expected="a JSON object")
    return value


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors in `path`; FormatError if it is missing, cut short or not safetensors."""
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except FileNotFoundError as error:
        raise FormatError(f"{path} is missing") from error
    except (OSError, SafetensorError) as error:
        raise FormatError(
            f"cannot read {path}", got=error, hint="Copy or download it again."
        ) from error
    return tensors


def read_torch(path: Path) -> dict[str, Any]:
    """What torch.save wrote to `path`, if that is data alone: tensors, numbers, strings, dicts.

    Raises FormatError if the file holds pickled code, is cut short or is no dictionary.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols that it then refuses
            value = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise FormatError(f"{path} is missing") from error
    except UnpicklingError as error:
        if "weights_only" in str(error).lower() or "Unsupported" in str(error):
            what = f"{path} holds pickled code, which is not run"
            raise FormatError(what, got=_culprit(error), hint=_PICKLE) from error
        raise FormatError(f"cannot read {path}", got=_first(error), hint=_AGAIN) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise FormatError(f"cannot read {path}", got=_first(error), hint=_AGAIN) from error
    if not isinstance(value, dict):
        raise FormatError(f"{path} is not a dictionary of weights", got=type(value).__name__)
    return value


def read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays in the NumPy archive `path` as tensors.

    Raises FormatError if an array is pickled, or if the file is missing, cut short or no archive.
    """
    out: dict[str, Tensor] = {}
    try:
        # opened here, for np.load leaves a damaged file open
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise FormatError(f"{path} is one array", expected="an .npz archive of arrays")
            for name in archive.files:
                out[name] = torch.from_numpy(archive[name])
    except FileNotFoundError as error:
        raise FormatError(f"{path} is missing") from error
    except ValueError as error:
        if "allow_pickle" in str(error) or "pickle" in str(error):
            what = f"{path} holds pickled objects, which are not read"
            raise FormatError(what, got=_first(error), hint=_PICKLE) from error
        raise FormatError(f"cannot read {path}", got=_first(error), hint=_AGAIN) from error
    except (OSError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise FormatError(f"cannot read {path}", got=_first(error), hint=_AGAIN) from error
    return out


class Leaves:
    """The tensors of one foreign file, taken out one by one and checked on the way.

    path: for messages.  dtype: the widest floating dtype taken so far, which says what the file
    was written in.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Any]) -> None:
        self.path, self.left = path, dict(tensors)
        self.dtype: torch.dtype | None = None

    def has(self, name: str) -> bool:
        return name in self.left

    def shape(self, name: str) -> list[int]:
        """The two sizes of a matrix, before it is taken."""
        tensor = self._find(name)
        if tensor.ndim != 2:
            raise FormatError(
                f"{name} in {self.path} is no matrix", got=list(tensor.shape), expected="two axes"
            )
        return list(tensor.shape)

    def length(self, name: str) -> int | None:
        """How many numbers a bias holds; None where it is missing or no vector."""
        tensor = self.left.get(name)
        return len(tensor) if isinstance(tensor, Tensor) and tensor.ndim == 1 else None

    def take(self, name: str, shape: Sequence[int], axes: str = "") -> Tensor:
        """The weight `name` as float32, exact for all but float64; its shape must be `shape`.

        Raises FormatError if it is missing, no floating tensor, not finite or of another shape.
        """
        tensor = self._find(name)
        if tensor.dtype not in FLOATS:
            raise FormatError(
                f"{name} in {self.path} has the wrong dtype",
                got=_short(tensor.dtype),
                expected="float32, bfloat16, float16 or float64",
            )
        if list(tensor.shape) != list(shape):
            swapped = list(tensor.shape)[::-1] == list(shape) and len(shape) == 2
            raise FormatError(
                f"{name} in {self.path} " + ("is transposed" if swapped else "does not fit"),
                got=list(tensor.shape),
                expected=f"{list(shape)}{' ' + axes if axes else ''}",
            )
        if not bool(tensor.isfinite().all()):
            raise FormatError(f"{name} in {self.path} holds NaN or infinity")
        self.dtype = tensor.dtype if self.dtype is None else _wider(self.dtype, tensor.dtype)
        del self.left[name]
        return tensor.to(torch.float32).contiguous()

    def number(self, name: str) -> float | None:
        """A scalar entry, or None where there is none."""
        value = self.left.pop(name, None)
        if value is None:
            return None
        if isinstance(value, Tensor) and value.numel() == 1:
            return float(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        raise FormatError(f"{name} in {self.path} is no number", got=_kind(value))

    def drop(self, *names: str) -> None:
        """Entries that say nothing of what the SAE computes."""
        for name in names:
            self.left.pop(name, None)

    def finish(self) -> None:
        """Raise FormatError if anything is left that nobody took."""
        if self.left:
            raise FormatError(
                f"{self.path} holds weights that this format does not have",
                got=", ".join(sorted(map(str, self.left))[:5]),
                hint="monoscope would compute something else than its authors; it loads nothing.",
            )

    def _find(self, name: str) -> Tensor:
        value = self.left.get(name)
        if value is None:
            names = sorted(map(str, self.left))
            close = nearest(name, names)
            raise FormatError(
                f"{name} is missing in {self.path}",
                got=", ".join(names[:8]) or "nothing",
                hint=f"Is it called {close} there?" if close else None,
            )
        if not isinstance(value, Tensor):
            raise FormatError(f"{name} in {self.path} is no tensor", got=_kind(value))
        return value


def widths(
    leaves: Leaves, name: str, *, d_in: object, d_sae: object, rows: str, by: str = _CONFIG
) -> tuple[int, int]:
    """(D, L) of an encoder stored as [L,D] (rows="latents") or [D,L] (rows="inputs").

    The widths that are stated, in the config or by what `by` names, decide what is what; the file
    must agree.
    Raises FormatError where it does not, saying so when it is the other way round.
    """
    first, second = leaves.shape(name)
    found = (second, first) if rows == "latents" else (first, second)
    said = tuple(v if _is_size(v) else f for v, f in zip((d_in, d_sae), found, strict=True))
    swapped = said == found[::-1]
    if said != found and (swapped or by == _CONFIG):  # of two that differ, a bias may be wrong too
        order = (said[1], said[0]) if rows == "latents" else said
        raise FormatError(
            f"{name} in {leaves.path} " + ("is transposed" if swapped else "does not fit"),
            got=[first, second],
            expected=f"{list(order)}, as told by {by}",
        )
    return found


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _wider(a: torch.dtype, b: torch.dtype) -> torch.dtype:
    return torch.promote_types(a, b)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _kind(value: object) -> str:
    return type(value).__name__


def _first(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]


def _culprit(error: BaseException) -> str:
    """What torch names as not allowed, as in `GLOBAL os.system`; never its advice to allow it."""
    found = _NAMED.search(str(error))
    return found[1] if found else "more than tensors, numbers, strings and dictionaries"


_AGAIN = "It is cut short or of another format; copy or download it again."
