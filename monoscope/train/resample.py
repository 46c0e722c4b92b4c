"""Dead latents restarted on tokens the SAE reconstructs badly (Bricken 2023, neuron resampling)."""

from __future__ import annotations

import torch
from torch import Tensor

from monoscope.sae.recipes import Recipe
from monoscope.train.config import TrainConfig
from monoscope.train.state import TrainState

ENCODER_SHARE = 0.2  # norm of a restarted encoder row, as a share of the living ones' mean
LAST_RESAMPLE = 0.7  # none after this share of the run: a restarted latent needs time to settle


@torch.no_grad()
def resample(state: TrainState, recipe: Recipe, config: TrainConfig, x: Tensor) -> int:
    """Every resample_every_tokens, restart the dead latents from rows of scaled x [N, D].

    Drawn with probability ∝ ‖x − x̂‖⁴ (the squared loss). Decoder row: the token's direction;
    encoder row: the same at ENCODER_SHARE of the mean norm; bias 0; Adam's moments of all three are
    reset. Returns how many were restarted.
    """
    assert config.resample_every_tokens is not None and config.dead_after_tokens is not None
    every = config.resample_every_tokens
    due = state.n_tokens // every > (state.n_tokens - x.shape[0]) // every
    if not due or state.n_tokens > LAST_RESAMPLE * config.n_tokens:
        return 0
    dead = state.dead(config.dead_after_tokens)
    if dead.numel() == 0:
        return 0
    sae = state.sae
    loss = (x - sae.decode(sae.encode(x))).square().sum(1)
    weights = loss.square().cpu() + 1e-12
    picks = torch.multinomial(weights, dead.numel(), replacement=True, generator=state.generator)
    rows = x[picks.to(x.device)] - sae.b_dec
    rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    alive = torch.ones(sae.d_sae, dtype=torch.bool, device=dead.device)
    alive[dead] = False
    norm = sae.W_enc[alive].norm(dim=1).mean() if alive.any() else sae.W_enc.new_ones(())
    sae.W_dec[dead] = rows * recipe.init_norm
    sae.W_enc[dead] = rows * ENCODER_SHARE * norm
    leaves = {"b_enc": sae.b_enc, **{name: getattr(sae, name) for name in sae.rule.leaves(1)}}
    for leaf in leaves.values():
        leaf[dead] = 0.0
    for parameter in (sae.W_enc, sae.W_dec, *leaves.values()):
        for key in ("exp_avg", "exp_avg_sq"):
            state.optimizer.state[parameter][key][dead] = 0.0
    state.last_fired[dead] = state.n_tokens
    return int(dead.numel())
