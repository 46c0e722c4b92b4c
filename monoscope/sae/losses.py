"""Loss terms, each a pure function of tensors; which ones a recipe uses stands in recipes.py.

x, x_hat [N, D]; codes: the chosen latents with values that carry gradients.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from monoscope.ops.autograd import decode_values
from monoscope.ops.codes import SparseCodes
from monoscope.ops.window import preact_gap
from monoscope.sae.activations import keep
from monoscope.sae.model import SAE
from monoscope.sae.ste import step

AUXK_TOKENS = 512  # tokens of a batch on which dead latents learn; the product is dense


def squared_error(x: Tensor, x_hat: Tensor) -> Tensor:
    """mean_n ‖x − x̂‖² (Bricken 2023; Templeton 2024)."""
    return (x - x_hat).square().sum(1).mean()


def relative_error(x: Tensor, x_hat: Tensor) -> Tensor:
    """Σ‖x − x̂‖² / Σ‖x − x̄‖², the batch's own FVU (Gao 2024, section 2.1: MSE over variance)."""
    return (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()


def nested(sae: SAE, codes: SparseCodes, prefixes: tuple[int, ...]) -> list[Tensor]:
    """x̂ [N, D] from the first m latents alone, for each m of prefixes (Matryoshka, eq. 4).

    prefixes ascend to L. Each block of latents is decoded once and the sums are carried on.
    """
    blocks = sae.W_dec.split([high - low for low, high in pairwise((0, *prefixes))])
    x_hat: Tensor = sae.b_dec
    out: list[Tensor] = []
    for low, high, rows in zip((0, *prefixes), prefixes, blocks, strict=False):
        here = (codes.indices >= low) & (codes.indices < high)
        block = keep(codes, here)
        block = SparseCodes(block.indices - low, block.values, block.offsets, high - low)
        x_hat = x_hat + decode_values(block.values, rows, block)
        out.append(x_hat)
    return out


def l1(codes: SparseCodes) -> Tensor:
    """mean_n Σ_i f_i (Bricken 2023)."""
    return codes.values.sum() / codes.n_tokens


def l1_decoder_norm(codes: SparseCodes, w_dec: Tensor) -> Tensor:
    """mean_n Σ_i f_i ‖W_dec[i]‖, with its gradient on W_dec too (Templeton 2024)."""
    norms = w_dec.norm(dim=1)
    return (codes.values * norms[codes.indices.long()]).sum() / codes.n_tokens


def l0_step(z: Tensor, theta: Tensor, n_tokens: int, bandwidth: float) -> Tensor:
    """mean_n Σ_i H(z_i − θ_i), which θ alone learns from (Rajamanoharan 2024, eq. 9).

    z, theta [nnz]: the entries near θ or above.
    """
    return step(z, theta, bandwidth).sum() / n_tokens


def l0_tanh(codes: SparseCodes, w_dec: Tensor, c: float) -> Tensor:
    """mean_n Σ_i tanh(c·f_i·‖W_dec[i]‖) (Conerly 2025)."""
    norms = w_dec.norm(dim=1)
    return (c * codes.values * norms[codes.indices.long()]).tanh().sum() / codes.n_tokens


def kl(f: Tensor, rho: float) -> Tensor:
    """Σ_j ρ log(ρ/ρ̂_j) + (1−ρ) log((1−ρ)/(1−ρ̂_j)), ρ̂_j the batch mean of f [N, L] (Ng 2011)."""
    mean = f.mean(0).clamp(1e-7, 1 - 1e-7)
    target = torch.full_like(mean, rho)
    other = (1 - target) * ((1 - target) / (1 - mean)).log()
    return (target * (target / mean).log() + other).sum()


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


def preact(sae: SAE, x: Tensor) -> Tensor:
    """mean_n Σ_i max(θ_i − z_i, 0)·‖W_dec[i]‖: pulls silent latents towards firing (Conerly 2025).

    Runs on the first AUXK_TOKENS tokens of the (shuffled) batch.
    """
    x = x[:AUXK_TOKENS]
    gap = preact_gap(x, sae.W_enc, sae.b_enc, sae.b_dec, sae.threshold)
    return (gap * sae.W_dec.norm(dim=1)).sum() / x.shape[0]


def gate_error(sae: SAE, x: Tensor, gate: SparseCodes) -> Tensor:
    """mean_n ‖x − x̂(relu(z_gate))‖² through a frozen decoder (Gated SAE, eq. 8)."""
    x_hat = decode_values(gate.values, sae.W_dec.detach(), gate) + sae.b_dec.detach()
    return squared_error(x, x_hat)
