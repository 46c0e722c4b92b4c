"""The decoder's geometry: how alike its directions are, and how many dimensions they span.

Pairwise cosines are computed a block of rows at a time, so nothing of size L×L is ever held. Of
more than PAIRS of them, a sample of the rows is compared with all.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from monoscope.evals.cache import Figures
from monoscope.evals.material import Material

VERSION = 2
PAIRS = 1 << 29
"""Cosines that are computed of one matrix: all of them up to 23,170 rows."""

_BLOCK = 1024
_QUANTILES = (0.05, 0.5, 0.95, 0.99)


def run(material: Material) -> Figures:
    """Figures of the decoder, the encoder, and random unit rows of the decoder's shape."""
    decoder, encoder = material.sae.W_dec.detach(), material.sae.W_enc.detach()
    generator = torch.Generator().manual_seed(material.seed)
    random = torch.randn(decoder.shape, generator=generator)
    cosine = F.cosine_similarity(encoder.float(), decoder.float(), dim=1)
    return {
        "decoder": of_rows(decoder, material.seed),
        "encoder": of_rows(encoder, material.seed),
        "random": of_rows(random, material.seed),
        "encoder_decoder_cosine": _quantiles(cosine.cpu().numpy()),
        "n_latents": len(decoder),
    }


def of_rows(rows: Tensor, seed: int = 0) -> Figures:
    """Cosines between different rows [L,D], each row's largest, and the rows' effective rank.

    max_cosine: over other rows, per row; mean_abs_cosine, rms_cosine over pairs (√(1/D) for random
    rows); n_compared: rows that all of these are of, each compared with every row, drawn by `seed`
    where L² > PAIRS; effective_rank = exp(−Σ p log p), p = σ/Σσ (Roy & Vetterli 2007);
    participation_ratio = (Σσ²)²/Σσ⁴, both of the unit rows. Rows of length zero are left out.
    """
    unit = _unit(rows)
    n = len(unit)
    if n < 2:
        return {"n_rows": n, "n_compared": 0, "max_cosine": None, "effective_rank": None}
    largest, total, squares = _compare(unit, _compared(n, seed))
    pairs = len(largest) * (n - 1)
    sigma = torch.linalg.eigvalsh(unit.T.double() @ unit.double()).clamp_min(0).sqrt()
    p = sigma / sigma.sum()
    p = p[p > 0]
    return {
        "n_rows": n,
        "n_compared": len(largest),
        "max_cosine": _quantiles(largest.numpy()),
        "share_max_cosine_over_0.9": float((largest > 0.9).double().mean()),
        "mean_abs_cosine": total / pairs,
        "rms_cosine": math.sqrt(squares / pairs),
        "effective_rank": float((-(p * p.log()).sum()).exp()),
        "participation_ratio": float(sigma.square().sum() ** 2 / sigma.pow(4).sum()),
    }


def max_cosine(rows: Tensor) -> Tensor | None:
    """Each row's largest cosine with another, [L]; rows [L,D], not zero. None where L² > PAIRS."""
    if len(rows) ** 2 > PAIRS:
        return None
    return _compare(F.normalize(rows.detach().float(), dim=1), torch.arange(len(rows)))[0]


def _compared(n: int, seed: int) -> Tensor:
    if n**2 <= PAIRS:
        return torch.arange(n)
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[: max(1, PAIRS // n)]


def _compare(unit: Tensor, picked: Tensor) -> tuple[Tensor, float, float]:
    """Of picked rows, cosines with all others: the largest of each, Σ|cos| and Σcos² of all."""
    largest = []
    total = squares = 0.0
    for block in picked.to(unit.device).split(_BLOCK):
        cosine = unit[block] @ unit.T
        own = torch.arange(len(block)), block
        cosine[own] = 0
        total += float(cosine.abs().sum(dtype=torch.float64))
        squares += float(cosine.square().sum(dtype=torch.float64))
        cosine[own] = -1
        largest.append(cosine.amax(1))
    return torch.cat(largest).cpu(), total, squares


def _unit(rows: Tensor) -> Tensor:
    rows = rows.detach().float()
    norms = rows.norm(dim=1, keepdim=True)
    return (rows / norms.clamp_min(1e-30))[norms[:, 0] > 0]


def _quantiles(values: np.ndarray) -> Figures:
    found = {f"{q:g}": float(np.quantile(values, q)) for q in _QUANTILES}
    return {"mean": float(values.mean()), **found}
