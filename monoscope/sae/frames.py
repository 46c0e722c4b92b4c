"""Frames: imported SAEs that see every token at one size; the codes carry that size.

Their authors undo the normalisation with what they remember of the token. Here the codes remember
it: f is multiplied by the token's size, and the last latents, the carriers, hold the size (and the
mean) along directions that put them back. So decode, steering and every figure stay in raw units
and need nothing but codes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monoscope.ops.codes import SparseCodes
from monoscope.sae.normalise import radius

CARRIERS = {"rms": 1, "layer_norm": 3}  # latents at the end of an SAE of that normalisation
_EPS = 1e-5  # added to the spread, as OpenAI's and SAELens's layer_norm do


def frame(kind: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised x [N,D], the size that f is multiplied by [N], and the carriers' values [N,F].

    rms:         x / s,  s = ‖x‖/√D;            carrier s, whose decoder row is b_dec
    layer_norm:  (x − m)/(s + 1e-5), m mean and s spread (n − 1) of the token's own coordinates;
                 carriers s (row b_dec), max(m, 0) (row of ones) and max(−m, 0) (row of −ones)
    """
    if kind == "rms":
        size = radius(x)
        return x / size[:, None], size, size[:, None]
    mean, spread = x.mean(1), x.std(1)
    values = torch.stack([spread, mean.clamp_min(0), (-mean).clamp_min(0)], dim=1)
    return (x - mean[:, None]) / (spread + _EPS)[:, None], spread, values


def carrier_rows(kind: str, b_dec: Tensor) -> Tensor:
    """Decoder rows [F,D] of the carriers, for an SAE whose own bias was b_dec."""
    ones = torch.ones_like(b_dec)
    return b_dec[None] if kind == "rms" else torch.stack([b_dec, ones, -ones])


def carry(codes: SparseCodes, size: Tensor, values: Tensor) -> SparseCodes:
    """f·size of the codes, and the carriers' values [N,F] as the last latents of each token."""
    first = codes.d_sae - values.shape[1]
    rows, columns = (values > 0).nonzero(as_tuple=True)
    all_rows = torch.cat([codes.rows, rows])
    order = all_rows.argsort(stable=True)
    return SparseCodes.from_entries(
        all_rows[order],
        torch.cat([codes.indices, (columns + first).to(codes.indices.dtype)])[order],
        torch.cat([codes.values * size[codes.rows], values[rows, columns]])[order],
        (codes.n_tokens, codes.d_sae),
    )
