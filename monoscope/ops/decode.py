"""Sparse decode and its gradients, as plain torch: what the fast paths are checked against.

For codes f with entries (n, i, v):
    decode        y_n   = Σ_i v · W[i]
    entry_dots    s_e   = g_n · W[i]             the gradient of decode in its values
    row_sums      G_i   = Σ_n c_e · g_n          the gradient of decode in its rows
"""

from __future__ import annotations

import torch
from torch import Tensor

from monoscope.ops.codes import SparseCodes


def decode(codes: SparseCodes, w: Tensor) -> Tensor:
    """y [N, D] with y_n = Σ v · w[i] over the entries of token n; w [L, D]."""
    out = torch.zeros(codes.n_tokens, w.shape[1], dtype=w.dtype, device=w.device)
    scaled = codes.values[:, None].to(w.dtype) * w[codes.indices.long()]
    return out.index_add_(0, codes.rows, scaled)


def entry_dots(g: Tensor, codes: SparseCodes, w: Tensor) -> Tensor:
    """s [nnz] with s_e = g[n] · w[i] for entry e = (n, i); g [N, D], w [L, D]."""
    return (g[codes.rows] * w[codes.indices.long()]).sum(1)


def row_sums(codes: SparseCodes, coefficients: Tensor, g: Tensor) -> Tensor:
    """G [L, D] with G_i = Σ coefficients_e · g[n] over the entries of latent i; g [N, D]."""
    out = torch.zeros(codes.d_sae, g.shape[1], dtype=g.dtype, device=g.device)
    return out.index_add_(0, codes.indices.long(), coefficients[:, None] * g[codes.rows])


def latent_sums(codes: SparseCodes, coefficients: Tensor) -> Tensor:
    """[L] with Σ coefficients_e over the entries of each latent."""
    size = codes.d_sae + codes.padded  # entries that hold nothing have index L
    out = torch.zeros(size, dtype=coefficients.dtype, device=coefficients.device)
    return out.index_add_(0, codes.indices.long(), coefficients)[: codes.d_sae]
