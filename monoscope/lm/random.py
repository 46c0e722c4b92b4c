"""The same architecture with weights drawn anew: the control for what training put into a model."""

from __future__ import annotations

import torch

from monoscope.lm.hf import HFModel


def with_random_weights(lm: HFModel, seed: int) -> HFModel:
    """A model of lm's configuration with the weights its own initialiser draws under `seed`.

    Same tokenizer, device and dtype; its name says that its weights are random.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = type(lm.model)(lm.model.config)
    model = model.to(device=lm.device, dtype=lm.dtype)
    return HFModel(model, lm.tokens.hf, f"{lm.name} (random weights, seed {seed})")
