"""SparseCodes: the activations of an SAE, kept as the few latents that fire on each token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SparseCodes:
    """Codes of N tokens in compressed rows: token n owns entries offsets[n]:offsets[n+1].

    indices [nnz] int32, ascending within a row; values [nnz], > 0 for the sparse families;
    offsets [N+1] int64; d_sae: L, the number of latents.
    """

    indices: Tensor
    values: Tensor
    offsets: Tensor
    d_sae: int

    @property
    def n_tokens(self) -> int:
        return self.offsets.numel() - 1

    @property
    def l0(self) -> Tensor:
        """Active latents per token, [N] int64."""
        return self.offsets.diff()

    @property
    def rows(self) -> Tensor:
        """Token of each entry, [nnz] int64."""
        tokens = torch.arange(self.n_tokens, device=self.offsets.device)
        return torch.repeat_interleave(tokens, self.l0, output_size=self.indices.numel())

    def to_dense(self) -> Tensor:
        """The same codes as a dense [N, L] tensor."""
        dense = self.values.new_zeros(self.n_tokens, self.d_sae)
        dense[self.rows, self.indices.long()] = self.values
        return dense

    @classmethod
    def from_dense(cls, dense: Tensor) -> SparseCodes:
        """Keep the non-zero entries of dense [N, L]."""
        rows, cols = dense.nonzero(as_tuple=True)
        return cls._from_rows(rows, cols, dense[rows, cols], dense.shape)

    @classmethod
    def _from_rows(cls, rows: Tensor, cols: Tensor, values: Tensor, shape: torch.Size) -> SparseCodes:
        offsets = torch.zeros(shape[0] + 1, dtype=torch.int64, device=rows.device)
        offsets[1:] = torch.bincount(rows, minlength=shape[0]).cumsum(0)
        return cls(cols.to(torch.int32), values, offsets, shape[1])

    def column(self, latent: int) -> Tensor:
        """Activations of one latent on every token, dense [N]."""
        out = self.values.new_zeros(self.n_tokens)
        hit = self.indices == latent
        out[self.rows[hit]] = self.values[hit]
        return out
