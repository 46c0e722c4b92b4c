"""One step: select, reconstruct, weigh, descend; it changes a TrainState and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monoscope.ops.fallbacks import Fallbacks
from monoscope.ops.rowgrads import RowGrads
from monoscope.sae import SAE
from monoscope.sae.recipes import Recipe
from monoscope.train import controller
from monoscope.train.config import TrainConfig
from monoscope.train.objective import Objective, objective
from monoscope.train.resample import resample
from monoscope.train.schedule import annealed_k, lr_factor, ramp
from monoscope.train.source import require_finite
from monoscope.train.state import TrainState


@dataclass(frozen=True)
class StepResult:
    objective: Objective
    l0: float | Tensor
    lr: float
    coefficient: float


def step(state: TrainState, recipe: Recipe, config: TrainConfig, raw: Tensor) -> StepResult:
    """One step of Adam on raw x [N, D]; changes `state` and nothing else."""
    assert config.dead_after_tokens is not None
    sae = state.sae
    x = state.inputs(raw.to(sae.W_enc.device))
    if state.step == 0:
        require_finite(x)
    done = state.share(state.n_tokens, config.n_tokens)
    after = state.share(state.n_tokens + x.shape[0], config.n_tokens)
    lr = set_lr(state, config, after)
    dead = state.dead(config.dead_after_tokens) if recipe.auxiliary else state.last_fired[:0]
    coefficient = sparsity_coefficient(state, config, done)
    state.optimizer.zero_grad(set_to_none=True)
    with RowGrads() as grads, Fallbacks() as handed:
        active = sae.activate(
            x, k=k_now(sae, config, done), guess=state.guess, bandwidth=config.bandwidth or 1.0
        )
        terms = objective(sae, recipe, config, x, active, dead, coefficient)
        terms.total.backward()
    unit = (sae.W_dec,) if recipe.decoder == "unit" else ()
    state.optimizer.descend(grads, unit=unit, max_norm=config.grad_clip)
    constrain(sae)
    state.step += 1
    state.n_tokens += x.shape[0]
    state.fallbacks += handed.rows
    state.guess = 0.9 * float(active.smallest)
    state.last_fired[active.fired] = state.n_tokens
    if config.target_l0 is not None:
        controller.steer(state, config.target_l0, float(active.l0), after - done)
    if recipe.resample:
        resample(state, recipe, config, x)
    return StepResult(terms, active.l0, lr, coefficient)


def set_lr(state: TrainState, config: TrainConfig, after: float) -> float:
    """Give the optimiser, and return, the rate of a step that ends at `after` of the run."""
    assert config.lr is not None
    assert config.warmup_fraction is not None and config.decay_fraction is not None
    lr = config.lr * lr_factor(after, config.warmup_fraction, config.decay_fraction)
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
    return lr


def k_now(sae: SAE, config: TrainConfig, done: float) -> int | None:
    """Latents a token at this point of the run; None for activations without k."""
    if sae.config.k is None:
        return None
    start = None if config.k_start is None else int(config.k_start)
    return annealed_k(done, sae.config.k, start, config.k_anneal_fraction or 0.0)


def sparsity_coefficient(state: TrainState, config: TrainConfig, done: float) -> float:
    """The coefficient now: the configured one, times the warm-up, times the controller's factor."""
    base = config.sparsity_coefficient or 0.0
    if config.target_l0 is not None:  # the controller does the rising
        return base * controller.factor(state)
    return base * ramp(done, config.sparsity_warmup_fraction or 0.0)


@torch.no_grad()
def constrain(sae: SAE) -> None:
    """What must hold after every step, beside the unit rows: thresholds not below zero."""
    if sae.config.activation == "jumprelu":
        sae.threshold.clamp_min_(0.0)
