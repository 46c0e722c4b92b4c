"""The loss of one step: the recipe's terms, each with its coefficient."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from monoscope.ops.codes import SparseCodes
from monoscope.sae import losses
from monoscope.sae.model import SAE
from monoscope.sae.recipes import Recipe
from monoscope.train.config import TrainConfig
from monoscope.train.schedule import ramp


@dataclass(frozen=True)
class Objective:
    """terms: name → weighted loss term; their sum is what is minimised. fvu: of the batch."""

    terms: dict[str, Tensor]
    fvu: float

    @property
    def total(self) -> Tensor:
        return sum(self.terms.values(), start=self.terms["reconstruction"].new_zeros(()))


def objective(
    sae: SAE, recipe: Recipe, config: TrainConfig, x: Tensor, codes: SparseCodes,
    dead: Tensor, done: float,
) -> Objective:  # fmt: skip
    """Terms for scaled x [N, D]; codes carry gradients.

    dead: ids of dead latents; done: share of the run.
    """
    x_hat = sae.reconstruct(codes)
    relative = losses.relative_error(x, x_hat)
    terms = {"reconstruction": relative}
    if recipe.reconstruction == "squared":
        terms["reconstruction"] = losses.squared_error(x, x_hat)
    assert config.sparsity_coefficient is not None
    weight = config.sparsity_coefficient * ramp(done, recipe.sparsity_warmup_fraction)
    if recipe.sparsity == "l1":
        terms["sparsity"] = weight * losses.l1(codes)
    elif recipe.sparsity == "l1_decoder_norm":
        terms["sparsity"] = weight * losses.l1_decoder_norm(codes, sae.W_dec)
    if recipe.auxiliary == "auxk" and dead.numel():
        assert config.auxk_coefficient is not None and config.k_aux is not None
        terms["auxk"] = config.auxk_coefficient * losses.auxk(sae, x, x_hat, dead, config.k_aux)
    return Objective(terms, float(relative.detach()))
