"""GGUF files: converted once to safetensors in the cache folder, loaded from there ever after."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from monoscope.assets import cache_dir
from monoscope.errors import ModelError, OutputError
from monoscope.files import write_problem
from monoscope.lm.cache import files_hash

_WEIGHTS = "model.safetensors"


def converted(path: Path, dtype: torch.dtype) -> Path:
    """The folder that holds a GGUF model as safetensors in `dtype`, with its tokenizer.

    Kept in the cache folder by the file's hash, the version of transformers and the dtype, and
    made on first use (15 s for 135M parameters).
    Raises ModelError for a file that is not GGUF, OutputError where the cache cannot be written.
    """
    import transformers

    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError("not a GGUF file", got=path, expected="a file that begins with GGUF")
    kind = str(dtype).removeprefix("torch.")
    folder = cache_dir() / "gguf" / f"{files_hash([path])}-{transformers.__version__}-{kind}"
    if (folder / _WEIGHTS).is_file():
        return folder
    work: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".converting-"))
        _convert(path, dtype, work)
        _publish(work, folder)
    except Exception as error:
        problem = write_problem(folder.parent, error)
        if problem is None:
            raise
        hint = "Set MONOSCOPE_CACHE to a folder with room for the converted model."
        raise OutputError(problem.what, got=problem.got, hint=hint) from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
    return folder


def _convert(path: Path, dtype: torch.dtype, out: Path) -> None:
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    extra: dict[str, Any] = {}
    if hasattr(transformers, "GgufConfig"):  # newer versions would keep the weights packed
        extra["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that has no switch
        packed = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=dtype, **extra
        )
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        _settle_special_tokens(tokenizer, path)
    settings = packed.config.to_dict()
    settings.pop("quantization_config", None)
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(type(packed.config).from_dict(settings))
    # A model that was quantised refuses to be saved, so its tensors move to one that never was.
    state = {name: tensor.to(dtype) for name, tensor in packed.state_dict().items()}
    plain.load_state_dict(state, assign=True)
    plain.tie_weights()
    plain.generation_config = packed.generation_config
    plain.config.dtype = dtype
    plain.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _settle_special_tokens(tokenizer: Any, path: Path) -> None:
    """Take the special tokens from the file, as not every version of transformers does."""
    from gguf import GGUFReader

    fields = GGUFReader(path).fields

    def value(key: str) -> int | None:
        field = fields.get(f"tokenizer.ggml.{key}")
        return None if field is None else int(field.parts[field.data[0]][0])

    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    for ours, theirs in names.items():
        token_id = value(f"{theirs}_token_id")
        if token_id is not None:
            setattr(tokenizer, f"{ours}_token", tokenizer.convert_ids_to_tokens(token_id))
    if value("add_bos_token") is not None and hasattr(tokenizer, "add_bos_token"):
        tokenizer.add_bos_token = bool(value("add_bos_token"))


def _publish(work: Path, folder: Path) -> None:
    """Sync a finished folder and move it into its place; another process may have been faster."""
    work.chmod(0o755)
    for file in work.iterdir():
        file.chmod(0o644)
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    try:
        os.replace(work, folder)
    except OSError:
        if not (folder / _WEIGHTS).is_file():
            raise
