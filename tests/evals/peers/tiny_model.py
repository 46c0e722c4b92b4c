"""A model small enough to be the same on both sides: plain torch, float64, one place to edit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

V, D, L, B, S = 23, 10, 30, 6, 9


def weights(seed: int = 0) -> dict[str, Tensor]:
    """Embedding, two layers and an SAE's weights, by name, float64."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rows = draw(L, D)
    return {
        "embed": draw(V, D), "mix": draw(D, D) / D**0.5, "unembed": draw(D, V),
        "rows": rows / rows.norm(dim=1, keepdim=True), "bias": 0.1 * draw(D),
    }  # fmt: skip


def tokens(seed: int = 1) -> Tensor:
    """Token ids [B,S]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, V, (B, S), generator=generator)


def forward(held: dict[str, Tensor], ids: Tensor, edit: Callable[[Tensor], Tensor]) -> Tensor:
    """Logits [B,S,V]: embed, causal mean, `edit` of x [B,S,D], a layer, causal mean, unembed."""
    x = edit(causal_mean(held["embed"][ids]) + held["embed"][ids])
    return (x + torch.tanh(causal_mean(x) @ held["mix"])) @ held["unembed"]


def causal_mean(x: Tensor) -> Tensor:
    """Mean of each position and all before it, [B,S,D]."""
    return x.cumsum(1) / torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[None, :, None]
