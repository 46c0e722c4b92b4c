"""The sparse ops on an NVIDIA GPU, by the Triton kernels beside this file; as decode.py has them.

The encoder product runs in bf16 on a tile of tokens (the vendor's own product is near the card's
peak), one kernel finds the candidates of each token in the tile, one computes them in fp32: the
proof is that of cpu_select.py. Nothing of size N×L outlives a tile, and gradients have no atomics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import triton
from torch import Tensor

from monoscope.ops import select
from monoscope.ops import triton_kernels as kernels
from monoscope.ops.adam import SMALLEST_NORM, AdamStep
from monoscope.ops.codes import SparseCodes
from monoscope.ops.rowgrads import Factor

TILE = 1024  # tokens whose [TILE, L] bf16 pre-activations exist at one time
ROOM = 1024  # candidates a token may have before it is handed to the fp32 reference
WIDEST = 1024  # elements of a row that a program takes at a time
GROUPS = 2048  # groups of latents whose largest ẑ is found together, at most
BISECTIONS = 12  # halvings in the search for the k-th largest; a coarser cut only keeps more
UNIT = 2.0**-8  # largest relative error of rounding to bf16


def _block(width: int) -> int:
    return min(triton.next_power_of_2(width), WIDEST)


def decode(codes: SparseCodes, w: Tensor) -> Tensor:
    """As decode.decode."""
    w = w.detach().contiguous()
    n, width = codes.n_tokens, w.shape[1]
    out, block = w.new_empty(n, width), _block(width)
    if n:
        kernels.decode_kernel[(n, triton.cdiv(width, block))](
            codes.indices, codes.values.contiguous(), codes.offsets, w, out, width, BLOCK_D=block
        )
    return out


def entry_dots(g: Tensor, codes: SparseCodes, w: Tensor) -> Tensor:
    """As decode.entry_dots."""
    w = w.detach().contiguous()
    out = w.new_empty(codes.indices.numel())
    if out.numel():
        kernels.entry_dots_kernel[(codes.n_tokens,)](
            g.contiguous(), codes.indices, codes.offsets, w, out, w.shape[1],
            BLOCK_D=_block(w.shape[1]),
        )  # fmt: skip
    return out


def row_sums(codes: SparseCodes, coefficients: Tensor, g: Tensor) -> Tensor:
    """As decode.row_sums."""
    width = g.shape[1]
    out, block = g.new_empty(codes.d_sae, width), _block(width)
    kernels.row_sums_kernel[(codes.d_sae, triton.cdiv(width, block))](
        *_by_latent(codes), coefficients.contiguous(), g.contiguous(), out, width, BLOCK_D=block
    )
    return out


def _by_latent(codes: SparseCodes) -> tuple[Tensor, Tensor, Tensor]:
    """starts [L+1], entry order [nnz] and token [nnz] of the entries by latent, on device."""
    grouped, order = codes.indices.sort(stable=True)
    latents = torch.arange(codes.d_sae + 1, device=grouped.device, dtype=grouped.dtype)
    return torch.searchsorted(grouped, latents), order, codes.rows[order]


def adam_rows(
    w: Tensor, factors: Sequence[Factor], dense: Tensor | None, m: Tensor, v: Tensor,
    step: AdamStep, *, unit: bool = False,
) -> None:  # fmt: skip
    """As cpu_adam.adam_rows."""
    n, width = w.shape
    device = w.device
    if factors:
        codes = SparseCodes.concat([f.codes for f in factors])
        coefficients = torch.cat([f.coefficients for f in factors])
        rows = torch.cat([f.rows for f in factors])
        entries = _by_latent(codes)
    else:
        entries = (torch.zeros(n + 1, dtype=torch.int64, device=device),) * 3
        coefficients = rows = torch.zeros(1, device=device)
    values = (step.scale, step.step_size, step.beta1, step.beta2, step.root_scale, step.eps)
    constants = torch.tensor([*values, SMALLEST_NORM], dtype=torch.float32, device=device)
    kernels.adam_rows_kernel[(n,)](
        *entries, coefficients, rows, w if dense is None else dense.contiguous(),
        w.detach(), m, v, constants, width,
        HAS_DENSE=dense is not None, UNIT=unit, BLOCK_D=triton.next_power_of_2(width),
    )  # fmt: skip


class CudaEncoder(select.Encoder):
    """select.Encoder with a bf16 copy of the weights and candidates proved as in cpu_select.py."""

    def __init__(self, w_enc: Tensor, b_enc: Tensor) -> None:
        super().__init__(w_enc.contiguous(), b_enc.contiguous())
        self.w16 = self.w.bfloat16()
        self.w_norm = self.w.norm(dim=1).max()
        self.w_error = (self.w - self.w16.float()).norm(dim=1).max()
        self.fallbacks = 0

    def topk(self, x: Tensor, k: int) -> SparseCodes:
        """As select.Encoder.topk."""
        k = min(k, self.w.shape[0])

        def keep(values: Tensor, columns: Tensor) -> SparseCodes:
            # ascending columns and a stable sort: among equals the lowest latents win
            order = values.argsort(dim=1, descending=True, stable=True)[:, :k].sort(dim=1).values
            best = values.gather(1, order)
            return _rows_where(best, columns.gather(1, order), best > 0, self.w.shape[0])

        return self._select(x, k, self.b, keep, lambda z: select.topk(z, k))

    def above(self, x: Tensor, theta: Tensor) -> SparseCodes:
        """As select.Encoder.above."""
        return self.wider(x, theta.detach().float().clamp_min(0))

    def wider(self, x: Tensor, low: Tensor) -> SparseCodes:
        """As select.Encoder.wider."""
        limits = low.detach().float().reshape(-1)

        def keep(values: Tensor, columns: Tensor) -> SparseCodes:
            limit = limits[columns.clamp_min(0).long()] if limits.numel() > 1 else limits
            return _rows_where(values, columns, values > limit, self.w.shape[0])

        return self._select(x, None, self.b - limits, keep, lambda z: select.wider(z, limits))

    def _margins(self, x: Tensor, x16: Tensor, bias: Tensor) -> Tensor:
        """m [N], as in cpu_select.py."""
        x_norm, x_error = x.norm(dim=1), (x - x16.float()).norm(dim=1)
        sums = (self.w.shape[1] + 2) * 2.0**-23
        copies = x_error * (self.w_norm + self.w_error) + x_norm * self.w_error
        worst = torch.where(bias > -torch.inf, bias.abs(), 0.0).max()
        return 1.0001 * (copies * (1 + sums) + sums * x_norm * self.w_norm + UNIT * worst)

    def _select(
        self,
        x: Tensor,
        k: int | None,
        bias: Tensor,
        keep: Callable[[Tensor, Tensor], SparseCodes],
        reference: Callable[[Tensor], SparseCodes],
    ) -> SparseCodes:
        """Candidates tile by tile (the k largest, or all above 0), then `keep` on exact values."""
        n_latents = self.w.shape[0]
        x = x.detach().contiguous()
        x16, bias16 = x.bfloat16(), bias.bfloat16()
        margins = self._margins(x, x16, bias)
        room = min(n_latents, ROOM if k is None else 16 * k + 256)
        groups = min(triton.next_power_of_2(max(n_latents // 8, 4 * (k or 1))), GROUPS)
        parts = []
        for at in range(0, max(x.shape[0], 1), TILE):
            here = slice(at, min(at + TILE, x.shape[0]))
            n = here.stop - here.start
            counts = torch.zeros(n, dtype=torch.int32, device=x.device)
            found = torch.zeros(n, room, dtype=torch.int32, device=x.device)
            values = torch.full((n, room), -torch.inf, device=x.device)
            if n:
                z = torch.addmm(bias16, x16[here], self.w16.T)
                kernels.candidates_kernel[(n,)](
                    z, margins[here], counts, found, n_latents, k or 0, room, 0.0,
                    GROUPS=groups, BISECTIONS=BISECTIONS, FIND_KTH=k is not None and k <= groups,
                )  # fmt: skip
                kernels.exact_kernel[(n,)](
                    x[here], self.w, self.b, counts, found, values, x.shape[1], room,
                    BLOCK_D=_block(x.shape[1]),
                )  # fmt: skip
            parts.append(self._finish(x[here], counts > room, keep(values, found), reference))
        return SparseCodes.concat(parts)

    def _finish(
        self, x: Tensor, unproved: Tensor, codes: SparseCodes,
        reference: Callable[[Tensor], SparseCodes],
    ) -> SparseCodes:  # fmt: skip
        """A tile's codes, its unproved rows computed anew, together, in fp32."""
        missing = unproved.nonzero()[:, 0]
        if not missing.numel():
            return codes
        self.fallbacks += missing.numel()
        more = reference(torch.addmm(self.b, x[missing], self.w.T))
        proved = ~unproved[codes.rows]
        rows = torch.cat([codes.rows[proved], missing[more.rows]])
        order = rows.argsort(stable=True)
        return SparseCodes.from_entries(
            rows[order],
            torch.cat([codes.indices[proved], more.indices])[order],
            torch.cat([codes.values[proved], more.values])[order],
            (x.shape[0], self.w.shape[0]),
        )


def _rows_where(values: Tensor, columns: Tensor, which: Tensor, d_sae: int) -> SparseCodes:
    """The entries of values, columns [N, C] where `which` is set; columns ascend in each row."""
    rows = which.nonzero()[:, 0]
    return SparseCodes.from_entries(rows, columns[which], values[which], (len(values), d_sae))
