"""SparseCodes: the activations of an SAE, kept as the few latents that fire on each token."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True)
class SparseCodes:
    """Codes of N tokens in compressed rows: token n owns entries offsets[n]:offsets[n+1].

    indices [nnz] int32, ascending within a row; values [nnz], > 0 for the sparse families;
    offsets [N+1] int64; d_sae: L, the number of latents.
    padded: entries that hold nothing may be among them, with index L and value 0; only fixed.py
    makes such codes, whose number of entries depends on no value.
    """

    indices: Tensor
    values: Tensor
    offsets: Tensor
    d_sae: int
    padded: bool = False

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
        return cls.from_entries(rows, cols, dense[rows, cols], dense.shape)

    @classmethod
    def from_entries(
        cls, rows: Tensor, cols: Tensor, values: Tensor, shape: torch.Size | tuple[int, int]
    ) -> SparseCodes:
        """Build from entries sorted by row, then column; shape is (N, L)."""
        offsets = torch.zeros(shape[0] + 1, dtype=torch.int64, device=rows.device)
        offsets[1:] = torch.bincount(rows, minlength=shape[0]).cumsum(0)
        return cls(cols.to(torch.int32), values, offsets, shape[1])

    @classmethod
    def concat(cls, parts: list[SparseCodes]) -> SparseCodes:
        """The codes of consecutive tiles of tokens, as one."""
        if len(parts) == 1:
            return parts[0]
        starts = list(accumulate((p.indices.numel() for p in parts), initial=0))
        offsets = [p.offsets[:-1] + s for p, s in zip(parts, starts, strict=False)]
        offsets.append(parts[-1].offsets.new_full((1,), starts[-1]))
        return cls(
            torch.cat([p.indices for p in parts]),
            torch.cat([p.values for p in parts]),
            torch.cat(offsets),
            parts[0].d_sae,
            any(p.padded for p in parts),
        )

    def with_values(self, values: Tensor) -> SparseCodes:
        """The same entries with other values [nnz]."""
        return SparseCodes(self.indices, values, self.offsets, self.d_sae, self.padded)

    def tokens(self, which: slice) -> SparseCodes:
        """The codes of a run of consecutive tokens; step must be 1."""
        start, stop, _ = which.indices(self.n_tokens)
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        offsets = self.offsets[start : stop + 1] - first
        return SparseCodes(self.indices[first:last], self.values[first:last], offsets, self.d_sae)

    def grouped(self, bounds: Tensor) -> tuple[SparseCodes, Tensor]:
        """The codes cut into blocks of latents: tokens 0 … N−1 of block 0, then of block 1, ….

        bounds [P] ascends to L; block p holds the latents below bounds[p] and in no earlier block.
        Returns codes of P·N tokens, and which entry of ours each of theirs is, [nnz].
        """
        block = torch.bucketize(self.indices, bounds.to(self.indices.dtype), right=True)
        if self.padded:  # those that hold nothing may be in any block
            block = block.clamp_max(bounds.numel() - 1)
        row = block * self.n_tokens + self.rows
        order = block.to(torch.uint8 if bounds.numel() < 256 else torch.int64).argsort(stable=True)
        shape = (bounds.numel() * self.n_tokens, self.d_sae)
        if self.padded:
            tokens = torch.arange(shape[0] + 1, device=row.device)
            offsets = torch.searchsorted(row[order], tokens)
            blocks = SparseCodes(
                self.indices[order], self.values[order], offsets, self.d_sae, padded=True
            )
            return blocks, order
        return self.from_entries(row[order], self.indices[order], self.values[order], shape), order

    def column(self, latent: int) -> Tensor:
        """Activations of one latent on every token, dense [N]."""
        out = self.values.new_zeros(self.n_tokens)
        hit = self.indices == latent
        out[self.rows[hit]] = self.values[hit]
        return out
