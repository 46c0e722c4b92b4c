"""How a run starts: the normalisation and the first weights, from the first batches of data."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from monoscope.errors import DataError
from monoscope.sae.model import SAE
from monoscope.sae.normalise import Normaliser
from monoscope.sae.recipes import Recipe
from monoscope.train.config import TrainConfig

GAIN_TOKENS = 1024  # tokens the starting gain and the first thresholds are fitted on
NOISE = 0.1  # share of noise in a row started from a data point; keeps repeated tokens apart
# Size √(mean ‖x‖²) of activations: sums of squares over a pass must fit into float32 …
SMALLEST, LARGEST = 1e-15, 1e15
# … and so must Adam's squares of gradients, which grow as the fourth power of what training sees.
SMALLEST_SEEN, LARGEST_SEEN = 1e-8, 1e8
ALIKE = 1e-6  # spread, as a share of the size, of which float32 holds one digit
_TILE_ROWS = 2048


def inputs(sample: Tensor, config: TrainConfig) -> Normaliser:
    """The normalisation of a run, fitted to raw sample [N, D] that is `require_trainable`."""
    assert config.normalisation is not None
    return Normaliser.fit(config.normalisation, sample)  # type: ignore[arg-type]


def require_trainable(sample: Tensor, configs: Iterable[TrainConfig]) -> None:
    """Raise DataError for raw x [N, D] that float32 cannot train on in one of these runs.

    That is where they are all alike, too large, or too small.
    """
    size, spread = size_and_spread(sample)
    raw = any(config.normalisation == "none" for config in configs)
    least, most = (SMALLEST_SEEN, LARGEST_SEEN) if raw else (SMALLEST, LARGEST)
    if size == 0:
        raise DataError(
            "activations are all zero", got=f"{len(sample):,} rows of norm 0",
            expected="rows that differ", hint="Check the site and the mask.",
        )  # fmt: skip
    if spread <= ALIKE * size:
        raise DataError(
            "activations are all alike",
            got=f"a spread of {spread:.2g} around their mean, of norm {size:.3g}, over "
            f"{len(sample):,} rows",
            expected=f"more than {ALIKE:g} of that norm",
            hint="Check the site and the mask.",
        )
    if not least <= size <= most:
        within = SMALLEST <= size <= LARGEST
        raise DataError(
            f"activations are too {'large' if size > most else 'small'} for float32"
            + (" without normalisation" if within else ""),
            got=f"a typical norm of {size:.3g}",
            expected=f"{least:g} to {most:g}",
            hint="Use --set normalisation=mean_norm." if within else "Multiply them by a constant.",
        )


def size_and_spread(x: Tensor) -> tuple[float, float]:
    """√(mean ‖x‖²) and √(mean ‖x − x̄‖²) of x [N, D], in float64."""
    n = len(x)
    mean = sum((tile.double().sum(0) for tile in x.split(_TILE_ROWS)), x.new_zeros(()).double()) / n
    sums = x.new_zeros(2, dtype=torch.float64)
    for tile in x.split(_TILE_ROWS):
        sums[0] += tile.double().square().sum()
        sums[1] += (tile.double() - mean).square().sum()
    size, spread = (sums / n).sqrt().tolist()
    return size, spread


@torch.no_grad()
def initialise(
    sae: SAE, sample: Tensor, recipe: Recipe, config: TrainConfig, generator: torch.Generator
) -> None:
    """Set the weights from normalised data, in place.

    b_dec is the mean of the sample. Decoder rows are random directions or centred data points plus
    noise, of init_norm; the encoder has the same rows, with a fitted gain; for recipes with
    start_l0, biases or thresholds are set so that about so many latents fire on a token.
    """
    mean = sample.mean(0)
    if sae.config.normalisation == "unit":
        mean = torch.zeros_like(mean)  # the centre of the sphere is taken off before
        sae.b_dec.requires_grad_(False)
    sae.b_dec.copy_(mean)
    if sae.config.hidden or sae.rule.dense:
        _initialise_dense(sae, generator)
        if config.rho is not None:  # units start about as rarely on as they shall be
            sae.b_enc.fill_(math.log(config.rho / max(1 - config.rho, 1e-6)))
    else:
        _initialise_rows(sae, sample - mean, recipe, generator)
        goal = recipe.start_l0
        if goal is not None and "start_l0" not in (config.overrides or {}):
            goal = config.target_l0 or goal
        if goal:
            _fit_rate(sae, sample[:GAIN_TOKENS] - mean, min(goal, sae.d_sae) / sae.d_sae)
        _fit_gain(sae, sample[:GAIN_TOKENS])
    if config.tied:
        _tie(sae)


def _initialise_rows(sae: SAE, centred: Tensor, recipe: Recipe, generator: torch.Generator) -> None:
    """Decoder rows of init_norm, encoder rows the same directions at norm 1."""
    rows = torch.randn(sae.d_sae, sae.d_in, generator=generator)
    rows /= rows.norm(dim=1, keepdim=True)
    if recipe.rows == "data":
        picks = torch.randint(centred.shape[0], (sae.d_sae,), generator=generator)
        if sae.d_sae <= centred.shape[0]:
            picks = torch.randperm(centred.shape[0], generator=generator)[: sae.d_sae]
        points = whitened(centred, recipe.whitening)[picks]
        rows = points / points.norm(dim=1, keepdim=True).clamp_min(1e-6) + NOISE * rows
        rows /= rows.norm(dim=1, keepdim=True)
    sae.W_dec.copy_(rows * recipe.init_norm)
    sae.W_enc.copy_(sae.W_dec)


def whitened(centred: Tensor, power: float) -> Tensor:
    """centred [N, D] times C^(−power/2), C = centredᵀ centred / N; at power 0 the same.

    The largest few principal directions hold most of the variance, so data points are much alike;
    with their lengths evened out, rows made of them are not, and fewer latents die.
    """
    if power == 0:
        return centred
    covariance = centred.new_zeros(centred.shape[1], centred.shape[1], dtype=torch.float64)
    for tile in centred.split(_TILE_ROWS):
        wide = tile.double()
        covariance.addmm_(wide.T, wide, alpha=1 / len(centred))
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp_min(float(values[-1].clamp_min(1e-12)) * 1e-6)
    return centred @ ((vectors * values.pow(-power / 2)) @ vectors.T).float()


def _initialise_dense(sae: SAE, generator: torch.Generator) -> None:
    """Weights uniform in ±√(6 / (fan in + fan out)) (Glorot 2010), biases 0."""
    for weight in (*sae.in_weights, sae.W_enc, sae.W_dec, *sae.out_weights):
        bound = (6 / sum(weight.shape)) ** 0.5
        weight.copy_((2 * torch.rand(weight.shape, generator=generator) - 1) * bound)


def _fit_gain(sae: SAE, sample: Tensor) -> None:
    """Scale encoder and thresholds by the least-squares gain of the first x̂, in place.

    Rows taken from data overlap, so k of them together overshoot many times over; without this
    the first FVU is about 40 and the run spends its first passes undoing it.
    """
    codes = sae.activate(sample).codes
    x_hat = sae.reconstruct(codes) - sae.b_dec
    gain = ((sample - sae.b_dec) * x_hat).sum() / x_hat.square().sum().clamp_min(1e-12)
    for tensor in (sae.W_enc, sae.b_enc, sae.threshold):
        tensor.mul_(gain.clamp(1e-3, 1e3))


def _tie(sae: SAE) -> None:
    """One matrix both ways, at the norm that gives the same x̂ as the two did."""
    gain = (sae.W_enc * sae.W_dec).sum() / sae.W_dec.square().sum()
    sae.W_dec.mul_(gain.clamp_min(1e-6).sqrt())
    sae.W_enc.copy_(sae.W_dec)
    sae.tie()


def _fit_rate(sae: SAE, centred: Tensor, rate: float) -> None:
    """Let each latent fire on a share `rate` of the centred sample: by θ (jumprelu), else b_enc."""
    z = centred @ sae.W_enc.T
    rank = min(max(round(rate * z.shape[0]), 1), z.shape[0])
    limit = z.topk(rank, dim=0).values[-1].clamp_min(0)
    if sae.config.activation == "jumprelu":
        sae.threshold.copy_(limit)
    else:
        sae.b_enc.sub_(limit)
