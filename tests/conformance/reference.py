"""The loss terms once more, dense and plain, for finite differences: every formula from its paper.

What a term must not see the gradient of (the choice of latents, the residual of AuxK, the frozen
decoder of gated) is taken from `Held`, the weights as they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from monoscope.sae import SAE
from monoscope.train.config import TrainConfig, prefix_counts
from tests.conformance.world import Variant

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Held:
    """on [N, L]: which latents were chosen; x_hat [N, D], w_dec, b_dec: as they were."""

    on: Tensor
    x_hat: Tensor
    w_dec: Tensor
    b_dec: Tensor


def codes(v: Variant, w: Weights, x: Tensor, on: Tensor) -> tuple[Tensor, Tensor]:
    """z and f, both dense [N, L]."""
    h = x - w["b_dec"]
    for i in range(len(v.hidden)):
        h = (h @ w[f"in_weights.{i}"].T + w[f"in_biases.{i}"]).relu()
    z = h @ w["W_enc"].T + w["b_enc"]
    if v.row.activation == "sigmoid":
        return z, z.sigmoid()
    if v.row.activation == "gated":
        magnitude = w["r_mag"].exp() * (z - w["b_enc"]) + w["b_mag"]
        return z, magnitude.relu() * on
    return z, z * on


def decode(v: Variant, w: Weights, f: Tensor) -> Tensor:
    h = f @ w["W_dec"]
    for i in range(len(v.hidden)):
        h = (h + w[f"out_biases.{i}"]).relu() @ w[f"out_weights.{i}"]
    return h + w["b_dec"]


def term(
    name: str, v: Variant, config: TrainConfig, w: Weights, x: Tensor, held: Held, dead: Tensor,
    weight: float,
) -> Tensor:  # fmt: skip
    """The weighted loss term called `name`."""
    z, f = codes(v, w, x, held.on)
    n = x.shape[0]
    if name == "reconstruction":
        return reconstruction(v, config, w, x, f, held)
    if name == "gate":
        return (x - (z * held.on) @ held.w_dec - held.b_dec).square().sum() / n
    if name == "auxk":
        assert config.auxk_coefficient is not None and config.k_aux is not None
        error = x - held.x_hat
        shown = z[:, dead]
        kept = shown >= shown.sort(1, descending=True).values[:, : config.k_aux][:, -1:]
        error_hat = (shown.relu() * kept) @ w["W_dec"][dead]
        missed, spread = (error - error_hat).square().sum(), (error - error.mean(0)).square().sum()
        return config.auxk_coefficient * missed / spread
    norms = w["W_dec"].square().sum(1).sqrt()
    if name == "preact":
        assert config.preact_coefficient is not None
        return config.preact_coefficient * ((w["threshold"] - z).relu() * norms).sum() / n
    assert name == "sparsity"
    return weight * sparsity(v, config, z, f, norms, held)


def sparsity(
    v: Variant, config: TrainConfig, z: Tensor, f: Tensor, norms: Tensor, held: Held
) -> Tensor:
    n = f.shape[0]
    kind = v.row.sparsity
    if kind == "l1":
        return ((z * held.on) if v.row.activation == "gated" else f).sum() / n
    if kind == "l1_decoder_norm":
        return (f * norms).sum() / n
    if kind == "l0_tanh":
        return torch.tanh(4 * f * norms).sum() / n
    if kind == "l0_step":
        return held.on.sum() / n
    assert kind == "kl" and config.rho is not None
    mean, rho = f.mean(0), config.rho
    return (rho * torch.log(rho / mean) + (1 - rho) * torch.log((1 - rho) / (1 - mean))).sum()


def reconstruction(
    v: Variant, config: TrainConfig, w: Weights, x: Tensor, f: Tensor, held: Held
) -> Tensor:
    n = x.shape[0]
    whole = n if v.row.reconstruction == "squared" else (x - x.mean(0)).square().sum()
    if config.prefixes is None and config.row.huber:
        r = (x - decode(v, w, f)).norm(dim=1)
        limit = config.row.huber * (x - held.x_hat).norm(dim=1).sort().values[(n - 1) // 2]
        return torch.where(r <= limit, r.square(), limit * (2 * r - limit)).sum() / whole
    if config.prefixes is None:
        return (x - decode(v, w, f)).square().sum() / whole
    sizes = prefix_counts(config.prefixes, f.shape[1])
    first = [f[:, :m] @ w["W_dec"][:m] + w["b_dec"] for m in sizes]
    return sum(((x - x_hat).square().sum() / whole for x_hat in first), x.new_zeros(())) / len(
        sizes
    )


def straight_through(
    name: str, v: Variant, config: TrainConfig, w: Weights, x: Tensor, held: Held, weight: float
) -> Tensor:
    """What the estimators add to a term's gradient in θ, [L], by their definition:

    Σ_n ∂L/∂f·(−(θ/ε)·K) for jump, Σ_n ∂L/∂H·(−(1/ε)·K) for step, K = 1[|z − θ| < ε/2].
    """
    assert config.bandwidth is not None
    z, f = codes(v, w, x, held.on)
    theta = w["threshold"]
    near = ((z - theta).abs() < config.bandwidth / 2).to(z.dtype)
    if name == "sparsity" and v.row.sparsity == "l0_step":
        return (-near / config.bandwidth).sum(0) * weight / x.shape[0]
    f = f.detach().requires_grad_()
    norms = w["W_dec"].norm(dim=1)
    if name == "reconstruction":
        loss = reconstruction(v, config, w, x, f, held)
    else:
        loss = weight * sparsity(v, config, z.detach(), f, norms, held)
    (grad,) = torch.autograd.grad(loss, f)
    return (grad * near * -theta / config.bandwidth).sum(0)


def weights_of(sae: SAE) -> dict[str, Tensor]:
    """Detached copies of every parameter, under every name it has."""
    return {name: t.detach().clone() for name, t in sae.state_dict().items()}
