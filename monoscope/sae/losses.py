"""Loss terms, each a pure function of tensors; which ones a recipe uses stands in recipes.py.

x, x_hat [N, D]; codes: the chosen latents with values that carry gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monoscope.ops.codes import SparseCodes
from monoscope.sae.model import SAE

AUXK_TOKENS = 512  # tokens of a batch on which dead latents learn; the product is dense


def squared_error(x: Tensor, x_hat: Tensor) -> Tensor:
    """mean_n ‖x − x̂‖² (Bricken 2023; Templeton 2024)."""
    return (x - x_hat).square().sum(1).mean()


def relative_error(x: Tensor, x_hat: Tensor) -> Tensor:
    """Σ‖x − x̂‖² / Σ‖x − x̄‖², the batch's own FVU (Gao 2024, section 2.1: MSE over variance)."""
    return (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()


def l1(codes: SparseCodes) -> Tensor:
    """mean_n Σ_i f_i (Bricken 2023)."""
    return codes.values.sum() / codes.n_tokens


def l1_decoder_norm(codes: SparseCodes, w_dec: Tensor) -> Tensor:
    """mean_n Σ_i f_i ‖W_dec[i]‖, with its gradient on W_dec too (Templeton 2024)."""
    norms = w_dec.norm(dim=1)
    return (codes.values * norms[codes.indices.long()]).sum() / codes.n_tokens


def auxk(sae: SAE, x: Tensor, x_hat: Tensor, dead: Tensor, k_aux: int) -> Tensor:
    """How well the k_aux strongest dead latents rebuild what the live ones missed (Gao 2024, A.2).

    Σ‖e − ê‖² / Σ‖e − ē‖² with e = x − x̂ detached and ê = Σ_dead relu(z_i) W_dec[i], without b_dec,
    so that a joint shift of x and b_dec leaves it unchanged. dead: ids [n_dead] int64.
    Runs on the first AUXK_TOKENS tokens of the (shuffled) batch. Zero when nothing is dead.
    """
    if dead.numel() == 0:
        return x.new_zeros(())
    x, x_hat = x[:AUXK_TOKENS], x_hat[:AUXK_TOKENS]
    error = (x - x_hat).detach()
    z = torch.addmm(sae.b_enc[dead], x - sae.b_dec, sae.W_enc[dead].T)
    if k_aux < dead.numel():
        top = z.detach().topk(k_aux, dim=1).indices
        z = z * torch.zeros_like(z).scatter_(1, top, 1.0)
    error_hat = z.relu() @ sae.W_dec[dead]
    variance = (error - error.mean(0)).square().sum().clamp_min(1e-12)
    return (error - error_hat).square().sum() / variance
