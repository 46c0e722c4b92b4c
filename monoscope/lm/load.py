"""load_lm: any Hugging Face causal LM by hub id, folder, GGUF file, or the embedded demo model."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from monoscope.devices import require_device
from monoscope.errors import ConfigError, ModelError
from monoscope.lm.cache import files_hash
from monoscope.lm.gguf import converted
from monoscope.lm.hf import HFModel
from monoscope.lm.source import explaining, locate, offline

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# What transformers sets while it loads (default dtype, meta tensors) holds for the whole process:
# of two models loaded at once on two threads, one would miss weights.
_LOADING = threading.Lock()


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
    place = require_device(device)
    kind = _dtype(dtype, place)
    source = locate(str(name))
    shared: Any = {"trust_remote_code": trust_remote_code, "revision": revision}
    if source.is_hub_id and offline():
        shared["local_files_only"] = True  # models downloaded before; else it would retry for long
    with _LOADING, _quiet():
        origin = str(source.folder or source.given)
        if source.gguf is not None:
            with explaining("cannot convert the GGUF file", source):
                origin = str(converted(source.gguf, kind))
        with explaining("cannot load the model", source):
            model = _weights(origin, kind, shared)
        with explaining("cannot load the model's tokenizer", source):
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(origin, **shared)
        weights = files_hash(source.files) if source.files else _commit(origin, revision)
        return HFModel(model.to(place), tokenizer, source.given, weights)


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
    misfits = sorted(str(k[0] if isinstance(k, tuple) else k) for k in report["mismatched_keys"])
    if misfits:
        raise ModelError(
            "the weight files do not fit the model's configuration",
            got=f"{len(misfits)} of another shape, such as {misfits[0]}",
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            "the weight files lack tensors of the model",
            got=f"{len(missing)} missing, such as {missing[0]}",
            hint="The download may be incomplete, or the weights belong to another model.",
        )
    return model


def _commit(repo: str, revision: str | None) -> str | None:
    """The commit of a hub model that has just been loaded, read off the path of its snapshot."""
    from huggingface_hub import constants, try_to_load_from_cache

    found = try_to_load_from_cache(
        repo, "config.json", cache_dir=constants.HF_HUB_CACHE, revision=revision
    )
    return Path(found).parent.name if isinstance(found, str) else None


def _dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        fast = device.type == "cuda" or (device.type == "cpu" and cpu_multiplies_bfloat16())
        return torch.bfloat16 if fast else torch.float32
    found = dtype if isinstance(dtype, torch.dtype) else DTYPES.get(dtype)
    if found not in DTYPES.values():
        raise ConfigError("unknown dtype", got=repr(dtype), expected=f"auto, {', '.join(DTYPES)}")
    assert found is not None
    return found


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
