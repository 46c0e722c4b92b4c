"""The SAE on disk: monoscope's own folders, and those of other libraries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from monoscope.artifact.native import ABOUT, read_native, save_sae
from monoscope.devices import require_device
from monoscope.sae import SAE

if TYPE_CHECKING:
    import torch

__all__ = ["load_sae", "save_sae"]


def load_sae(
    source: str | Path,
    *,
    form: str | None = None,
    scale: float | None = None,
    device: str | torch.device | None = None,
) -> SAE:
    """The SAE in a folder or file of monoscope's or another library's, or on the Hugging Face hub.

    source: a path, or "owner/name", "owner/name/folder/in/it", either with "@revision" after it.
    form: the format ("saelens", "sparsify", …) where the files' names do not say.
    scale: what activations were multiplied by in training, for files that do not hold it.
    device: where its weights go, the CPU by default.

    Raises FormatError if it is no SAE, damaged, unsafe to read or from a newer version,
    ModelError if the hub does not give it, and ConfigError for a device that is not there.
    """
    place = require_device("cpu" if device is None else device)
    return _read(source, form, scale).to(place)


def _read(source: str | Path, form: str | None, scale: float | None) -> SAE:
    path = Path(source)
    if form is None and (path / ABOUT).is_file():
        return read_native(path)
    from monoscope.artifact.interop import get_format, not_an_sae, read_foreign
    from monoscope.artifact.interop.hub import fetch, is_hub_id

    if not path.exists() and is_hub_id(str(source)):
        path = fetch(str(source))
        if form is None and (path / ABOUT).is_file():
            return read_native(path)
    if not path.exists():
        raise not_an_sae(path)
    return read_foreign(path, get_format(form) if form else None, scale)
