"""Changes of weights that keep what the SAE computes: fold the input scale, unit decoder rows."""

from __future__ import annotations

import torch

from monoscope.sae.model import SAE


@torch.no_grad()
def fold_scale(sae: SAE, scale: float) -> SAE:
    """Make an SAE trained on scale·x take raw x and give raw x̂, in place.

    With f' = f/scale:  f' = act(W_enc (x − b_dec/scale) + b_enc/scale), so the two matrices stay
    as they are (unit rows stay unit) and b_enc, b_dec and the threshold are divided. Exact for relu
    and the top-k family, which commute with positive scaling.
    """
    for tensor in (sae.b_enc, sae.b_dec, sae.threshold):
        tensor.div_(scale)
    return sae


@torch.no_grad()
def unit_decoder(sae: SAE) -> SAE:
    """Give every decoder row norm 1 and move its norm into the encoder, in place.

    f' = ‖W_dec[i]‖·f by scaling W_enc[i] and b_enc[i]. Keeps x̂ for relu; a shared batchtopk
    threshold or a top-k choice would change, so those families keep unit rows from the start.
    """
    norms = sae.W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12)
    sae.W_dec.div_(norms)
    sae.W_enc.mul_(norms)
    sae.b_enc.mul_(norms[:, 0])
    return sae
