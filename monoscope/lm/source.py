"""Finding what a model's name means, and saying in one line why it could not be loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from monoscope.assets import DEMO, model_path
from monoscope.errors import ModelError, MonoscopeError

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_ABSENT = {
    "HFValidationError",
    "LocalEntryNotFoundError",
    "OfflineModeIsEnabled",
    "RepositoryNotFoundError",
}
_REFUSED = (
    "Pickle can run code when it is read, so monoscope refuses it. Convert the weights with "
    "model.save_pretrained(folder, safe_serialization=True) where you trust them."
)


@dataclass(frozen=True)
class Source:
    """Where a model is read from: what transformers is given, and the files on disk, if local."""

    given: str
    files: tuple[Path, ...] = ()
    gguf: Path | None = None
    folder: Path | None = None

    @property
    def is_hub_id(self) -> bool:
        return self.folder is None and self.gguf is None


def locate(name: str) -> Source:
    """Find what a name means; anything that is not on disk is taken for a hub id.

    Raises ModelError for a path that does not exist or does not hold a model.
    """
    if name == DEMO:
        path = model_path()
        return Source(DEMO, (path,), gguf=path)
    path = Path(name).expanduser()
    if name.strip() and path.is_dir():
        return _folder(path)
    if path.is_file():
        if path.suffix != ".gguf":
            hint = _REFUSED if any(path.match(pattern) for pattern in _PICKLES) else None
            raise ModelError(
                "not a model", got=path, expected="a model folder or a .gguf file", hint=hint
            )
        return Source(str(path.resolve()), (path,), gguf=path)
    looks_like_path = name.startswith(("/", "./", "../", "~")) or name.endswith(".gguf")
    if looks_like_path or name.count("/") > 1 or not name.strip():
        raise ModelError(
            "no such model path",
            got=repr(name),
            expected='a model folder, a .gguf file, a hub id (owner/name) or "demo"',
        )
    return Source(name)


def _folder(path: Path) -> Source:
    weights = sorted(path.glob("*.safetensors"))
    if not (path / "config.json").is_file():
        ggufs = sorted(path.glob("*.gguf"))
        raise ModelError(
            "the folder holds no config.json",
            got=path,
            expected="a Hugging Face model folder",
            hint=f"Name the GGUF file itself: {ggufs[0]}." if ggufs else None,
        )
    if not weights:
        pickles = sorted(file.name for pattern in _PICKLES for file in path.glob(pattern))
        raise ModelError(
            "the model's weights are a pickle" if pickles else "the folder holds no weights",
            got=f"{path}/{pickles[0]}" if pickles else path,
            expected="*.safetensors",
            hint=_REFUSED if pickles else None,
        )
    return Source(str(path.resolve()), tuple(weights), folder=path)


@contextmanager
def explaining(what: str, source: Source) -> Iterator[None]:
    """Turn whatever transformers and its parts raise into one ModelError."""
    try:
        yield
    except (MonoscopeError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise _explained(what, source, error) from error


def offline() -> str | None:
    """Why the hub cannot be asked, or None where it seems it can."""
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "not asked, HF_HUB_OFFLINE is set"
    host = urlsplit(constants.ENDPOINT).hostname
    try:
        if not getproxies():  # a proxy resolves names for us
            socket.getaddrinfo(host, 443)
    except OSError:
        return f"no network, {host} does not resolve"
    return None


def _explained(what: str, source: Source, error: Exception) -> ModelError:
    """One clear line for what transformers, safetensors or the hub raised."""
    chain = _chain(error)
    text = " ".join(str(link) for link in chain)
    kinds = {type(link).__name__ for link in chain}
    where = repr(source.given)
    if "trust_remote_code" in text:
        return ModelError(
            "the model comes with its own Python code, which is not run unless asked for",
            got=where,
            hint="Pass trust_remote_code=True if you trust its authors.",
        )
    if "GatedRepoError" in kinds or "gated repo" in text:
        return ModelError("access to the model is restricted", got=where, hint="Log in to the hub.")
    no_weights = "Can't load the model for" in text or "does not appear to have a file" in text
    if source.is_hub_id and no_weights:
        what = "the hub model has no weights as safetensors, only perhaps as a pickle"
        return ModelError(what, got=where, hint=_REFUSED)
    if source.is_hub_id and _not_found(text, kinds):
        hub = offline() or "no such model, or no network"
        return ModelError(
            "model not found",
            got=where,
            expected='a hub id (owner/name), a folder, a .gguf file or "demo"',
            hint=f"Tried: the path {Path(source.given).resolve()} (nothing there); "
            f"models downloaded before (not among them); the Hugging Face hub ({hub}).",
        )
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    reason = f"{type(error).__name__}: {first[:300]}"
    return ModelError(what, got=where, hint=reason)


def _chain(error: BaseException | None) -> list[BaseException]:
    links: list[BaseException] = []
    while error is not None and error not in links:
        links.append(error)
        error = error.__cause__ or error.__context__
    return links


def _not_found(text: str, kinds: set[str]) -> bool:
    return bool(_ABSENT & kinds) or "is not a local folder" in text or "connect to" in text
