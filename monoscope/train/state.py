"""TrainState: everything of a run that changes, and how it is saved and brought back."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from monoscope.errors import FormatError
from monoscope.files import sha256_file, write_atomic
from monoscope.sae import SAE
from monoscope.sae.recipes import Recipe

KEEP = 2  # checkpoints kept: the newest may have been cut short


@dataclass
class TrainState:
    """The mutable state of a run; nothing else in `train` changes between steps.

    scale: what inputs are multiplied by.  guess: where the next batchtopk selection starts looking.
    last_fired [L] int64: n_tokens when each latent last fired.  generator: for resampling.
    """

    sae: SAE
    optimizer: torch.optim.Adam
    scale: float
    last_fired: Tensor
    generator: torch.Generator
    step: int = 0
    n_tokens: int = 0
    guess: float = 0.0

    @classmethod
    def fresh(cls, sae: SAE, recipe: Recipe, lr: float, scale: float, seed: int) -> TrainState:
        optimizer = torch.optim.Adam(sae.parameters(), lr=lr, eps=recipe.adam_eps, fused=True)
        last_fired = torch.zeros(sae.d_sae, dtype=torch.int64)
        generator = torch.Generator().manual_seed(seed)
        return cls(sae, optimizer, scale, last_fired, generator)

    def dead(self, after_tokens: int) -> Tensor:
        """Ids of the latents that have not fired for `after_tokens` tokens."""
        return (self.n_tokens - self.last_fired >= after_tokens).nonzero()[:, 0]

    def tensors(self) -> dict[str, Tensor]:
        named = {f"sae.{name}": t.detach() for name, t in self.sae.state_dict().items()}
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
                k[len(prefix) :]: v for k, v in named.items() if k.startswith(prefix)
            }
        self.last_fired = named["last_fired"]
        self.generator.set_state(named["generator"])

    def counters(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "n_tokens": self.n_tokens,
            "scale": self.scale,
            "guess": self.guess,
        }


def save_checkpoint(
    folder: Path, state: TrainState, stream: dict[str, Any], config: dict[str, Any]
) -> None:
    """Write checkpoint-<step>/ whole or not at all, and drop all but the newest two."""
    final = folder / f"checkpoint-{state.step:09d}"
    draft = folder / f".checkpoint-{state.step:09d}.part"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    tensors = draft / "state.safetensors"
    save_file(state.tensors(), tensors)
    with tensors.open("rb") as written:
        os.fsync(written.fileno())
    about = {
        "counters": state.counters(),
        "stream": stream,
        "config": config,
        "sha256": sha256_file(tensors),
    }
    write_atomic(draft / "state.json", json.dumps(about, indent=1))
    shutil.rmtree(final, ignore_errors=True)
    draft.rename(final)
    for old in checkpoints(folder)[:-KEEP]:
        shutil.rmtree(old)


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
