"""train(): from a source of activations to a finished SAE in a folder."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from monoscope.artifact import load_sae, save_sae
from monoscope.errors import ConfigError, FormatError, MismatchError, OutputError
from monoscope.files import require_folder, write_atomic
from monoscope.sae import SAE, SAEConfig
from monoscope.sae.config import check_keys
from monoscope.sae.recipes import RECIPES, get_recipe
from monoscope.train import calibrate, start
from monoscope.train.config import TrainConfig
from monoscope.train.events import EventLog
from monoscope.train.loop import Loop, Progress
from monoscope.train.source import IteratorStream, Stream, make_stream, peek
from monoscope.train.state import TrainState, checkpoints, read_checkpoint

SAMPLE_TOKENS = 16_384  # for the input scale and the first weights
CALIBRATION_TOKENS = 65_536  # for the threshold and the final figures
SETTINGS = (
    "warmup_fraction",
    "decay_fraction",
    "sparsity_coefficient",
    "auxk_coefficient",
    "k_aux",
    "dead_after_tokens",
    "resample_every_tokens",
    "checkpoint_every_tokens",
)
_OURS = ("run.json", "events.jsonl", "sae.safetensors", "checkpoint-*", ".checkpoint-*")


@dataclass(frozen=True)
class Run:
    """A finished run: its SAE (folded, raw units), figures on training data, and folder if any."""

    sae: SAE
    metrics: dict[str, Any]
    out: Path | None


def train(
    source: Any,
    *,
    d_sae: int = 4096,
    recipe: str | None = None,
    activation: str | None = None,
    k: int | None = 32,
    n_tokens: int | None = None,
    batch_size: int = 2048,
    lr: float | None = None,
    seed: int = 0,
    device: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Run:
    """Train an SAE on a store, a tensor x [N, D], or an iterator of them.

    recipe: a row of sae/recipes.py; activation alone picks the recipe of its name.
    n_tokens: training tokens, over as many passes as they take; default six passes.
    settings: further TrainConfig fields (SETTINGS).  resume: go on from the newest whole checkpoint
    in `out`, or return the run that is finished there.

    Raises ConfigError, DataError, MismatchError (resumed with other settings), OutputError,
    TrainingError (the loss is no longer finite).
    """
    name = _recipe_name(recipe, activation)
    settings = dict(settings or {})
    check_keys("training settings", settings, list(SETTINGS))
    stream = make_stream(source, batch_size, seed)
    total = n_tokens if n_tokens is not None else _six_passes(stream)
    config = TrainConfig(
        n_tokens=total, recipe=name, batch_size=batch_size, seed=seed, lr=lr, **settings
    )
    sample = torch.cat(peek(stream, max(1, SAMPLE_TOKENS // batch_size)))
    row = get_recipe(name)
    sae_config = SAEConfig(
        d_in=sample.shape[1], d_sae=d_sae, activation=row.activation,
        k=None if row.activation == "relu" else k,
    )  # fmt: skip
    config = config.resolved(sae_config)
    about = {"sae": sae_config.to_json(), "train": config.to_json()}
    folder = None if out is None else _open_folder(Path(out), about, resume)
    if folder is not None and (folder / "sae.json").exists():
        return Run(
            load_sae(folder), json.loads((folder / "run.json").read_text())["metrics"], folder
        )

    state = _begin(sae_config, config, sample, device)
    log = EventLog(None if folder is None else folder / "events.jsonl")
    if folder is not None and resume:
        _restore(folder, state, stream)
    log.keep_until(state.step)
    began = time.monotonic()
    before = state.n_tokens
    Loop(row, config, stream, log, folder, about, progress).run(state)
    rate = (state.n_tokens - before) / max(time.monotonic() - began, 1e-9)
    return _finish(source, stream, state, config, about, rate, folder, sample)


def _recipe_name(recipe: str | None, activation: str | None) -> str:
    if recipe is None:
        if activation == "relu":
            raise ConfigError(
                "relu belongs to several recipes",
                hint="Say recipe='bricken' or recipe='templeton'.",
            )
        return "batchtopk" if activation is None else activation
    row = get_recipe(recipe)
    if activation is not None and row.activation != activation:
        raise ConfigError(
            "activation and recipe disagree",
            got=f"recipe {recipe} ({row.activation}), activation {activation}",
            hint="Leave one of them out.",
        )
    return recipe


def _six_passes(stream: Stream) -> int:
    n_rows = getattr(stream, "n_rows", None)
    if n_rows is None:
        raise ConfigError("n_tokens is needed when training from an iterator", hint="Say how many.")
    return int(6 * n_rows)


def _open_folder(path: Path, about: dict[str, Any], resume: bool) -> Path:
    """Make or check the run's folder; run.json says what the run is before it begins."""
    folder = require_folder(path, "run.json", also=_OURS)
    note = folder / "run.json"
    if note.exists():
        old = json.loads(note.read_text())
        if not resume:
            raise OutputError(
                f"{folder} already holds a run",
                hint="Add --resume to go on with it, or choose another --out.",
            )
        _compare(old["config"], about, folder)
        return folder
    write_atomic(note, json.dumps({"config": about, "status": "running"}, indent=1))
    return folder


def _compare(old: dict[str, Any], new: dict[str, Any], folder: Path) -> None:
    for part in ("sae", "train"):
        for key, value in new[part].items():
            if old[part].get(key) != value:
                raise MismatchError(
                    f"the run in {folder} was started with another {key}",
                    got=value,
                    expected=old[part].get(key),
                    hint="Use the same settings to resume, or another --out.",
                )


def _begin(
    sae_config: SAEConfig, config: TrainConfig, sample: torch.Tensor, device: str | None
) -> TrainState:
    row = RECIPES[config.recipe]
    scale = start.input_scale(sample, row)
    sae = SAE(sae_config)
    generator = torch.Generator().manual_seed(config.seed)
    start.initialise(sae, sample * scale, row, generator)
    assert config.lr is not None
    return TrainState.fresh(sae.to(device or "cpu"), row, config.lr, scale, config.seed)


def _restore(folder: Path, state: TrainState, stream: Stream) -> None:
    """Go back to the newest checkpoint that can be read; older ones stand in for a damaged one."""
    for path in reversed(checkpoints(folder)):
        try:
            about, tensors = read_checkpoint(path)
        except FormatError:
            continue
        state.load_tensors(tensors)
        for key, value in about["counters"].items():
            setattr(state, key, value)
        stream.load_state_dict(about["stream"])
        return


def _finish(
    source: Any, stream: Stream, state: TrainState, config: TrainConfig, about: dict[str, Any],
    rate: float, folder: Path | None, sample: torch.Tensor,
) -> Run:  # fmt: skip
    """Fold, calibrate, measure and write; the checkpoints go once the SAE is whole on disk."""
    live = not isinstance(stream, IteratorStream)
    n_batches = max(1, CALIBRATION_TOKENS // config.batch_size)
    batches = peek(stream, n_batches) if live else [sample]
    measured = calibrate.finish(state.sae, state.scale, state.guess, batches)
    given = source.provenance() if hasattr(source, "provenance") else {}
    state.sae.provenance = {
        **given,
        "recipe": config.recipe,
        "n_tokens": state.n_tokens,
        "config": about,
        "latent_max": measured.latent_max,
    }
    metrics = {
        "n_tokens": state.n_tokens, "fvu": measured.fvu, "l0": measured.l0,
        "dead_fraction": measured.dead_fraction, "tokens_per_s": round(rate, 1),
        "out": None if folder is None else str(folder), "measured_on_tokens": measured.n_tokens,
    }  # fmt: skip
    if folder is not None:
        note = {"config": about, "status": "finished", "metrics": metrics}
        write_atomic(folder / "run.json", json.dumps(note, indent=1))
        save_sae(state.sae, folder, also=_OURS)
        for path in checkpoints(folder):
            shutil.rmtree(path)
    return Run(state.sae, metrics, folder)
