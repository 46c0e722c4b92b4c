"""Foreign SAE formats: which one a folder or file is, reading it, writing ours as it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from monoscope.artifact.interop import (
    dictionary_learning,
    gemma_scope,
    openai,
    openmoss,
    saelens,
    sparsify,
)
from monoscope.artifact.interop.parts import InteropWarning, Parts
from monoscope.errors import ConfigError, FormatError, nearest
from monoscope.sae import SAE

__all__ = ["FORMATS", "Format", "InteropWarning", "detect", "get_format", "read_foreign"]


@dataclass(frozen=True)
class Format:
    """A foreign format: what its folder holds, and how it is read and written.

    marks: files that a folder of it has, all of them.  suffix: for a format that is one file.
    writes: activations it can be written with; empty for one that is only read.
    """

    name: str
    title: str
    read: Callable[[Path, float | None], Parts]
    marks: tuple[str, ...] = ()
    suffix: str | None = None
    write: Callable[[SAE, Path, list[str]], None] | None = None
    writes: tuple[str, ...] = ()


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format(
            saelens.NAME, "SAELens", saelens.read, (saelens.CONFIG, saelens.WEIGHTS),
            write=saelens.write, writes=saelens.WRITES,
        ),
        Format(
            sparsify.NAME, "EleutherAI sparsify", sparsify.read,
            (sparsify.CONFIG, sparsify.WEIGHTS), write=sparsify.write, writes=sparsify.WRITES,
        ),
        Format(
            dictionary_learning.NAME, "dictionary_learning", dictionary_learning.read,
            (dictionary_learning.CONFIG, dictionary_learning.WEIGHTS),
            write=dictionary_learning.write, writes=dictionary_learning.WRITES,
        ),
        Format(gemma_scope.NAME, "Gemma Scope", gemma_scope.read, suffix=".npz"),
        Format(openmoss.NAME, "OpenMOSS (Llama Scope)", openmoss.read, (openmoss.LEGACY,)),
        Format(openai.NAME, "OpenAI sparse_autoencoder", openai.read, suffix=".pt"),
    )
}  # fmt: skip
_FILES = {f.marks[-1] for f in FORMATS.values() if len(f.marks) == 2}


def get_format(name: str) -> Format:
    """The format called `name`; ConfigError names the nearest one."""
    if name in FORMATS:
        return FORMATS[name]
    close = nearest(name, FORMATS)
    raise ConfigError(
        "unknown format",
        got=repr(name),
        expected=f"one of {', '.join(FORMATS)}",
        hint=f"Did you mean {close}?" if close else None,
    )


def detect(path: Path) -> tuple[Format, Path] | None:
    """The foreign format of a folder or file, and what its reader is given; None if it is none.

    The files' names decide; a weight file stands for its folder.
    """
    if path.is_file():
        if path.name in _FILES or path.name in (saelens.CONFIG, *openmoss.WEIGHTS):
            return detect(path.parent)
        by_suffix = {f.suffix: f for f in FORMATS.values() if f.suffix}
        found = by_suffix.get(path.suffix)
        if found and path.parent.name == "checkpoints":
            return detect(path.parent.parent) or (found, path)
        return (found, path) if found else None
    for form in FORMATS.values():
        if form.marks and all((path / mark).is_file() for mark in form.marks):
            return form, path
    if (path / openmoss.CONFIG).is_file() and any((path / w).is_file() for w in openmoss.WEIGHTS):
        return FORMATS[openmoss.NAME], path
    if (path / gemma_scope.WEIGHTS).is_file():
        return FORMATS[gemma_scope.NAME], path / gemma_scope.WEIGHTS
    return _lone_half(path)


def read_foreign(path: Path, form: Format | None = None, scale: float | None = None) -> SAE:
    """The SAE in a foreign folder or file, ready to encode raw activations.

    form: the format, where its files' names do not say.  scale: what activations were multiplied
    by in training, for files that do not hold it.  What a file says and monoscope cannot carry is
    warned of, each by an InteropWarning.

    Raises FormatError if it is no known format, damaged, unsafe, or an SAE that monoscope lacks.
    """
    found = (form, path) if form else detect(path)
    if found is None:
        raise not_an_sae(path)
    reader, place = found
    return reader.read(place, scale).build()


def not_an_sae(path: Path) -> FormatError:
    """The error for a path that holds no SAE; names the folders below it that do."""
    inside = [] if path.is_file() or not path.is_dir() else _below(path)
    names = ", ".join(str(p.relative_to(path)) for p in inside[:6])
    known = ", ".join(f.title for f in FORMATS.values())
    return FormatError(
        f"{path} is not an SAE folder" if not path.is_file() else f"{path} is not an SAE file",
        got="no sae.json" if path.is_dir() else ("a file" if path.is_file() else "nothing there"),
        expected=f"a folder of monoscope's or one of {known}",
        hint=f"There are SAEs below it: {names}{', …' if len(inside) > 6 else ''}. Name one."
        if inside
        else "Give a folder made by train, or one of another library.",
    )


def _below(path: Path, depth: int = 3) -> list[Path]:
    """Folders and files up to `depth` levels below `path` that are SAEs."""
    out: list[Path] = []
    for child in sorted(path.iterdir()):
        if child.is_dir() and ((child / "sae.json").is_file() or detect(child)):
            out.append(child)
        elif child.is_dir() and depth > 1:
            out += _below(child, depth - 1)
        elif child.suffix == ".npz" or (child.suffix == ".pt" and child.stem.isdigit()):
            out.append(child)
    return out


def _lone_half(path: Path) -> tuple[Format, Path] | None:
    """A folder with one of a format's two files: its reader says which is missing."""
    weights = {f.marks[-1]: f for f in FORMATS.values() if len(f.marks) == 2}
    for name, form in weights.items():
        if (path / name).is_file():
            return form, path
    return None
