"""load_lm: any Hugging Face causal LM by hub id, folder, GGUF file, or the embedded demo model."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from monoscope.assets import model_path
from monoscope.errors import ConfigError, ModelError, MonoscopeError
from monoscope.lm.cache import files_hash
from monoscope.lm.gguf import converted
from monoscope.lm.hf import HFModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
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
class _Source:
    """Where a model is read from: what transformers is given, and the files on disk, if local."""

    given: str
    files: tuple[Path, ...] = ()
    gguf: Path | None = None
    folder: Path | None = None

    @property
    def is_hub_id(self) -> bool:
        return self.folder is None and self.gguf is None


def load_lm(
    name: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> HFModel:
    """Load a causal language model in evaluation mode.

    name: a Hugging Face hub id, a model folder, a `.gguf` file, or "demo" for the embedded model.
    dtype: "float32", "bfloat16", "float16" or "auto": bfloat16 on CUDA, and on a CPU that
    multiplies bfloat16 in hardware (AVX512-BF16 or AMX, where it measured three times as fast as
    float32); float32 elsewhere.
    device: as torch names it; by default CUDA where there is one.
    trust_remote_code: run Python code that comes with the model. revision: of a hub model.

    Only safetensors and GGUF weights are read. A GGUF file is converted on first use and kept in
    `$MONOSCOPE_CACHE` (default `~/.cache/monoscope`).
    Raises ModelError for a model that is missing, unreadable or unsafe, ConfigError for a dtype or
    device that does not exist.
    """
    place = _device(device)
    kind = _dtype(dtype, place)
    source = _locate(str(name))
    shared: Any = {"trust_remote_code": trust_remote_code, "revision": revision}
    if source.is_hub_id and _offline():
        shared["local_files_only"] = True  # models downloaded before; else it would retry for long
    with _quiet():
        origin = str(source.folder or source.given)
        if source.gguf is not None:
            with _explaining("cannot convert the GGUF file", source):
                origin = str(converted(source.gguf, kind))
        with _explaining("cannot load the model", source):
            model = _weights(origin, kind, shared)
        with _explaining("cannot load the model's tokenizer", source):
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(origin, **shared)
        commit = getattr(model.config, "_commit_hash", None)
        weights = files_hash(source.files) if source.files else str(commit)
        identity = {"model": source.given, "weights": weights}
        return HFModel(model.to(place), tokenizer, source.given, identity)


def cpu_multiplies_bfloat16() -> bool:
    """Whether this processor has bfloat16 matrix instructions (as Linux reports its flags)."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _weights(origin: str, dtype: torch.dtype, shared: dict[str, Any]) -> Any:
    """The model, once it is certain that its files filled every one of its tensors."""
    from transformers import AutoModelForCausalLM

    models: Any = AutoModelForCausalLM
    model, report = models.from_pretrained(
        origin,
        dtype=dtype,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # reported below, in one line
        **shared,
    )
    for name, found, wanted in sorted(report["mismatched_keys"]):
        raise ModelError(
            f"the weight files do not fit the model's configuration at {name}",
            got=tuple(found),
            expected=tuple(wanted),
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            "the weight files lack tensors of the model",
            got=f"{len(missing)} missing, such as {missing[0]}",
            hint="The download may be incomplete, or the weights belong to another model.",
        )
    return model


def _locate(name: str) -> _Source:
    """Find what a name means; anything that is not on disk is taken for a hub id.

    Raises ModelError for a path that does not exist or does not hold a model.
    """
    if name == "demo":
        path = model_path()
        return _Source("demo", (path,), gguf=path)
    path = Path(name).expanduser()
    if name.strip() and path.is_dir():
        return _folder(path)
    if path.is_file():
        if path.suffix != ".gguf":
            hint = _REFUSED if any(path.match(pattern) for pattern in _PICKLES) else None
            raise ModelError(
                "not a model", got=path, expected="a model folder or a .gguf file", hint=hint
            )
        return _Source(str(path.resolve()), (path,), gguf=path)
    looks_like_path = name.startswith(("/", "./", "../", "~")) or name.endswith(".gguf")
    if looks_like_path or name.count("/") > 1 or not name.strip():
        raise ModelError(
            "no such model path",
            got=repr(name),
            expected='a model folder, a .gguf file, a hub id (owner/name) or "demo"',
        )
    return _Source(name)


def _folder(path: Path) -> _Source:
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
    return _Source(str(path.resolve()), tuple(weights), folder=path)


@contextmanager
def _explaining(what: str, source: _Source) -> Iterator[None]:
    """Turn whatever transformers and its parts raise into one ModelError."""
    try:
        yield
    except (MonoscopeError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise _explained(what, source, error) from error


def _explained(what: str, source: _Source, error: Exception) -> ModelError:
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
    if "safetensors" in text and "does not appear to have a file" in text:
        return ModelError("no safetensors weights on the hub", got=where, hint=_REFUSED)
    if source.is_hub_id and _not_found(text, kinds):
        hub = _offline() or "no such model, or no network"
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


def _offline() -> str | None:
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


def _not_found(text: str, kinds: set[str]) -> bool:
    return bool(_ABSENT & kinds) or "is not a local folder" in text or "connect to" in text


def _dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        fast = device.type == "cuda" or (device.type == "cpu" and cpu_multiplies_bfloat16())
        return torch.bfloat16 if fast else torch.float32
    found = dtype if isinstance(dtype, torch.dtype) else DTYPES.get(dtype)
    if found not in DTYPES.values():
        raise ConfigError("unknown dtype", got=repr(dtype), expected=f"auto, {', '.join(DTYPES)}")
    assert found is not None
    return found


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise ConfigError("no such device", got=repr(device), hint=first) from error
    return place


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, log lines or warnings from transformers; its settings come back after."""
    import huggingface_hub.utils
    from transformers.utils import logging as hf_logging

    hub: Any = huggingface_hub.utils
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hub_bars = not hub.are_progress_bars_disabled()
    hub_verbosity = hub.logging.get_verbosity()
    hf_logging.set_verbosity_error()
    hub.logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    if not sys.stderr.isatty():  # a person at a terminal wants to see a long download move
        hub.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hf_logging.set_verbosity(verbosity)
        hub.logging.set_verbosity(hub_verbosity)
        if bars:
            hf_logging.enable_progress_bar()
        if hub_bars:
            hub.enable_progress_bars()
