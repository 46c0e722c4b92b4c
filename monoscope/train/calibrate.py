"""The end of a run: fold the normalisation, fix the inference threshold, measure what came out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monoscope.sae import SAE
from monoscope.sae.model import ENCODE_BATCH
from monoscope.sae.normalise import Normaliser
from monoscope.sae.surgery import fold


@dataclass(frozen=True)
class Measured:
    """Figures on training data: fvu = Σ‖x−x̂‖²/Σ‖x−μ‖², mean l0, dead share, latent_max [L]."""

    fvu: float
    l0: float
    dead_fraction: float
    latent_max: list[float]
    n_tokens: int


@torch.no_grad()
def finish(sae: SAE, inputs: Normaliser, guess: float, batches: list[Tensor]) -> Measured:
    """Fold, calibrate and measure, in place; batches are raw x [N, D]."""
    if sae.config.activation != "batchtopk":
        fold(sae, inputs)
        return measure(sae, batches)
    sae.threshold.fill_(guess)
    fold(sae, inputs)
    calibrate_threshold(sae, batches, start=0.5 * float(sae.threshold))
    return measure(sae, batches)


@torch.no_grad()
def calibrate_threshold(sae: SAE, batches: list[Tensor], start: float) -> None:
    """Set the threshold so that k·N values of the batches lie above it: L0 = k without a batch.

    start: a lower bound to look above; it is lowered until enough values are found.
    """
    assert sae.config.k is not None
    wanted = sae.config.k * sum(b.shape[0] for b in batches)
    while True:
        sae.threshold.fill_(start)
        tiles = (tile for batch in batches for tile in batch.split(ENCODE_BATCH))
        values = torch.cat([sae.choose(tile).values for tile in tiles])
        if values.numel() > wanted or start <= 0:
            break
        start = 0.7 * start if start > 1e-9 else 0.0
    if values.numel() > wanted:
        top = values.topk(wanted + 1).values
        sae.threshold.fill_(float(top[-2] + top[-1]) / 2)


@torch.no_grad()
def measure(sae: SAE, batches: list[Tensor]) -> Measured:
    """FVU, L0, dead share and maxima by the inference rule, over all the batches (fp64 sums)."""
    device = sae.W_enc.device
    n = sum(b.shape[0] for b in batches)
    mean = sum((b.double().sum(0) for b in batches), torch.zeros(())) / n
    missed = total = 0.0
    active = 0
    peak = torch.zeros(sae.d_sae)
    for batch in batches:
        for tile in batch.split(ENCODE_BATCH):
            x = tile.to(device)
            codes = sae.encode(x)
            missed += float((x - sae.decode(codes)).double().square().sum())
            total += float((x.double() - mean.to(device)).square().sum())
            active += codes.indices.numel()
            where = codes.indices.long().cpu()
            peak.scatter_reduce_(0, where, codes.values.float().cpu(), "amax")
    return Measured(
        fvu=missed / total,
        l0=active / n,
        dead_fraction=float((peak == 0).float().mean()),
        latent_max=[round(float(v), 4) for v in peak],
        n_tokens=n,
    )
