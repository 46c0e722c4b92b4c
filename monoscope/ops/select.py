"""Which latents fire: the selections, in plain torch, one tile at a time. The reference.

Only positive pre-activations are ever kept (ReLU comes with the selection), so a code value is > 0
and a token may keep fewer than k latents.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from monoscope.ops import fixed
from monoscope.ops.codes import SparseCodes

Fixed = tuple[SparseCodes, Tensor, Tensor]  # codes, the smallest kept value, whether it is proved
GUESS_TOKENS = 64  # tokens on which batch_topk looks for a first guess
TILE = 256  # tokens whose [TILE, L] pre-activations exist at one time


def topk(z: Tensor, k: int) -> SparseCodes:
    """Keep the k largest positive entries of each row of z [N, L] (Gao 2024, eq. 1)."""
    values, columns = z.topk(min(k, z.shape[1]), dim=1)
    columns, order = columns.sort(dim=1)
    values = values.gather(1, order)
    keep = values > 0
    rows = torch.arange(z.shape[0], device=z.device)[:, None].expand_as(columns)
    return SparseCodes.from_entries(rows[keep], columns[keep], values[keep], z.shape)


def above(z: Tensor, theta: Tensor) -> SparseCodes:
    """Keep the positive entries of z [N, L] strictly above theta (scalar or [L])."""
    return wider(z, theta.clamp_min(0))


def wider(z: Tensor, low: Tensor) -> SparseCodes:
    """Keep the entries of z [N, L] strictly above low (scalar or [L]), of any sign."""
    rows, columns = (z > low).nonzero(as_tuple=True)
    return SparseCodes.from_entries(rows, columns, z[rows, columns], z.shape)


def largest(codes: SparseCodes, count: int) -> SparseCodes:
    """Keep the `count` largest entries of all the codes; the first win among equals."""
    if codes.indices.numel() <= count:
        return codes
    order = codes.values.argsort(descending=True, stable=True)[:count].sort().values
    return SparseCodes.from_entries(
        codes.rows[order],
        codes.indices[order],
        codes.values[order],
        (codes.n_tokens, codes.d_sae),
    )


class Encoder:
    """Selections over z = x W_encᵀ + b_enc for x [N, D] centred on b_dec; any device and dtype.

    fallbacks: always 0 here; the fast path counts the rows it had to hand to this one.
    """

    fallbacks = 0

    def __init__(self, w_enc: Tensor, b_enc: Tensor) -> None:
        self.w, self.b = w_enc.detach(), b_enc.detach()

    def _tiles(self, x: Tensor, select: Callable[[Tensor], SparseCodes]) -> SparseCodes:
        tiles = x.detach().split(TILE)
        return SparseCodes.concat([select(torch.addmm(self.b, t, self.w.T)) for t in tiles])

    def topk(self, x: Tensor, k: int) -> SparseCodes:
        """The k largest positive pre-activations of each token."""
        return self._tiles(x, lambda z: topk(z, k))

    def above(self, x: Tensor, theta: Tensor) -> SparseCodes:
        """The positive pre-activations strictly above theta (scalar or [L])."""
        return self._tiles(x, lambda z: above(z, theta))

    def wider(self, x: Tensor, low: Tensor) -> SparseCodes:
        """The pre-activations of any sign strictly above low (scalar or [L])."""
        return self._tiles(x, lambda z: wider(z, low))

    def fixed_topk(self, x: Tensor, k: int) -> tuple[SparseCodes, Tensor]:
        """As topk, in k entries a token, nothing read back; and whether all of it is proved."""
        columns = torch.arange(self.w.shape[0], device=x.device)
        tiles = [torch.addmm(self.b, t, self.w.T) for t in x.detach().split(TILE)]
        parts = [fixed.topk_slots(z, columns.expand_as(z), k, self.w.shape[0]) for z in tiles]
        return SparseCodes.concat(parts), torch.ones((), dtype=torch.bool, device=x.device)

    def fixed_batch_topk(self, x: Tensor, k: int, guess: Tensor) -> Fixed:
        """As batch_topk, in k·N entries, nothing read back.

        guess: as for batch_topk, a number on the device; where it was too high nothing is proved.
        """
        z = torch.addmm(self.b, x.detach(), self.w.T)
        values = torch.where(z > guess, z, 0.0)
        columns = torch.arange(self.w.shape[0], device=x.device).expand_as(z)
        codes, least = fixed.batch_slots(values, columns, k * len(x), self.w.shape[0])
        return codes, least, (least > 0) | (guess <= 0)

    def largest(self, codes: SparseCodes, count: int) -> SparseCodes:
        """The `count` largest entries of codes; the first win among equals."""
        return largest(codes, count)


def _first_guess(encoder: Encoder, x: Tensor, k: int) -> float:
    """A little less than the k·n-th largest of these few tokens."""
    z = torch.addmm(encoder.b, x.detach(), encoder.w.T).flatten()
    return 0.9 * float(z.topk(min(k * x.shape[0], z.numel())).values.min().clamp_min(0))


def batch_topk(encoder: Encoder, x: Tensor, k: int, guess: float) -> tuple[SparseCodes, float]:
    """The k·N largest positive pre-activations of the whole batch (Bussmann 2024, eq. 3).

    guess: a lower bound to try for the smallest kept value, such as a little less than the last
    batch's, or 0 to look for one; it is lowered until enough entries lie above it, so the result
    does not depend on it.
    Returns the codes and the smallest kept value.
    """
    wanted = k * x.shape[0]
    if guess <= 0:
        guess = _first_guess(encoder, x[:GUESS_TOKENS], k)
    while True:
        codes = encoder.above(x, torch.tensor(guess, dtype=x.dtype, device=x.device))
        if codes.indices.numel() >= wanted or guess <= 0:
            break
        guess = guess * 0.7 if guess > 1e-6 else 0.0
    codes = encoder.largest(codes, wanted)
    return codes, float(codes.values.min()) if codes.values.numel() else 0.0
