"""Each latent's nearest others: by decoder direction, and by firing on the same tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monoscope.features.coactivation import Best, Pairs, pmi
from monoscope.ops import SparseCodes, make_encoder

N_NEIGHBOURS = 10
LEAST_BOTH = 5  # tokens on which both must be active before a pair counts as co-active
_TILE_ELEMENTS = 2**24  # cosines held at once


@dataclass(frozen=True)
class Neighbours:
    """Pairs sorted by latent, then rank, all arrays [n].

    cosine: of the decoder rows; n_both: tokens on which both are active; jaccard =
    n_both/(n_latent + n_other − n_both); pmi = log(n_both·N/(n_latent·n_other)) in nats, NaN
    where never both.
    """

    latent: NDArray[np.int64]
    other: NDArray[np.int64]
    rank: NDArray[np.int64]
    cosine: NDArray[np.float32]
    jaccard: NDArray[np.float64]
    pmi: NDArray[np.float64]
    n_both: NDArray[np.int64]


def decoder_neighbours(W_dec: Tensor, pairs: Pairs, k: int = N_NEIGHBOURS) -> Neighbours:
    """The k latents whose decoder rows have the largest cosine with each latent's own.

    W_dec [L, D]. The selections of an SAE's encoder find them, in tiles: a product of L×L×D in bf16
    where that is fast, and exact cosines of the candidates; no L×L matrix is made for large L.
    """
    unit = _unit(W_dec)
    n = len(unit)
    k = min(k, n - 1)
    others = np.empty((n, k), np.int64)
    encoder = make_encoder(unit, torch.zeros(n, device=unit.device))
    tile = max(1, _TILE_ELEMENTS // n)
    for first in range(0, n, tile):
        mine = slice(first, min(first + tile, n))
        found = _nearest(encoder.topk(unit[mine], k + 1), first, k)
        few = np.flatnonzero((found < 0).any(axis=1))
        if len(few):  # the encoder gives positive cosines only
            found[few] = _nearest_of_all(unit, torch.from_numpy(first + few), k)
        others[mine] = found
    latent, rank = (a.ravel() for a in np.indices(others.shape))
    return _describe(latent, others.ravel(), rank, unit, pairs)


def _nearest(codes: SparseCodes, first: int, k: int) -> NDArray[np.int64]:
    """The k largest entries of rows first, first+1, … but for the row's own, [n, k]; −1: fewer."""
    row, column = codes.rows.cpu().numpy(), codes.indices.cpu().numpy()
    value = codes.values.float().cpu().numpy()
    keep = column != first + row
    row, column, value = row[keep], column[keep], value[keep]
    order = np.lexsort((column, -value, row))
    row, column = row[order], column[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    found = np.full((codes.n_tokens, k), -1, np.int64)
    found[row[rank < k], rank[rank < k]] = column[rank < k]
    return found


def _nearest_of_all(unit: Tensor, latents: Tensor, k: int) -> NDArray[np.int64]:
    """The same of some latents from all cosines, those below zero too."""
    cosine = unit[latents] @ unit.T
    cosine[torch.arange(len(latents)), latents] = -torch.inf
    found: NDArray[np.int64] = cosine.topk(k, dim=1).indices.cpu().numpy()
    return found


def coactivation_neighbours(
    W_dec: Tensor, pairs: Pairs, k: int = N_NEIGHBOURS, least: int = LEAST_BOTH
) -> Neighbours:
    """The k latents with the largest Jaccard index of active tokens, over all L latents.

    least: tokens on which both must be active. Ties go to the smaller id.
    """
    best: Best = pairs.best(k, least)
    latent, rank = np.nonzero(best.other >= 0)
    return _describe(latent, best.other[latent, rank], rank, _unit(W_dec), pairs)


def _unit(W_dec: Tensor) -> Tensor:
    return torch.nn.functional.normalize(W_dec.detach().float(), dim=1)


def _describe(
    latent: NDArray[np.int64],
    other: NDArray[np.int64],
    rank: NDArray[np.int64],
    unit: Tensor,
    pairs: Pairs,
) -> Neighbours:
    """All four figures of the given pairs."""
    cosine = np.empty(len(latent), np.float32)
    tile = max(1, _TILE_ELEMENTS // unit.shape[1])
    for first in range(0, len(latent), tile):
        rows = slice(first, first + tile)
        left, right = (torch.from_numpy(a[rows]).to(unit.device) for a in (latent, other))
        cosine[rows] = (unit[left] * unit[right]).sum(1).cpu().numpy()
    n_both, count = pairs.pairs(latent, other), pairs.count
    either = count[latent] + count[other] - n_both
    jaccard = n_both / np.maximum(either, 1)
    information = pmi(n_both, count[latent], count[other], pairs.n_tokens)
    return Neighbours(latent, other, rank, cosine, jaccard, information, n_both)
