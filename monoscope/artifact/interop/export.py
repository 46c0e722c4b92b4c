"""Writing an SAE as another library's, read back and compared before it is kept."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from monoscope.artifact.interop import FORMATS, Format, InteropWarning, get_format, read_foreign
from monoscope.artifact.interop.probe import Agreement, compare, drawn_probe, write_probe
from monoscope.errors import MismatchError
from monoscope.files import require_folder
from monoscope.sae import SAE


@dataclass(frozen=True)
class Exported:
    """What an export wrote and proved. lost: what the format cannot carry, in words."""

    format: str
    folder: Path
    agreement: Agreement
    lost: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        return {
            "format": self.format, "out": os.fspath(self.folder), "lost": self.lost,
            **self.agreement.to_json(),
        }  # fmt: skip


def export_sae(sae: SAE, folder: str | Path, to: str, x: Tensor | None = None) -> Exported:
    """Write `sae` into `folder` in the format `to`, and prove it on probe activations.

    x [n,D]: the probe, a model's activations; drawn from the decoder where it is left out. What
    was written is read back from the disk and must compute the same; only then is it moved into
    the folder, with the probe beside it. Each thing the format cannot carry is an InteropWarning.

    Raises ConfigError for a format that is unknown, MismatchError for an SAE that it cannot hold,
    OutputError for a folder that holds something else or cannot be written.
    """
    form = get_format(to)
    write = form.write
    if write is None:
        writable = [name for name, other in FORMATS.items() if other.write]
        raise MismatchError(
            f"{form.title} files are read only", expected=f"one of {', '.join(writable)}"
        )
    _check(sae, form)
    marks = (*form.marks, "probe.safetensors", "README.md")
    target = require_folder(folder, form.marks[0], also=marks)
    real = x is not None
    x = drawn_probe(sae) if x is None else x
    lost: list[str] = []
    with tempfile.TemporaryDirectory(dir=target, prefix=".export-", suffix=".part") as room:
        # sparsify reads the site from the folder's name
        place = Path(room) / target.absolute().name
        place.mkdir()
        write(sae, place, lost)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InteropWarning)
            back = read_foreign(place, form)
        agreement = compare(sae, back, x)
        write_probe(sae, x, place, real=real)
        for file in sorted(place.iterdir()):
            shutil.move(file, target / file.name)
    for line in lost:
        warnings.warn(line, InteropWarning, stacklevel=2)
    return Exported(form.name, target, agreement, lost)


def _check(sae: SAE, form: Format) -> None:
    """Raise MismatchError for what the format does not have."""
    config = sae.config
    if config.activation not in form.writes:
        others = [f.name for f in FORMATS.values() if config.activation in f.writes]
        raise MismatchError(
            f"{form.title} has no {config.activation} SAE",
            expected=f"one of {', '.join(form.writes)}",
            hint=f"Export it as {' or '.join(others)}." if others else None,
        )
    for name, value, plain in (
        ("normalisation", getattr(config, "normalisation", "none"), "none"),
        ("hidden", tuple(getattr(config, "hidden", ())), ()),
    ):
        if value != plain:
            raise MismatchError(
                f"{form.title} has no such SAE", got=f"{name} {value}", expected=f"{name} {plain}"
            )
