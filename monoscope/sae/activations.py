"""Activations: which latents fire and with which values, at inference and in a training step.

One small class each; z = W_enc (x − b_dec) + b_enc are the pre-activations, f the codes. Everything
that is not among the entries of a selection is zero and costs nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from monoscope.ops import make_encoder, select
from monoscope.ops.codes import SparseCodes
from monoscope.ops.select import Encoder
from monoscope.sae.ste import jump

if TYPE_CHECKING:
    from monoscope.sae.model import SAE

PROBE_TOKENS = 64  # a selection is first tried on so many tokens
MANY = 0.04  # share of latents above which proving each candidate costs more than it saves


@dataclass(frozen=True, kw_only=True)
class Active:
    """What the latents of a training batch did; values carry gradients.

    codes: f, sparse, or dense [N, L] for the dense activations.  fired: ids of latents with f > 0.
    l0: their mean number a token; for sigmoid, whose units are never off, the mean Σ f.
    smallest: the least value batchtopk kept, else 0.
    proved: of train_fixed alone, whose ids may be L, for none, and whose numbers are tensors.
    z, theta [nnz]: jumprelu's pre-activations and thresholds at the entries of codes.
    gate: gated's entries of the gate path, values relu(z_gate).
    """

    codes: SparseCodes | Tensor
    fired: Tensor
    l0: float | Tensor
    smallest: float | Tensor = 0.0
    z: Tensor | None = None
    theta: Tensor | None = None
    gate: SparseCodes | None = None
    proved: Tensor | None = None


class Rule(ABC):
    """An activation: its own leaves, its selection, and its values with gradients.

    scales: f(s·z; s·biases) = s·f, so that an input scale can be folded into biases alone.
    dense: every latent has a value on every token.
    fixed: how many latents are kept is known beforehand, so there is a train_fixed.
    """

    scales = True
    dense = False
    fixed = False

    def leaves(self, d_sae: int) -> dict[str, Tensor]:
        """Parameters [L] besides W_enc, b_enc, W_dec, b_dec, at their neutral values."""
        return {}

    @abstractmethod
    def choose(self, sae: SAE, x: Tensor, k: int | None) -> SparseCodes:
        """The latents that may fire on centred x [N, D] at inference, with their z."""

    def finish(self, sae: SAE, codes: SparseCodes, z: Tensor) -> Tensor:
        """f [nnz] of the chosen latents from their z [nnz]."""
        return z

    def select(self, sae: SAE, x: Tensor, k: int | None) -> SparseCodes:
        """Codes of centred x [N, D] at inference, without gradients."""
        return self.choose(sae, x, k)

    @abstractmethod
    def train(self, sae: SAE, x: Tensor, k: int, guess: float, bandwidth: float) -> Active:
        """The batch x [N, D] in a training step."""

    def train_fixed(self, sae: SAE, x: Tensor, k: int, guess: Tensor) -> Active:
        """As train, in shapes that no value decides, nothing read back; guess: a tensor too."""
        raise NotImplementedError(
            f"{type(self).__name__} keeps as many latents as there happen to be"
        )


def above(encoder: Encoder, x: Tensor, theta: Tensor) -> SparseCodes:
    """encoder.above, by the plain product where most tokens have too many entries to prove."""
    head = select.above(torch.addmm(encoder.b, x[:PROBE_TOKENS], encoder.w.T), theta)
    if head.indices.numel() > MANY * head.n_tokens * head.d_sae:
        encoder = Encoder(encoder.w, encoder.b)
    return encoder.above(x, theta)


def _sparse(sae: SAE, x: Tensor, codes: SparseCodes, smallest: float = 0.0) -> Active:
    return Active(
        codes=codes.with_values(sae.preactivations(x, codes)),
        fired=codes.indices.long(),
        l0=codes.indices.numel() / codes.n_tokens,
        smallest=smallest,
    )


def _padded(
    sae: SAE, x: Tensor, codes: SparseCodes, proved: Tensor, smallest: Tensor | float = 0.0
) -> Active:
    return Active(
        codes=codes.with_values(sae.preactivations(x, codes)),
        fired=codes.indices.long(),
        l0=(codes.indices < codes.d_sae).sum() / codes.n_tokens,
        smallest=smallest,
        proved=proved,
    )


@final
class Relu(Rule):
    """f = max(z, 0)."""

    def choose(self, sae: SAE, x: Tensor, k: int | None) -> SparseCodes:
        return above(sae.encoder(), x, sae.threshold)

    def train(self, sae: SAE, x: Tensor, k: int, guess: float, bandwidth: float) -> Active:
        centred = (x - sae.b_dec).detach()
        return _sparse(sae, x, above(make_encoder(sae.W_enc, sae.b_enc), centred, sae.threshold))


@final
class TopK(Rule):
    """f = z on the token's k largest positive z (Makhzani 2013; Gao 2024, eq. 1)."""

    fixed = True

    def choose(self, sae: SAE, x: Tensor, k: int | None) -> SparseCodes:
        k = k or sae.config.k
        assert k is not None
        return sae.encoder().topk(x, k)

    def train(self, sae: SAE, x: Tensor, k: int, guess: float, bandwidth: float) -> Active:
        centred = (x - sae.b_dec).detach()
        return _sparse(sae, x, make_encoder(sae.W_enc, sae.b_enc).topk(centred, k))

    def train_fixed(self, sae: SAE, x: Tensor, k: int, guess: Tensor) -> Active:
        centred = (x - sae.b_dec).detach()
        return _padded(sae, x, *make_encoder(sae.W_enc, sae.b_enc).fixed_topk(centred, k))


@final
class BatchTopK(Rule):
    """f = z on the batch's k·N largest positive z; at inference those above a fixed threshold."""

    fixed = True

    def choose(self, sae: SAE, x: Tensor, k: int | None) -> SparseCodes:
        return above(sae.encoder(), x, sae.threshold)

    def train(self, sae: SAE, x: Tensor, k: int, guess: float, bandwidth: float) -> Active:
        centred = (x - sae.b_dec).detach()
        encoder = make_encoder(sae.W_enc, sae.b_enc)
        codes, smallest = select.batch_topk(encoder, centred, k, guess)
        return _sparse(sae, x, codes, smallest)

    def train_fixed(self, sae: SAE, x: Tensor, k: int, guess: Tensor) -> Active:
        centred = (x - sae.b_dec).detach()
        encoder = make_encoder(sae.W_enc, sae.b_enc)
        codes, smallest, proved = encoder.fixed_batch_topk(centred, k, guess)
        return _padded(sae, x, codes, proved, smallest)


@final
class JumpRelu(Rule):
    """f = z·1[z > θ] with a trained θ_i ≥ 0 a latent, in fp32 (Rajamanoharan 2024, eq. 3)."""

    def leaves(self, d_sae: int) -> dict[str, Tensor]:
        return {"threshold": torch.zeros(d_sae, dtype=torch.float32)}

    def choose(self, sae: SAE, x: Tensor, k: int | None) -> SparseCodes:
        return above(sae.encoder(), x, sae.threshold.detach())

    def train(self, sae: SAE, x: Tensor, k: int, guess: float, bandwidth: float) -> Active:
        centred = (x - sae.b_dec).detach()
        # θ learns from the entries within ε/2 of it too, fired or not
        low = sae.threshold.detach() - bandwidth / 2
        encoder = make_encoder(sae.W_enc, sae.b_enc)
        near = above(encoder, centred, low) if low.min() >= 0 else encoder.wider(centred, low)
        z = sae.preactivations(x, near)
        columns = near.indices.long()
        theta = sae.threshold[columns]
        f = jump(z, theta, bandwidth)
        fired = columns[f.detach() > 0]
        return Active(
            codes=near.with_values(f), fired=fired, l0=fired.numel() / x.shape[0], z=z, theta=theta
        )


@final
class Gated(Rule):
    """f = 1[z > 0]·max(e^r (z − b_enc) + b_mag, 0): b_enc is the gate's bias (Gated SAE, eq. 5).

    The gate and the magnitude share W_enc, so one product serves both.
    """

    def leaves(self, d_sae: int) -> dict[str, Tensor]:
        return {name: torch.zeros(d_sae, dtype=torch.float32) for name in ("b_mag", "r_mag")}

    def choose(self, sae: SAE, x: Tensor, k: int | None) -> SparseCodes:
        return above(sae.encoder(), x, sae.threshold)

    def finish(self, sae: SAE, codes: SparseCodes, z: Tensor) -> Tensor:
        at = codes.indices.long()
        return (sae.r_mag[at].exp() * (z - sae.b_enc[at]) + sae.b_mag[at]).relu()

    def select(self, sae: SAE, x: Tensor, k: int | None) -> SparseCodes:
        open_ = self.choose(sae, x, k)
        f = self.finish(sae, open_, open_.values)
        return keep(open_.with_values(f), f > 0)

    def train(self, sae: SAE, x: Tensor, k: int, guess: float, bandwidth: float) -> Active:
        centred = (x - sae.b_dec).detach()
        chosen = above(make_encoder(sae.W_enc, sae.b_enc), centred, sae.threshold)
        gate = chosen.with_values(sae.preactivations(x, chosen))
        f = self.finish(sae, chosen, gate.values)
        fired = chosen.indices.long()[f.detach() > 0]
        l0 = fired.numel() / x.shape[0]
        return Active(codes=chosen.with_values(f), fired=fired, l0=l0, gate=gate)


class Dense(Rule):
    """A value for every latent on every token; for few latents, as baselines have them.

    The one exception to tiles: in training, codes [N, L] live through the backward pass.
    """

    dense = True

    @abstractmethod
    def apply(self, z: Tensor) -> Tensor:
        """f [N, L] of z [N, L]."""

    def choose(self, sae: SAE, x: Tensor, k: int | None) -> SparseCodes:
        return SparseCodes.from_dense(self.apply(sae.dense_preactivations(x)))

    def train(self, sae: SAE, x: Tensor, k: int, guess: float, bandwidth: float) -> Active:
        f = self.apply(sae.dense_preactivations(x - sae.b_dec))
        on = f.detach() != 0
        return Active(codes=f, fired=on.any(0).nonzero()[:, 0], l0=self.activity(f.detach()))

    def activity(self, f: Tensor) -> float:
        return float((f != 0).sum()) / f.shape[0]


@final
class Sigmoid(Dense):
    """f = 1/(1 + e^−z): never off, so what is counted as its L0 in training is Σ f (Ng 2011)."""

    scales = False

    def apply(self, z: Tensor) -> Tensor:
        return z.sigmoid()

    def activity(self, f: Tensor) -> float:
        return float(f.sum()) / f.shape[0]


@final
class Identity(Dense):
    """f = z."""

    def apply(self, z: Tensor) -> Tensor:
        return z


@final
class DenseRelu(Dense):
    """f = max(z, 0) behind hidden layers, through which the gradient must pass whole."""

    def apply(self, z: Tensor) -> Tensor:
        return z.relu()


def keep(codes: SparseCodes, which: Tensor) -> SparseCodes:
    """The entries of codes where `which` [nnz] is set."""
    return SparseCodes.from_entries(
        codes.rows[which],
        codes.indices[which],
        codes.values[which],
        (codes.n_tokens, codes.d_sae),
    )


_RULES: dict[str, Rule] = {
    "relu": Relu(),
    "topk": TopK(),
    "batchtopk": BatchTopK(),
    "jumprelu": JumpRelu(),
    "gated": Gated(),
    "sigmoid": Sigmoid(),
    "identity": Identity(),
}


def rule_of(activation: str, hidden: tuple[int, ...]) -> Rule:
    """The rule of a config."""
    return DenseRelu() if hidden and activation == "relu" else _RULES[activation]
