"""The unit decoder constraint: no gradient along a row, and rows set back to norm 1."""

from __future__ import annotations

import torch

from monoscope.sae.model import SAE


@torch.no_grad()
def project_gradient(sae: SAE) -> None:
    """Remove from each decoder row's gradient the component along the row (Bricken 2023)."""
    grad, rows = sae.W_dec.grad, sae.W_dec
    if grad is not None:
        grad.sub_(rows * (grad * rows).sum(1, keepdim=True))


@torch.no_grad()
def renormalise(sae: SAE) -> None:
    """Set every decoder row to norm 1."""
    sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12))
