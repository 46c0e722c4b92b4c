"""How a run starts: the input scale and the first weights, from the first batches of data."""

from __future__ import annotations

import torch
from torch import Tensor

from monoscope.errors import DataError
from monoscope.sae.model import SAE
from monoscope.sae.recipes import Recipe

GAIN_TOKENS = 1024  # tokens the starting gain is fitted on
NOISE = 0.1  # share of noise in a row started from a data point; keeps repeated tokens apart


def input_scale(sample: Tensor, recipe: Recipe) -> float:
    """√D / mean‖x‖ for mean_norm, 1 for none; sample [N, D]."""
    if recipe.normalisation == "none":
        return 1.0
    mean_norm = float(sample.norm(dim=1).mean())
    if mean_norm == 0.0:
        raise DataError("activations are all zero", hint="Check the site and the mask.")
    return float(sample.shape[1] ** 0.5 / mean_norm)


@torch.no_grad()
def initialise(sae: SAE, sample: Tensor, recipe: Recipe, generator: torch.Generator) -> None:
    """Set the weights from scaled data, in place.

    Top-k family: b_dec the mean of the sample, decoder rows centred data points plus noise, and the
    encoder's gain fitted. L1 recipes: b_dec as it is and random directions, as in their papers.
    Decoder rows have init_norm; the encoder has the same rows.
    """
    mean = sample.mean(0)
    rows = torch.randn(sae.d_sae, sae.d_in, generator=generator)
    rows /= rows.norm(dim=1, keepdim=True)
    if recipe.auxiliary == "auxk":
        picks = torch.randint(sample.shape[0], (sae.d_sae,), generator=generator)
        if sae.d_sae <= sample.shape[0]:
            picks = torch.randperm(sample.shape[0], generator=generator)[: sae.d_sae]
        points = sample[picks] - mean
        rows = points / points.norm(dim=1, keepdim=True).clamp_min(1e-6) + NOISE * rows
        rows /= rows.norm(dim=1, keepdim=True)
    sae.W_dec.copy_(rows * recipe.init_norm)
    sae.W_enc.copy_(sae.W_dec)
    sae.b_enc.zero_()
    if recipe.auxiliary == "auxk":
        sae.b_dec.copy_(mean)
        _fit_gain(sae, sample[:GAIN_TOKENS])


def _fit_gain(sae: SAE, sample: Tensor) -> None:
    """Scale the encoder by the least-squares gain of its first reconstructions, in place.

    Rows taken from data overlap, so k of them together overshoot many times over; without this
    the first FVU is about 40 and the run spends its first passes undoing it.
    """
    codes, _ = sae.select_training(sample, guess=0.0)
    x_hat = sae.decode(codes) - sae.b_dec
    gain = ((sample - sae.b_dec) * x_hat).sum() / x_hat.square().sum().clamp_min(1e-12)
    sae.W_enc.mul_(gain.clamp(1e-3, 1.0))
