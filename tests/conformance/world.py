"""What the conformance tests run on: small data of known sparse structure, short runs on it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from monoscope.sae import SAE, SAEConfig
from monoscope.sae.config import WITH_K
from monoscope.sae.recipes import RECIPES, Recipe
from monoscope.train import start
from monoscope.train.calibrate import finish
from monoscope.train.config import TrainConfig
from monoscope.train.source import TensorStream
from monoscope.train.state import TrainState
from monoscope.train.step import step

D, L, K, BATCH, STEPS = 16, 48, 4, 128, 40


def data(n: int = 1024) -> Tensor:
    """Three of 24 directions a token, plus a mean; norms around 20."""
    g = torch.Generator().manual_seed(0)
    directions = torch.randn(24, D, generator=g)
    mixes = torch.zeros(n, 24).scatter_(1, torch.rand(n, 24, generator=g).topk(3).indices, 1.0)
    return 3.0 * (mixes * torch.rand(n, 24, generator=g).add(0.5)) @ directions + 2.0


@dataclass(frozen=True)
class Variant:
    """A recipe, with settings that change its parts."""

    recipe: str
    normalisation: str | None = None
    hidden: tuple[int, ...] = ()

    @property
    def row(self) -> Recipe:
        return RECIPES[self.recipe]

    @property
    def has_k(self) -> bool:
        return self.row.activation in WITH_K

    @property
    def d_sae(self) -> int:
        return 8 if self.row.bottleneck else L

    def __str__(self) -> str:
        hidden = "deep" if self.hidden else None
        return "+".join(part for part in (self.recipe, self.normalisation, hidden) if part)

    def configs(self) -> tuple[SAEConfig, TrainConfig]:
        # the papers' 5 is for norms of √D in hundreds of dimensions, here they are 4
        l1 = self.row.sparsity in ("l1", "l1_decoder_norm")
        config = TrainConfig(
            n_tokens=BATCH * STEPS, recipe=self.recipe, batch_size=BATCH, lr=3e-3,
            normalisation=self.normalisation, sparsity_coefficient=0.5 if l1 else None,
        )  # fmt: skip
        shape = config.shape(D, self.d_sae, K if self.has_k else None, self.hidden)
        return shape, config.resolved(shape)


VARIANTS = (
    *(Variant(name) for name in RECIPES),
    Variant("autoencoder", hidden=(24, 12)),
    *(Variant("batchtopk", normalisation=kind) for kind in ("none", "standardize", "unit")),
    *(Variant("jumprelu", normalisation=kind) for kind in ("standardize", "unit")),
    Variant("gated", normalisation="unit"),
    Variant("kl", normalisation="mean_norm"),
)


def begin(variant: Variant) -> tuple[TrainState, TrainConfig]:
    """A run before its first step."""
    shape, config = variant.configs()
    inputs = start.inputs(data(), config)
    sae = SAE(shape)
    generator = torch.Generator().manual_seed(1)
    start.initialise(sae, inputs(data()), variant.row, config, generator)
    assert config.lr is not None
    return TrainState.fresh(sae, variant.row, config.lr, inputs, 1), config


@dataclass(frozen=True)
class Trained:
    """A run at its end, before anything is folded."""

    state: TrainState
    config: TrainConfig
    fvu: list[float]
    l0: list[float]


def train(variant: Variant, steps: int = STEPS) -> Trained:
    state, config = begin(variant)
    stream = TensorStream(data(), BATCH, 0)
    fvu, l0 = [], []
    for _ in range(steps):
        done = step(state, variant.row, config, next(stream))
        fvu.append(done.objective.fvu)
        l0.append(done.l0)
    return Trained(state, config, fvu, l0)


@cache
def _weights(variant: Variant) -> tuple[SAEConfig, dict[str, Tensor]]:
    state = train(variant).state
    finish(state.sae, state.inputs, state.guess, [data()])
    return state.sae.config, state.sae.state_dict()


def finished(variant: Variant) -> SAE:
    """A trained, folded, calibrated SAE; a fresh copy at each call."""
    config, weights = _weights(variant)
    return copy_of(SAE(config), weights)


def copy_of(sae: SAE, weights: dict[str, Tensor] | None = None) -> SAE:
    """Another SAE with the same config and weights."""
    other = SAE(sae.config, dict(sae.provenance))
    other.load_state_dict(weights or sae.state_dict())
    return other
