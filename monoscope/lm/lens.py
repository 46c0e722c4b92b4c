"""The logit lens: what a direction in the residual stream does to the model's next-token logits."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from monoscope.errors import DataError, ModelError
from monoscope.lm.families import base_of

_VOCABULARY_TILE = 16_384


def final_gamma(model: Any) -> Tensor:
    """The gain γ [D] float32 of the norm in front of the unembedding.

    The norm is the module whose output the base model returns as its last hidden state. γ is what
    that norm does to a vector x of mean 0: γ = (norm(x) - norm(-x)) / 2 · rms(x) / x, which holds
    for LayerNorm (any bias) and RMSNorm, be its gain stored as γ or as γ - 1 (Gemma).

    Raises ModelError where the model has no such norm.
    """
    norm = copy.deepcopy(_final_norm(model)).float()
    width = model.get_output_embeddings().weight.shape[1]
    x = torch.ones(width, device=model.device)
    x[::2] = -1
    if width % 2:  # an odd number of ±1 cannot have mean 0
        x[-3:] = torch.tensor([1.0, 1.0, -2.0], device=model.device)
    x *= 1024  # large beside the norm's epsilon
    with torch.no_grad():
        response = (norm(x[None, None]) - norm(-x[None, None])) / 2
    return response[0, 0] * x.square().mean().sqrt() / x


def lens(model: Any, gamma: Tensor, directions: Tensor) -> Tensor:
    """Logit effect of directions: W_U (γ ⊙ d); [n,D] -> [n,V] float32, soft-capping not applied.

    Raises DataError where the directions are not [n,D].
    """
    unembed = model.get_output_embeddings().weight
    if directions.ndim != 2 or directions.shape[1] != unembed.shape[1]:
        raise DataError(
            "directions for the logit lens",
            got=tuple(directions.shape),
            expected=f"[n, {unembed.shape[1]}]",
        )
    scaled = gamma * directions.detach().to(gamma.device, torch.float32)
    with torch.no_grad():
        # In tiles, because a float32 copy of a large vocabulary's weights would not be small.
        tiles = [scaled @ tile.float().T for tile in unembed.split(_VOCABULARY_TILE)]
        return torch.cat(tiles, dim=1)


def _final_norm(model: Any) -> nn.Module:
    """The module whose output is the base model's last hidden state, found by running it."""
    outputs: list[tuple[nn.Module, Tensor]] = []

    def note(module: nn.Module, args: object, output: object) -> None:
        if isinstance(output, Tensor):
            outputs.append((module, output))

    handles = [module.register_forward_hook(note) for module in base_of(model).modules()]
    try:
        with torch.no_grad():
            ids = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
            last = base_of(model)(ids, use_cache=False)[0]
    finally:
        for handle in handles:
            handle.remove()
    for module, output in outputs:
        is_last = output.data_ptr() == last.data_ptr() and output.numel() == last.numel()
        if is_last and "norm" in type(module).__name__.lower():
            return module
    raise ModelError(
        "no logit lens for this model: its last hidden state does not come from a norm",
        got=type(model).__name__,
    )
