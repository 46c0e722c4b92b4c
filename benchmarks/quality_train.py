"""Trains one SAE with monoscope, SAELens or sparsify on the same batches: a worker of quality.py.

A run is named by a spec: contender, settings, store, n_tokens, batch_size, d_sae, k, seed. All
contenders draw the same batches in the same order, from the store's stream of that seed, and each
is driven by its own trainer and saved in its own format. The peers live in an environment of their
own, so imports are inside the functions.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Spec = dict[str, Any]


def batches(spec: Spec) -> Iterator[Tensor]:
    """x [batch_size, D] float32, endless, in the order every contender sees."""
    from monoscope.data.store import load_store

    return iter(load_store(spec["store"]).stream(spec["batch_size"], spec["seed"]))


def whole_steps(spec: Spec) -> int:
    """The budget in tokens, cut to whole batches so that all contenders take as many steps."""
    return int(spec["n_tokens"] // spec["batch_size"] * spec["batch_size"])


def monoscope(spec: Spec, out: Path) -> None:
    """`monoscope train` with the recipe's defaults, but for what the settings say.

    A setting called part.X is the field X of the recipe itself, such as part.whitening.
    """
    from monoscope.data.store import load_store
    from monoscope.sae.recipes import RECIPES
    from monoscope.train import train

    settings = dict(spec["settings"])
    recipe = settings.pop("recipe")
    parts = {name[5:]: settings.pop(name) for name in list(settings) if name.startswith("part.")}
    RECIPES[recipe] = dataclasses.replace(RECIPES[recipe], **parts)
    train(
        load_store(spec["store"]), recipe=recipe, d_sae=spec["d_sae"],
        k=spec["k"], n_tokens=whole_steps(spec), batch_size=spec["batch_size"], seed=spec["seed"],
        lr=settings.pop("lr", None), out=out,
        settings={"checkpoint_every_tokens": 0, **settings},
    )  # fmt: skip


def saelens(spec: Spec, out: Path) -> None:
    """SAELens' SAETrainer, with activations scaled to E‖x‖ = √D as its guide recommends.

    architecture: topk or batchtopk.  decay: share of the run with falling lr.  dead_share: steps
    without firing after which a latent is dead, as a share of the run (None: its default, 1000).
    """
    from sae_lens import (
        BatchTopKTrainingSAE,
        BatchTopKTrainingSAEConfig,
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
    )
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    from monoscope.data.store import load_store

    settings, n_steps = spec["settings"], spec["n_tokens"] // spec["batch_size"]
    config_class, sae_class = {
        "topk": (TopKTrainingSAEConfig, TopKTrainingSAE),
        "batchtopk": (BatchTopKTrainingSAEConfig, BatchTopKTrainingSAE),
    }[settings["architecture"]]
    norm = load_store(spec["store"]).norm_stats.mean_norm
    d_in = load_store(spec["store"]).d_in
    sae = sae_class(
        config_class(
            d_in=d_in, d_sae=spec["d_sae"], k=spec["k"],
            normalize_activations="expected_average_only_in",
        )  # type: ignore[arg-type]
    )  # fmt: skip
    window = {}
    if settings.get("dead_share") is not None:
        window["dead_feature_window"] = max(1, round(settings["dead_share"] * n_steps))
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=n_steps * spec["batch_size"],
            train_batch_size_samples=spec["batch_size"],
            lr=settings["lr"], lr_end=settings["lr"] / 10,
            lr_decay_steps=round(settings["decay"] * n_steps), **window,
        ),
        sae, batches(spec),
    )  # type: ignore[arg-type]  # fmt: skip
    # What its trainer would estimate from batches it then throws away: the same number, with the
    # stream left where the others start.
    trainer.activation_scaler.scaling_factor = d_in**0.5 / norm
    trainer.fit().save_inference_model(out)


class _Rows(nn.Module):
    """A "language model" for sparsify's Trainer whose one module gives the stored activations."""

    def __init__(self, stream: Iterator[Tensor]) -> None:
        super().__init__()
        self.stream, self.site = stream, nn.Identity()
        self.device = torch.device("cpu")
        self.dummy_inputs = {"input_ids": torch.zeros(1, 1, dtype=torch.int64)}

    @property
    def base_model(self) -> _Rows:
        return self

    def forward(self, input_ids: Tensor) -> Tensor:
        if input_ids.numel() == 1:  # it asks for the width first
            return self.site(torch.zeros(1, 1, self.stream._store.d_in))  # type: ignore[attr-defined]
        return self.site(next(self.stream)[None])


def sparsify(spec: Spec, out: Path) -> None:
    """sparsify's own Trainer. Settings: fields of its TrainConfig, but for two shares of the run:

    warmup: lr_warmup_steps.  dead_share: dead_feature_threshold.
    """
    from sparsify import SaeConfig, TrainConfig, Trainer

    settings, n_tokens = dict(spec["settings"]), spec["n_tokens"]
    n_steps, size = n_tokens // spec["batch_size"], spec["batch_size"]
    if "warmup" in settings:
        settings["lr_warmup_steps"] = round(settings.pop("warmup") * n_steps)
    if "dead_share" in settings:
        settings["dead_feature_threshold"] = round(settings.pop("dead_share") * n_tokens)
    config = TrainConfig(
        SaeConfig(num_latents=spec["d_sae"], k=spec["k"]), batch_size=1, hookpoints=["site"],
        init_seeds=[spec["seed"]], save_every=10**9, save_dir=str(out.parent), run_name=out.name,
        log_to_wandb=False, **settings,
    )  # fmt: skip
    ids = torch.arange(size)
    rows = [{"input_ids": ids}] * n_steps
    Trainer(config, rows, _Rows(batches(spec))).fit()  # type: ignore[arg-type]


CONTENDERS: dict[str, tuple[Callable[[Spec, Path], None], str]] = {
    "monoscope": (monoscope, "monoscope"),
    "saelens": (saelens, "sae-lens"),
    "sparsify": (sparsify, "eai-sparsify"),
}


def main() -> None:
    """spec (JSON) and the folder to save in; the versions used go to versions.json there."""
    spec, out = json.loads(sys.argv[1]), Path(sys.argv[2])
    warnings.filterwarnings("ignore")
    torch.manual_seed(spec["seed"])
    make, package = CONTENDERS[spec["contender"]]
    make(spec, out)
    versions = {name: metadata.version(name) for name in (package, "torch")}
    (out / "versions.json").write_text(json.dumps(versions))


if __name__ == "__main__":
    main()
