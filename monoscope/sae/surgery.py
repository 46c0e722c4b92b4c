"""Changes of weights that keep what the SAE computes: fold the normalisation, unit decoder rows."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor

from monoscope.sae.model import SAE
from monoscope.sae.normalise import Normaliser


@torch.no_grad()
def fold(sae: SAE, inputs: Normaliser) -> SAE:
    """Make an SAE trained on inputs(x) take raw x and give raw x̂, in place.

    mean_norm goes into the biases and thresholds where the activation allows it (codes come out in
    raw units), else into the matrices, as standardize does. unit is a step of encode, of which the
    mean becomes b_dec.
    """
    sae.untie()
    if inputs.kind == "unit":
        sae.b_dec.copy_(inputs.shift)
    elif inputs.kind == "mean_norm" and sae.rule.scales:
        fold_scale(sae, float(inputs.scale))
    elif inputs.kind != "none":
        fold_affine(sae, inputs.shift, inputs.scale)
    return sae


@torch.no_grad()
def fold_scale(sae: SAE, scale: float) -> SAE:
    """Make an SAE trained on scale·x take raw x and give raw x̂, in place.

    With f' = f/scale:  f' = act(W_enc (x − b_dec/scale) + b_enc/scale), so the two matrices stay
    as they are (unit rows stay unit) and all biases and thresholds are divided. Exact for every
    activation that commutes with positive scaling, hidden layers included.
    """
    own = [sae.b_mag] if sae.config.activation == "gated" else []
    for tensor in chain((sae.b_enc, sae.b_dec, sae.threshold), own, sae.in_biases, sae.out_biases):
        tensor.div_(scale)
    return sae


@torch.no_grad()
def fold_affine(sae: SAE, shift: Tensor, scale: Tensor) -> SAE:
    """Make an SAE trained on (x − shift)·scale take raw x and give raw x̂, in place.

    W·((x − μ)·s − b_dec) = (W·s)(x − (μ + b_dec/s)) for the matrix next to x, and the one next to
    x̂ is divided by s; codes stay as they are. Exact for every activation; shift, scale: numbers or
    [D].
    """
    sae.untie()
    first = sae.in_weights[0] if sae.config.hidden else sae.W_enc
    first.mul_(scale)
    if sae.config.hidden:
        sae.out_weights[-1].div_(scale)
    else:
        sae.W_dec.div_(scale)
    sae.b_dec.div_(scale).add_(shift)
    return sae


@torch.no_grad()
def unit_decoder(sae: SAE) -> SAE:
    """Give every decoder row norm 1 and move its norm into the encoder, in place.

    f' = ‖W_dec[i]‖·f by scaling W_enc[i], b_enc[i], and θ_i or b_mag[i]. Keeps x̂ for relu, jumprelu
    and gated; a shared batchtopk threshold or a top-k choice would change, so those families keep
    unit rows from the start.
    """
    norms = sae.W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12)
    sae.W_dec.div_(norms)
    sae.W_enc.mul_(norms)
    sae.b_enc.mul_(norms[:, 0])
    if sae.config.activation == "jumprelu":
        sae.threshold.mul_(norms[:, 0])
    if sae.config.activation == "gated":
        sae.b_mag.mul_(norms[:, 0])
    return sae
