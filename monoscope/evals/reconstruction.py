"""How well x̂ stands for x: FVU, L0, cosine, shrinkage and dead latents, summed in fp64."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from monoscope.errors import DataError
from monoscope.evals.bootstrap import Array, DocumentSums, ratio
from monoscope.ops.codes import SparseCodes

if TYPE_CHECKING:
    from monoscope.sae import SAE

Reconstruct = Callable[[Tensor], tuple[Tensor, Tensor]]
"""x [N,D] -> x̂ [N,D] and the number of non-zero codes per token, [N]; both on x's device."""

Tiles = Iterable[tuple[Tensor, Tensor]]
"""x [n,D] float32 and doc [n] int64, piece by piece."""

COLUMNS = ("n", "error", "variance", "l0", "cosine", "norm", "norm_hat")


class Fired:
    """Which of L latents have been non-zero, and on how many tokens that was looked at."""

    def __init__(self, d_sae: int) -> None:
        self.latents = torch.zeros(d_sae, dtype=torch.bool)
        self.n_tokens = 0

    def add(self, codes: SparseCodes) -> None:
        """Count the tokens of `codes`; a code stored as zero has not fired."""
        hit = codes.indices[codes.values != 0].long().cpu()
        self.latents[hit] = True
        self.n_tokens += codes.n_tokens

    @property
    def dead_fraction(self) -> float:
        """Share of latents that never fired."""
        return 1.0 - self.latents.double().mean().item()


def with_sae(sae: SAE, fired: Fired | None = None) -> Reconstruct:
    """The SAE as a Reconstruct; tells `fired` of every token where one is given."""
    device = sae.W_dec.device

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        codes = sae.encode(x.to(device))
        if fired is not None:
            fired.add(codes)
        active = codes.rows[codes.values != 0]
        l0 = torch.bincount(active, minlength=codes.n_tokens)
        return sae.decode(codes).to(x.device), l0.to(x.device)

    return reconstruct


def mean_of(tiles: Tiles) -> Tensor:
    """Mean μ [D] of all tokens, in fp64."""
    total: Tensor | None = None
    n = 0
    for x, _ in tiles:
        part = x.double().sum(0)
        total = part if total is None else total + part
        n += len(x)
    if total is None:
        raise DataError("no tokens to evaluate on")
    return total / n


def measure(
    methods: Mapping[str, Reconstruct], tiles: Tiles, mean: Tensor
) -> dict[str, DocumentSums]:
    """Per-document sums (COLUMNS) of every method over the same tokens.

    mean: μ [D] fp64 of those tokens, from `mean_of`, so that Σ‖x−μ‖² has no cancellation.
    Raises DataError, naming the document, where activations or reconstruction are not finite.
    """
    out = {name: DocumentSums(COLUMNS) for name in methods}
    for x, doc in tiles:
        for name, reconstruct in methods.items():
            table = token_table(x, *reconstruct(x), mean)
            bad = ~table.isfinite().all(1)
            if bad.any():
                raise DataError(
                    f"activations or their reconstruction ({name}) are not finite",
                    got=f"document {int(doc[bad][0])}, {int(bad.sum())} tokens in its tile",
                    hint="Harvest the store again, or check the SAE's weights.",
                )
            out[name].add(doc, table)
    return out


def token_table(x: Tensor, x_hat: Tensor, l0: Tensor, mean: Tensor) -> Tensor:
    """COLUMNS of each token, [N,7] fp64."""
    x, x_hat = x.double(), x_hat.double()
    norm, norm_hat = x.norm(dim=1), x_hat.norm(dim=1)
    scale = norm * norm_hat
    cosine = torch.where(scale > 0, (x * x_hat).sum(1) / scale.where(scale > 0, 1.0), 0.0)
    error, variance = (x - x_hat).square().sum(1), (x - mean).square().sum(1)
    one = torch.ones_like(norm)
    return torch.stack([one, error, variance, l0.double(), cosine, norm, norm_hat], dim=1)


def figures(sums: Mapping[str, Array]) -> dict[str, Array]:
    """Reconstruction figures from sums over any set of documents.

    fvu = Σ‖x−x̂‖² / Σ‖x−μ‖² · l0 = Σ|active| / N · cosine = Σcos(x,x̂) / N · shrinkage = Σ‖x̂‖ / Σ‖x‖.
    Under the bootstrap μ stays the mean of all tokens looked at.
    """
    return {
        "fvu": ratio(sums["error"], sums["variance"]),
        "l0": ratio(sums["l0"], sums["n"]),
        "cosine": ratio(sums["cosine"], sums["n"]),
        "shrinkage": ratio(sums["norm_hat"], sums["norm"]),
    }
