"""The recipes: each a row that fills in an SAE and its training with a paper's defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from monoscope.errors import ConfigError, nearest
from monoscope.sae.config import Activation


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Which parts a recipe is made of, and its defaults.

    reconstruction, sparsity, auxiliary: the loss terms (losses.py).  decoder: "unit" keeps rows at
    norm 1, "free" leaves them.  normalisation: "mean_norm" scales inputs so that E‖x‖ = √D.
    init_norm: norm of the decoder rows at the start.
    resample: restart dead latents (Bricken 2023).
    lr is for d_sae = 4096 where lr_by_width scales it by √(4096 / d_sae).
    """

    paper: str
    activation: Activation
    reconstruction: Literal["relative", "squared"]
    sparsity: Literal["l1", "l1_decoder_norm"] | None = None
    auxiliary: Literal["auxk"] | None = None
    decoder: Literal["unit", "free"] = "unit"
    normalisation: Literal["mean_norm", "none"] = "mean_norm"
    resample: bool = False
    init_norm: float = 1.0
    lr: float
    lr_by_width: bool = False
    warmup_fraction: float = 0.02
    decay_fraction: float
    sparsity_coefficient: float = 0.0
    sparsity_warmup_fraction: float = 0.0
    auxk_coefficient: float = 0.0
    grad_clip: float | None = None
    adam_eps: float = 6.25e-10


RECIPES: dict[str, Recipe] = {
    "topk": Recipe(
        paper="Gao et al. 2024, Scaling and evaluating sparse autoencoders, arXiv 2406.04093",
        activation="topk",
        reconstruction="relative",
        auxiliary="auxk",
        auxk_coefficient=1 / 32,
        lr=2e-3,
        lr_by_width=True,
        decay_fraction=0.8,
    ),
    "batchtopk": Recipe(
        paper="Bussmann et al. 2024, BatchTopK sparse autoencoders, arXiv 2412.06410",
        activation="batchtopk",
        reconstruction="relative",
        auxiliary="auxk",
        auxk_coefficient=1 / 32,
        lr=2e-3,
        lr_by_width=True,
        decay_fraction=0.8,
    ),
    "bricken": Recipe(
        paper="Bricken et al. 2023, Towards monosemanticity, transformer-circuits.pub",
        activation="relu",
        reconstruction="squared",
        sparsity="l1",
        sparsity_coefficient=5.0,
        sparsity_warmup_fraction=0.05,
        resample=True,
        lr=1e-3,
        lr_by_width=True,
        decay_fraction=0.2,
    ),
    "templeton": Recipe(
        paper="Templeton et al. 2024, Scaling monosemanticity, and the April 2024 update",
        activation="relu",
        reconstruction="squared",
        sparsity="l1_decoder_norm",
        sparsity_coefficient=5.0,
        sparsity_warmup_fraction=0.05,
        decoder="free",
        init_norm=0.1,
        lr=5e-5,
        decay_fraction=0.2,
        grad_clip=1.0,
    ),
}


def get_recipe(name: str) -> Recipe:
    """The row called `name`; ConfigError names the nearest one that exists."""
    if name in RECIPES:
        return RECIPES[name]
    close = nearest(name, RECIPES)
    raise ConfigError(
        "unknown recipe",
        got=repr(name),
        expected=f"one of {', '.join(RECIPES)}",
        hint=f"Did you mean {close}?" if close else None,
    )
