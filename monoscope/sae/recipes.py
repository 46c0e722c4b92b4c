"""The recipes: each a row that fills in an SAE and its training with a paper's defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from monoscope.sae.config import Activation, require_one_of
from monoscope.sae.normalise import Normalisation

LR_OF_SHORT_RUNS = 6e-3  # as far as few steps raise lr at up to 4096 latents; beyond it they die
_MATRYOSHKA = (1 / 32, 3 / 32, 7 / 32, 15 / 32, 1.0)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Which parts a recipe is made of, and its defaults.

    The parts:
    reconstruction, sparsity, auxiliary: the loss terms (losses.py).  huber: a token whose error is
    more than this many times the batch's median pulls no harder than one there; 0: each as far as
    its error.  decoder: "unit" keeps rows at
    norm 1, "free" leaves them.  resample: restart dead latents (Bricken 2023).
    rows: decoder rows start as random directions or as data points; init_norm: their norm.
    whitening: rows from data points are multiplied by C^(−whitening/2), C the data's covariance.
    start_l0: latents a token that fire at the start, by biases or thresholds fitted to the data;
    None leaves them at 0.  bottleneck: d_sae must be smaller than d_in.

    Defaults of settings (TrainConfig says what each is); None: does not go with the recipe.
    threshold_lr, decoder_lr: how much faster jumprelu's thresholds, and W_dec, learn than the rest.
    lr is for d_sae = 4096 where lr_by_width scales it by √(4096 / d_sae), and for lr_steps steps or
    more; a shorter run gets more, see `default_lr`, and a smaller adam_beta2, see `default_beta2`.
    """

    paper: str
    activation: Activation
    reconstruction: Literal["relative", "squared"]
    huber: float | None = None
    sparsity: Literal["l1", "l1_decoder_norm", "l0_step", "l0_tanh", "kl"] | None = None
    auxiliary: Literal["auxk", "preact"] | None = None
    decoder: Literal["unit", "free"] = "unit"
    resample: bool = False
    rows: Literal["data", "random"] = "data"
    whitening: float = 0.0
    init_norm: float = 1.0
    start_l0: float | None = None
    bottleneck: bool = False

    normalisation: Normalisation = "mean_norm"
    lr: float
    lr_by_width: bool = True
    lr_steps: int | None = None
    threshold_lr: float = 1.0
    decoder_lr: float = 1.0
    warmup_fraction: float = 0.02
    decay_fraction: float
    sparsity_coefficient: float | None = None
    sparsity_warmup_fraction: float | None = None
    auxk_coefficient: float | None = None
    preact_coefficient: float | None = None
    bandwidth: float | None = None
    rho: float | None = None
    prefixes: tuple[float, ...] | None = None
    tied: bool | None = None
    k_start: float | None = None
    k_anneal_fraction: float | None = None
    grad_clip: float | None = None
    adam_eps: float = 6.25e-10
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999

    def default_lr(self, d_sae: int, n_steps: int) -> float:
        """lr for this many latents and steps.

        lr · √(4096 / d_sae) · √(lr_steps / n_steps), the last factor only for runs shorter than
        lr_steps and only up to LR_OF_SHORT_RUNS · √(4096 / d_sae), or LR_OF_SHORT_RUNS itself below
        4096 latents. The factor before it has no such bound: at 16 latents it is 16.
        """
        width = (4096 / d_sae) ** 0.5 if self.lr_by_width else 1.0
        lr = self.lr * width
        if self.lr_steps is None or n_steps >= self.lr_steps:
            return lr
        most = LR_OF_SHORT_RUNS * min(1.0, width)
        return max(lr, min(lr * (self.lr_steps / max(1, n_steps)) ** 0.5, most))

    def default_beta2(self, n_steps: int) -> float:
        """Adam's β₂ for so many steps: with lr_steps, it remembers no more than an eighth of them.

        min(adam_beta2, 1 − 8/n_steps), and at least 0.9; else adam_beta2.
        """
        if self.lr_steps is None:
            return self.adam_beta2
        return min(self.adam_beta2, max(0.9, 1 - 8 / max(1, n_steps)))


RECIPES: dict[str, Recipe] = {
    "topk": Recipe(
        paper="Gao et al. 2024, Scaling and evaluating sparse autoencoders, arXiv 2406.04093",
        activation="topk",
        reconstruction="relative",
        huber=1.0,
        auxiliary="auxk",
        auxk_coefficient=1 / 32,
        k_anneal_fraction=0.0,
        whitening=0.5,
        lr=2e-3,
        lr_steps=10_000,
        decoder_lr=2.0,
        warmup_fraction=0.05,
        decay_fraction=0.8,
        adam_beta1=0.7,
        adam_beta2=0.99,
    ),
    "batchtopk": Recipe(
        paper="Bussmann et al. 2024, BatchTopK sparse autoencoders, arXiv 2412.06410",
        activation="batchtopk",
        reconstruction="relative",
        huber=1.0,
        auxiliary="auxk",
        auxk_coefficient=1 / 32,
        k_anneal_fraction=0.0,
        whitening=0.5,
        lr=2e-3,
        lr_steps=10_000,
        decoder_lr=2.0,
        warmup_fraction=0.05,
        decay_fraction=0.8,
        adam_beta1=0.7,
        adam_beta2=0.99,
    ),
    "matryoshka": Recipe(
        paper="Bussmann et al. 2025, Learning multi-level features with Matryoshka sparse "
        "autoencoders, arXiv 2503.17547",
        activation="batchtopk",
        reconstruction="relative",
        prefixes=_MATRYOSHKA,
        auxiliary="auxk",
        auxk_coefficient=1 / 32,
        k_anneal_fraction=0.0,
        whitening=0.5,
        lr=2e-3,
        lr_steps=10_000,
        decoder_lr=2.0,
        warmup_fraction=0.05,
        decay_fraction=0.8,
        adam_beta1=0.7,
        adam_beta2=0.99,
    ),
    "jumprelu": Recipe(
        paper="Rajamanoharan et al. 2024, Jumping ahead, arXiv 2407.14435",
        activation="jumprelu",
        reconstruction="squared",
        sparsity="l0_step",
        sparsity_coefficient=1.0,
        sparsity_warmup_fraction=0.1,
        bandwidth=0.5,
        start_l0=64,
        lr=1e-3,
        threshold_lr=10.0,
        decay_fraction=0.5,
        adam_beta1=0.0,
        adam_eps=1e-8,
    ),
    "jumprelu_tanh": Recipe(
        paper="Conerly et al. 2025, Circuits updates January 2025, transformer-circuits.pub",
        activation="jumprelu",
        reconstruction="squared",
        sparsity="l0_tanh",
        auxiliary="preact",
        decoder="free",
        sparsity_coefficient=0.5,
        sparsity_warmup_fraction=1.0,
        preact_coefficient=3e-6,
        bandwidth=0.5,
        start_l0=64,
        lr=1e-3,
        threshold_lr=10.0,
        decay_fraction=0.2,
        adam_beta1=0.0,  # with momentum, thresholds overshoot and L0 swings
        adam_eps=1e-8,
    ),
    "bricken": Recipe(
        paper="Bricken et al. 2023, Towards monosemanticity, transformer-circuits.pub",
        activation="relu",
        reconstruction="squared",
        sparsity="l1",
        sparsity_coefficient=2.0,
        sparsity_warmup_fraction=0.05,
        resample=True,
        start_l0=64,
        lr=1e-3,
        decay_fraction=0.2,
    ),
    "templeton": Recipe(
        paper="Templeton et al. 2024, Scaling monosemanticity, and the April 2024 update",
        activation="relu",
        reconstruction="squared",
        sparsity="l1_decoder_norm",
        sparsity_coefficient=1.0,
        sparsity_warmup_fraction=0.05,
        decoder="free",
        start_l0=64,
        init_norm=0.1,
        lr=1e-3,
        decay_fraction=0.2,
        grad_clip=1.0,
    ),
    "gated": Recipe(
        paper="Rajamanoharan et al. 2024, Improving dictionary learning with gated sparse "
        "autoencoders, arXiv 2404.16014",
        activation="gated",
        reconstruction="squared",
        sparsity="l1",
        sparsity_coefficient=4.0,
        sparsity_warmup_fraction=0.05,
        resample=True,
        start_l0=64,
        lr=1e-3,
        decay_fraction=0.2,
        adam_beta1=0.0,
        adam_eps=1e-8,
    ),
    "kl": Recipe(
        paper="Ng 2011, Sparse autoencoder, CS294A lecture notes; linear decoder as in UFLDL",
        activation="sigmoid",
        reconstruction="squared",
        sparsity="kl",
        sparsity_coefficient=3.0,
        sparsity_warmup_fraction=0.0,
        rho=0.05,
        decoder="free",
        rows="random",
        normalisation="standardize",
        lr=1e-3,
        lr_by_width=False,
        decay_fraction=0.5,
        adam_eps=1e-8,
    ),
    "ksparse": Recipe(
        paper="Makhzani and Frey 2013, k-sparse autoencoders, arXiv 1312.5663",
        activation="topk",
        reconstruction="squared",
        decoder="free",
        tied=True,
        k_start=4.0,
        k_anneal_fraction=0.5,
        lr=1e-3,
        decay_fraction=0.5,
        adam_eps=1e-8,
    ),
    "autoencoder": Recipe(
        paper="Hinton and Salakhutdinov 2006, Reducing the dimensionality of data with neural "
        "networks, Science 313; with ReLU and Adam",
        activation="relu",
        reconstruction="squared",
        decoder="free",
        bottleneck=True,
        rows="random",
        normalisation="standardize",
        lr=1e-3,
        lr_by_width=False,
        decay_fraction=0.5,
        adam_eps=1e-8,
    ),
}


def get_recipe(name: str) -> Recipe:
    """The row called `name`; ConfigError names the nearest one that exists."""
    require_one_of("recipe", name, tuple(RECIPES))
    return RECIPES[name]
