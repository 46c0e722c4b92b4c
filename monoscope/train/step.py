"""One step: select, reconstruct, weigh, descend; it changes a TrainState and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from monoscope.ops.rowgrads import RowGrads
from monoscope.sae.recipes import Recipe
from monoscope.train.config import TrainConfig
from monoscope.train.objective import Objective, objective
from monoscope.train.resample import resample
from monoscope.train.schedule import lr_factor
from monoscope.train.source import require_finite
from monoscope.train.state import TrainState


@dataclass(frozen=True)
class StepResult:
    objective: Objective
    l0: float
    lr: float


def step(state: TrainState, recipe: Recipe, config: TrainConfig, raw: Tensor) -> StepResult:
    """One step of Adam on raw x [N, D]; changes `state` and nothing else."""
    assert config.lr is not None and config.dead_after_tokens is not None
    assert config.warmup_fraction is not None and config.decay_fraction is not None
    sae = state.sae
    x = raw.to(sae.W_enc.device) * state.scale
    if state.step == 0:
        require_finite(x)
    done = state.n_tokens / config.n_tokens
    after = (state.n_tokens + x.shape[0]) / config.n_tokens
    lr = config.lr * lr_factor(after, config.warmup_fraction, config.decay_fraction)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    chosen, smallest = sae.select_training(x, state.guess)
    dead = state.dead(config.dead_after_tokens) if recipe.auxiliary else state.last_fired[:0]
    state.optimizer.zero_grad(set_to_none=True)
    with RowGrads() as grads:
        codes = sae.codes_with_grad(x, chosen)
        terms = objective(sae, recipe, config, x, codes, dead, done)
        terms.total.backward()
    unit = (sae.W_dec,) if recipe.decoder == "unit" else ()
    state.optimizer.descend(grads, unit=unit, max_norm=recipe.grad_clip)
    state.step += 1
    state.n_tokens += x.shape[0]
    state.guess = 0.9 * smallest
    state.last_fired[chosen.indices.long()] = state.n_tokens
    if recipe.resample:
        resample(state, recipe, config, x)
    return StepResult(terms, chosen.indices.numel() / x.shape[0], lr)
