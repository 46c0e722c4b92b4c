"""The sparse ops on an NVIDIA GPU, by the Triton kernels beside this file; as decode.py has them.

The encoder product runs in bf16 on a tile of tokens (the vendor's own product is near the card's
peak), one kernel finds the candidates of each token in the tile, one computes them in fp32: the
proof is that of cpu_select.py. Nothing of size N×L outlives a tile, and the sums of rows have no
atomics. What is named fixed_… reads nothing back and has the shapes of fixed.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import triton
from torch import Tensor

from monoscope.ops import fixed, select
from monoscope.ops import triton_kernels as kernels
from monoscope.ops.adam import AdamStep
from monoscope.ops.codes import SparseCodes
from monoscope.ops.fallbacks import count_fallbacks
from monoscope.ops.rowgrads import Factor

TILE = 1024  # tokens whose [TILE, L] bf16 pre-activations exist at one time
ROOM = 1280  # candidates a token may have, at least, before it is not proved
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
            codes.indices, codes.values.contiguous(), codes.offsets, w, out, width, w.shape[0],
            BLOCK_D=block,
        )  # fmt: skip
    return out


def entry_dots(g: Tensor, codes: SparseCodes, w: Tensor) -> Tensor:
    """As decode.entry_dots."""
    w = w.detach().contiguous()
    out = w.new_empty(codes.indices.numel())
    if out.numel():
        kernels.entry_dots_kernel[(codes.n_tokens,)](
            g.contiguous(), codes.indices, codes.offsets, w, out, w.shape[1], w.shape[0],
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
    """starts [L+1], entry order [nnz] and token [nnz] of the entries by latent, on device.

    Entries that hold nothing are beyond the last start.
    """
    grouped, order = codes.indices.sort(stable=True)
    latents = torch.arange(codes.d_sae + 1, device=grouped.device, dtype=grouped.dtype)
    return torch.searchsorted(grouped, latents), order, codes.rows[order]


def adam_rows(
    w: Tensor, factors: Sequence[Factor], dense: Tensor | None, m: Tensor, v: Tensor,
    step: AdamStep, *, unit: bool = False,
) -> None:  # fmt: skip
    """As cpu_adam.adam_rows."""
    constants = torch.tensor(fixed.constants_of(step), dtype=torch.float32, device=w.device)
    fixed_adam_rows(w, factors, dense, m, v, constants, unit=unit)


def fixed_adam_rows(
    w: Tensor, factors: Sequence[Factor], dense: Tensor | None, m: Tensor, v: Tensor,
    constants: Tensor, *, unit: bool = False,
) -> None:  # fmt: skip
    """As fixed.adam_rows."""
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
        chosen, proved = self._chosen(x, k)
        held = chosen.indices < chosen.d_sae
        codes = SparseCodes.from_entries(
            chosen.rows[held], chosen.indices[held], chosen.values[held], (len(x), chosen.d_sae)
        )
        return self._finish(x, ~proved, codes, lambda z: select.topk(z, k))

    def fixed_topk(self, x: Tensor, k: int) -> tuple[SparseCodes, Tensor]:
        """As select.Encoder.fixed_topk."""
        codes, proved = self._chosen(x, k)
        return codes, proved.all()

    def fixed_batch_topk(self, x: Tensor, k: int, guess: Tensor) -> select.Fixed:
        """As select.Encoder.fixed_batch_topk."""
        counts, found, values = self._candidates(x, None, self.b - guess)
        values = torch.where(values > guess, values, 0.0)
        codes, least = fixed.batch_slots(values, found, k * len(x), self.w.shape[0])
        whole = (least > 0) | (guess <= 0)
        return codes, least, whole & (counts <= values.shape[1]).all()

    def _chosen(self, x: Tensor, k: int) -> tuple[SparseCodes, Tensor]:
        """The k largest of each token as padded codes, and which tokens are proved, [N]."""
        n, n_latents = len(x), self.w.shape[0]
        counts, found, values = self._candidates(x, k, self.b)
        room = values.shape[1]
        indices = torch.empty(n * k, dtype=torch.int32, device=x.device)
        chosen = torch.empty(n * k, device=x.device)
        width = triton.next_power_of_2(max(room, k))
        if n:
            kernels.choose_kernel[(n,)](
                found, values, counts, indices, chosen, k, room, n_latents,
                ROOM=width, num_warps=min(16, max(4, width // 512)),
            )  # fmt: skip
        offsets = torch.arange(n + 1, device=x.device) * k
        return SparseCodes(indices, chosen, offsets, n_latents, padded=True), counts <= room

    def above(self, x: Tensor, theta: Tensor) -> SparseCodes:
        """As select.Encoder.above."""
        return self.wider(x, theta.detach().float().clamp_min(0))

    def wider(self, x: Tensor, low: Tensor) -> SparseCodes:
        """As select.Encoder.wider."""
        limits = low.detach().float().reshape(-1)

        counts, found, values = self._candidates(x, None, self.b - limits)
        limit = limits[found.clamp_min(0).long()] if limits.numel() > 1 else limits
        which = values > limit
        codes = SparseCodes.from_entries(
            which.nonzero()[:, 0], found[which], values[which], (len(x), self.w.shape[0])
        )
        unproved = counts > values.shape[1]
        return self._finish(x, unproved, codes, lambda z: select.wider(z, limits))

    def _margins(self, x: Tensor, x16: Tensor, bias: Tensor) -> Tensor:
        """m [N], as in cpu_select.py."""
        x_norm, x_error = x.norm(dim=1), (x - x16.float()).norm(dim=1)
        sums = (self.w.shape[1] + 2) * 2.0**-23
        copies = x_error * (self.w_norm + self.w_error) + x_norm * self.w_error
        worst = torch.where(bias > -torch.inf, bias.abs(), 0.0).max()
        return 1.0001 * (copies * (1 + sums) + sums * x_norm * self.w_norm + UNIT * worst)

    def _candidates(self, x: Tensor, k: int | None, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of each token, the latents that may be among its k largest, or have z + bias − b > 0.

        Returns how many there are [N], and of the first of them their ids, which ascend, and exact
        values, both [N, room]; values are −∞ where there is none. More than room: no proof.
        """
        n_latents, n_tokens = self.w.shape[0], x.shape[0]
        x = x.detach().contiguous()
        x16, bias16 = x.bfloat16(), bias.bfloat16()
        margins = self._margins(x, x16, bias)
        room = min(n_latents, ROOM if k is None else max(4 * k, ROOM))
        groups = min(triton.next_power_of_2(max(n_latents // 8, 4 * (k or 1))), GROUPS)
        counts = torch.zeros(n_tokens, dtype=torch.int32, device=x.device)
        found = torch.zeros(n_tokens, room, dtype=torch.int32, device=x.device)
        values = torch.full((n_tokens, room), -torch.inf, device=x.device)
        for at in range(0, n_tokens, TILE):
            here = slice(at, min(at + TILE, n_tokens))
            grid = (here.stop - here.start,)
            z = torch.addmm(bias16, x16[here], self.w16.T)
            kernels.candidates_kernel[grid](
                z, margins[here], counts[here], found[here], n_latents, k or 0, room, 0.0,
                GROUPS=groups, BISECTIONS=BISECTIONS, FIND_KTH=k is not None and k <= groups,
            )  # fmt: skip
            kernels.exact_kernel[grid](
                x[here], self.w, self.b, counts[here], found[here], values[here], x.shape[1],
                room, BLOCK_D=_block(x.shape[1]),
            )  # fmt: skip
        return counts, found, values

    def _finish(
        self, x: Tensor, unproved: Tensor, codes: SparseCodes,
        reference: Callable[[Tensor], SparseCodes],
    ) -> SparseCodes:  # fmt: skip
        """The codes, their unproved rows computed anew in fp32, a tile of them at a time."""
        missing = unproved.nonzero()[:, 0]
        if not missing.numel():
            return codes
        self.fallbacks += missing.numel()
        count_fallbacks(missing.numel())
        tiles = x.detach()[missing].split(select.TILE)
        more = SparseCodes.concat([reference(torch.addmm(self.b, t, self.w.T)) for t in tiles])
        proved = ~unproved[codes.rows]
        rows = torch.cat([codes.rows[proved], missing[more.rows]])
        order = rows.argsort(stable=True)
        return SparseCodes.from_entries(
            rows[order],
            torch.cat([codes.indices[proved], more.indices])[order],
            torch.cat([codes.values[proved], more.values])[order],
            (x.shape[0], self.w.shape[0]),
        )
