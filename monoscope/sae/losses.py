"""Loss terms, each a pure function of tensors; which ones a recipe uses stands in recipes.py.

x, x_hat [N, D]; codes: the chosen latents with values that carry gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monoscope.ops import make_encoder
from monoscope.ops.autograd import (
    decode_values,
    huber_distance,
    nested_distances,
    squared_distance,
    take_rows,
)
from monoscope.ops.codes import SparseCodes
from monoscope.ops.window import preact_gap
from monoscope.sae.model import SAE
from monoscope.sae.ste import step

AUXK_TOKENS = 512  # tokens of a batch on which dead latents learn


def squared_error(x: Tensor, x_hat: Tensor) -> Tensor:
    """mean_n ‖x − x̂‖² (Bricken 2023; Templeton 2024)."""
    return squared_distance(x, x_hat) / x.shape[0]


def relative_error(x: Tensor, x_hat: Tensor, spread: Tensor | None = None) -> Tensor:
    """Σ‖x − x̂‖² / Σ‖x − x̄‖², the batch's own FVU (Gao 2024, section 2.1: MSE over variance).

    spread: Σ‖x − x̄‖², where it is known.
    """
    return squared_distance(x, x_hat) / (spread_of(x) if spread is None else spread)


def huber_error(
    x: Tensor, x_hat: Tensor, share: float, spread: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Σ h(‖x − x̂‖) / Σ‖x − x̄‖² with Huber's h, and the batch's FVU, which carries no gradient.

    A token beyond share × the batch's median error pulls no harder than one there.
    """
    loss, squared = huber_distance(x, x_hat, share)
    whole = spread_of(x) if spread is None else spread
    return loss / whole, squared / whole


def spread_of(x: Tensor) -> Tensor:
    """Σ‖x − x̄‖² over the batch [N, D]."""
    return squared_distance(x.mean(0).expand_as(x), x)


def nested(
    sae: SAE, codes: SparseCodes, prefixes: tuple[int, ...], x: Tensor
) -> tuple[Tensor, Tensor]:
    """Σ‖x − x̂_m‖² [P], x̂_m from the first m latents alone, for each m of prefixes, and x̂ [N, D].

    Matryoshka, eq. 4. prefixes ascend to L; all blocks of latents are decoded at once and then
    summed up. x̂, from all latents, carries no gradient.
    """
    # filled on the device: a tensor of host numbers would have to be waited for
    bounds = torch.cat([codes.offsets.new_full((1,), prefix) for prefix in prefixes])
    blocks, order = codes.grouped(bounds)
    parts = decode_values(codes.values[order], sae.W_dec, blocks)
    return nested_distances(x, parts.reshape(len(prefixes), codes.n_tokens, -1), sae.b_dec)


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
    variance = spread_of(error).clamp_min(1e-12)
    if dead.numel() > k_aux:
        codes = _strongest(sae, x, dead, k_aux)
        z = sae.preactivations(x, codes)
        return squared_distance(error, decode_values(z, sae.W_dec, codes)) / variance
    z = torch.addmm(sae.b_enc[dead], x - sae.b_dec, take_rows(sae.W_enc, dead).T)
    return squared_distance(error, z.relu() @ take_rows(sae.W_dec, dead)) / variance


@torch.no_grad()
def _strongest(sae: SAE, x: Tensor, dead: Tensor, k: int) -> SparseCodes:
    """The k largest positive pre-activations among dead latents, on each token."""
    bias = torch.full_like(sae.b_enc, -torch.inf)
    bias[dead] = sae.b_enc[dead]
    return make_encoder(sae.W_enc, bias).topk(x - sae.b_dec, k)


def auxk_fixed(
    sae: SAE, x: Tensor, x_hat: Tensor, dead: Tensor, k_aux: int
) -> tuple[Tensor, Tensor]:
    """As auxk for dead [L] bool, in shapes that do not depend on it, nothing read back.

    Returns the loss and whether the choice of latents is proved.
    """
    x, x_hat = x[:AUXK_TOKENS], x_hat[:AUXK_TOKENS]
    error = (x - x_hat).detach()
    variance = spread_of(error).clamp_min(1e-12)
    with torch.no_grad():
        bias = torch.where(dead, sae.b_enc, -torch.inf)
        codes, proved = make_encoder(sae.W_enc, bias).fixed_topk(x - sae.b_dec, k_aux)
    z = sae.preactivations(x, codes)
    loss = squared_distance(error, decode_values(z, sae.W_dec, codes)) / variance
    return torch.where(dead.any(), loss, 0.0), proved


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
