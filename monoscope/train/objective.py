"""The loss of one step: the recipe's terms, each with its coefficient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monoscope.errors import TrainingError
from monoscope.ops.codes import SparseCodes
from monoscope.sae import losses
from monoscope.sae.activations import Active
from monoscope.sae.model import SAE
from monoscope.sae.recipes import Recipe
from monoscope.train.config import TrainConfig, prefix_counts

TANH_SCALE = 4.0  # c of l0_tanh (Conerly 2025)


@dataclass(frozen=True)
class Objective:
    """terms: name → weighted loss term; their sum is what is minimised.

    error: ‖x − x̂‖² of the batch; spread: mean ‖x − x̄‖², where error is not relative to it.
    proved: whether the latents of a fixed step are shown to be the right ones.
    Nothing of it is read back from an accelerator before it is asked for.
    """

    terms: dict[str, Tensor]
    error: Tensor
    spread: Tensor | None = None
    proved: Tensor | None = None

    @property
    def fvu(self) -> float:
        """Of the batch; raises TrainingError where its rows are all the same."""
        if self.spread is None:
            return float(self.error)
        if (spread := float(self.spread)) == 0:
            raise TrainingError(
                "the activations of a batch are all alike",
                got=f"a spread of 0 beside an error of {float(self.error):.3g}",
                expected="rows that differ",
                hint="Shuffle them, or check the site and the mask.",
            )
        return float(self.error) / spread

    @property
    def total(self) -> Tensor:
        return sum(self.terms.values(), start=self.terms["reconstruction"].new_zeros(()))


def objective(
    sae: SAE, recipe: Recipe, config: TrainConfig, x: Tensor, active: Active, dead: Tensor,
    weight: float,
) -> Objective:  # fmt: skip
    """Terms for normalised x [N, D] and what the latents did on it.

    dead: ids of dead latents, or which are [L] bool for shapes that do not depend on how many;
    weight: the sparsity coefficient now.
    """
    spread = losses.spread_of(x)
    relative = recipe.reconstruction == "relative"
    if config.prefixes is not None:
        assert isinstance(active.codes, SparseCodes)
        prefixes = prefix_counts(config.prefixes, sae.d_sae)
        distances, x_hat = losses.nested(sae, active.codes, prefixes, x)
        errors = distances / (spread if relative else x.shape[0])
        reconstruction, error = errors.mean(), errors[-1]
    else:
        x_hat = sae.reconstruct(active.codes)
        if not relative:
            reconstruction = error = losses.squared_error(x, x_hat)
        elif recipe.huber:
            reconstruction, error = losses.huber_error(x, x_hat, recipe.huber, spread)
        else:
            reconstruction = error = losses.relative_error(x, x_hat, spread)
    proved = active.proved
    terms = {"reconstruction": reconstruction}
    if recipe.sparsity is not None:
        terms["sparsity"] = weight * sparsity(sae, recipe, config, active)
    if active.gate is not None:
        terms["gate"] = losses.gate_error(sae, x, active.gate)
    if recipe.auxiliary == "auxk" and dead.numel():
        assert config.auxk_coefficient is not None and config.k_aux is not None
        if dead.dtype == torch.bool:
            missed, found = losses.auxk_fixed(sae, x, x_hat, dead, config.k_aux)
            proved = found if proved is None else proved & found
        else:
            missed = losses.auxk(sae, x, x_hat, dead, config.k_aux)
        terms["auxk"] = config.auxk_coefficient * missed
    if recipe.auxiliary == "preact":
        assert config.preact_coefficient is not None
        terms["preact"] = config.preact_coefficient * losses.preact(sae, x)
    each = None if relative else spread / x.shape[0]
    return Objective(terms, error.detach(), each, proved)


def sparsity(sae: SAE, recipe: Recipe, config: TrainConfig, active: Active) -> Tensor:
    """The recipe's sparsity term, before its coefficient."""
    codes = active.codes
    if recipe.sparsity == "kl":
        assert isinstance(codes, Tensor) and config.rho is not None
        return losses.kl(codes, config.rho)
    assert isinstance(codes, SparseCodes)
    if recipe.sparsity == "l1":
        return losses.l1(codes if active.gate is None else active.gate)
    if recipe.sparsity == "l1_decoder_norm":
        return losses.l1_decoder_norm(codes, sae.W_dec)
    if recipe.sparsity == "l0_tanh":
        return losses.l0_tanh(codes, sae.W_dec, TANH_SCALE)
    assert active.z is not None and active.theta is not None and config.bandwidth is not None
    return losses.l0_step(active.z, active.theta, codes.n_tokens, config.bandwidth)
