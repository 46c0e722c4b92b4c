"""TrainState: everything of a run that changes, and how it is saved and brought back."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from monoscope.errors import FormatError
from monoscope.files import sha256_file, sync, write_atomic, write_problem
from monoscope.sae import SAE
from monoscope.sae.normalise import Normaliser
from monoscope.sae.recipes import Recipe
from monoscope.train.optimizer import RowAdam

_COUNTERS = ("step", "n_tokens", "guess", "memory", "cut_at", "cut_end", "fallbacks")
_NEWER = ("fallbacks",)  # checkpoints of earlier versions do not have them
KEEP = 2  # checkpoints kept: the newest may have been cut short


@dataclass
class TrainState:
    """The mutable state of a run; nothing else in `train` changes between steps.

    inputs: what normalises raw activations.
    guess: where the next batchtopk selection starts looking.
    last_fired [L] int64, beside the weights: n_tokens when each latent last fired.
    generator: for resampling.
    memory: what controllers remember, by their names; JSON-able.
    cut_at, cut_end: where it became known that the data end at cut_end tokens; None while they do
    not end before the run.
    fallbacks: rows whose latents the fast selection could not prove, so that the reference did.
    """

    sae: SAE
    optimizer: RowAdam
    inputs: Normaliser
    last_fired: Tensor
    generator: torch.Generator
    step: int = 0
    n_tokens: int = 0
    guess: float = 0.0
    memory: dict[str, Any] = field(default_factory=dict)
    cut_at: int | None = None
    cut_end: int | None = None
    fallbacks: int = 0

    @classmethod
    def fresh(
        cls, sae: SAE, recipe: Recipe, lr: float, inputs: Normaliser, seed: int
    ) -> TrainState:
        scales = {"threshold": recipe.threshold_lr}
        if sae.W_dec is not sae.W_enc:
            scales["W_dec"] = recipe.decoder_lr
        by_scale: dict[float, list[Tensor]] = {}
        for name, parameter in sae.named_parameters():
            if parameter.requires_grad:
                by_scale.setdefault(scales.get(name, 1.0), []).append(parameter)
        groups: list[dict[str, Any]] = [
            {"params": learn, "lr_scale": scale} for scale, learn in by_scale.items()
        ]
        betas = recipe.adam_beta1, recipe.adam_beta2
        optimizer = RowAdam(groups, lr=lr, eps=recipe.adam_eps, betas=betas)
        last_fired = torch.zeros(sae.d_sae, dtype=torch.int64, device=sae.W_enc.device)
        generator = torch.Generator().manual_seed(seed)
        return cls(sae, optimizer, inputs, last_fired, generator)

    def dead(self, after_tokens: int) -> Tensor:
        """Ids of the latents that have not fired for `after_tokens` tokens."""
        return (self.n_tokens - self.last_fired >= after_tokens).nonzero()[:, 0]

    def goal(self, n_tokens: int) -> int:
        """Tokens at which the run ends: n_tokens, or sooner if the data do."""
        return n_tokens if self.cut_end is None else min(n_tokens, self.cut_end)

    def share(self, at: int, n_tokens: int) -> float:
        """Share of the schedule that is done at `at` tokens, 0 … 1.

        Where the data end early, what was left of the schedule at cut_at is done faster, so that
        it ends with them.
        """
        if self.cut_at is None or self.cut_end is None or at <= self.cut_at:
            return min(1.0, at / n_tokens)
        done = self.cut_at / n_tokens
        left = (at - self.cut_at) / max(1, self.cut_end - self.cut_at)
        return min(1.0, done + (1.0 - done) * left)

    def is_finite(self) -> bool:
        """Whether all weights are; a step may spoil them without spoiling its own loss."""
        return all(bool(torch.isfinite(p).all()) for p in self.sae.parameters())

    def tensors(self) -> dict[str, Tensor]:
        named = {f"sae.{name}": t.detach() for name, t in self.sae.state_dict().items()}
        if self.sae.W_dec is self.sae.W_enc:  # tied: one tensor cannot be saved under two names
            named["sae.W_dec"] = named["sae.W_dec"].clone()
        named["inputs.shift"], named["inputs.scale"] = self.inputs.shift, self.inputs.scale
        for name, parameter in self.sae.named_parameters():
            for key, value in self.optimizer.state[parameter].items():
                named[f"adam.{name}.{key}"] = torch.as_tensor(value)
        named["last_fired"] = self.last_fired
        named["generator"] = self.generator.get_state()
        return named

    def load_tensors(self, named: dict[str, Tensor]) -> None:
        self.sae.load_state_dict({k[4:]: v for k, v in named.items() if k.startswith("sae.")})
        for name, parameter in self.sae.named_parameters():
            prefix = f"adam.{name}."
            self.optimizer.state[parameter] = {
                k[len(prefix) :]: v if k.endswith(".step") else v.to(parameter.device)
                for k, v in named.items()
                if k.startswith(prefix)
            }
        device = self.sae.W_enc.device
        inputs = Normaliser(self.inputs.kind, named["inputs.shift"], named["inputs.scale"])
        self.inputs = inputs.to(device)
        self.last_fired = named["last_fired"].to(device)
        self.generator.set_state(named["generator"])

    def counters(self) -> dict[str, Any]:
        """The rest of the state, JSON-able."""
        return {name: getattr(self, name) for name in _COUNTERS}

    def load_counters(self, values: dict[str, Any]) -> None:
        for name in _COUNTERS:
            if name in values or name not in _NEWER:
                setattr(self, name, values[name])


def save_checkpoint(
    folder: Path, state: TrainState, stream: dict[str, Any], config: dict[str, Any]
) -> None:
    """Write checkpoint-<step>/ whole or not at all, and drop all but the newest two.

    Raises OutputError if the disk is full or the folder cannot be written; those before it stand.
    """
    final = folder / f"checkpoint-{state.step:09d}"
    draft = folder / f".{final.name}.part"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        _write(draft, state, stream, config)
        shutil.rmtree(final, ignore_errors=True)
        draft.rename(final)
        sync(folder)
    except Exception as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise (write_problem(final, error) or error) from error
    for old in checkpoints(folder)[:-KEEP]:
        shutil.rmtree(old)


def _write(draft: Path, state: TrainState, stream: dict[str, Any], config: dict[str, Any]) -> None:
    draft.mkdir(parents=True)
    tensors = draft / "state.safetensors"
    save_file(state.tensors(), tensors)
    sync(tensors)
    about = {
        "counters": state.counters(),
        "stream": stream,
        "config": config,
        "sha256": sha256_file(tensors),
    }
    write_atomic(draft / "state.json", json.dumps(about, indent=1))
    sync(draft)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a run's folder, oldest first."""
    return sorted(folder.glob("checkpoint-*"))


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What save_checkpoint wrote; FormatError if it was cut short or changed."""
    try:
        about: dict[str, Any] = json.loads((path / "state.json").read_text())
        if sha256_file(path / "state.safetensors") != about["sha256"]:
            raise FormatError("a checkpoint is damaged", got=path, hint="Its hash does not match.")
        return about, load_file(path / "state.safetensors")
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise FormatError("a checkpoint cannot be read", got=f"{path} ({error})") from error
