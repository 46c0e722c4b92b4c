"""The decoder's geometry: how alike its directions are, and how many dimensions they span.

Pairwise cosines are computed a block of rows at a time, so nothing of size L×L is ever held.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from monoscope.evals.cache import Figures
from monoscope.evals.material import Material

VERSION = 1
_BLOCK = 1024
_QUANTILES = (0.05, 0.5, 0.95, 0.99)


def run(material: Material) -> Figures:
    """Figures of the decoder, the encoder, and random unit rows of the decoder's shape."""
    decoder, encoder = material.sae.W_dec.detach(), material.sae.W_enc.detach()
    generator = torch.Generator().manual_seed(material.seed)
    random = torch.randn(decoder.shape, generator=generator)
    cosine = F.cosine_similarity(encoder.float(), decoder.float(), dim=1)
    return {
        "decoder": of_rows(decoder),
        "encoder": of_rows(encoder),
        "random": of_rows(random),
        "encoder_decoder_cosine": _quantiles(cosine.cpu().numpy()),
        "n_latents": len(decoder),
    }


def of_rows(rows: Tensor) -> Figures:
    """Cosines between different rows [L,D], each row's largest, and the rows' effective rank.

    max_cosine: over other rows, per row; mean_abs_cosine, rms_cosine over all pairs (√(1/D) for
    random rows); effective_rank = exp(−Σ p log p), p = σ/Σσ (Roy & Vetterli 2007);
    participation_ratio = (Σσ²)²/Σσ⁴, both of the unit rows. Rows of length zero are left out.
    """
    unit = _unit(rows)
    if len(unit) < 2:
        return {"n_rows": len(unit), "max_cosine": None, "effective_rank": None}
    largest = max_cosine(unit)
    total = squares = 0.0
    for start in range(0, len(unit), _BLOCK):
        cosine = unit[start : start + _BLOCK] @ unit.T
        total += float(cosine.abs().sum(dtype=torch.float64))
        squares += float(cosine.square().sum(dtype=torch.float64))
    n = len(unit)
    pairs = n * (n - 1)
    sigma = torch.linalg.eigvalsh(unit.T.double() @ unit.double()).clamp_min(0).sqrt()
    p = sigma / sigma.sum()
    p = p[p > 0]
    return {
        "n_rows": n,
        "max_cosine": _quantiles(largest.numpy()),
        "share_max_cosine_over_0.9": float((largest > 0.9).double().mean()),
        "mean_abs_cosine": (total - n) / pairs,
        "rms_cosine": math.sqrt(max(squares - n, 0.0) / pairs),
        "effective_rank": float((-(p * p.log()).sum()).exp()),
        "participation_ratio": float(sigma.square().sum() ** 2 / sigma.pow(4).sum()),
    }


def max_cosine(rows: Tensor) -> Tensor:
    """Each row's largest cosine with another row, [L]; rows [L,D] of any length but zero."""
    unit = F.normalize(rows.detach().float(), dim=1)
    parts = []
    for start in range(0, len(unit), _BLOCK):
        cosine = unit[start : start + _BLOCK] @ unit.T
        own = torch.arange(len(cosine))
        cosine[own, own + start] = -1
        parts.append(cosine.amax(1))
    return torch.cat(parts).cpu()


def _unit(rows: Tensor) -> Tensor:
    rows = rows.detach().float()
    norms = rows.norm(dim=1, keepdim=True)
    return (rows / norms.clamp_min(1e-30))[norms[:, 0] > 0]


def _quantiles(values: np.ndarray) -> Figures:
    found = {f"{q:g}": float(np.quantile(values, q)) for q in _QUANTILES}
    return {"mean": float(values.mean()), **found}
