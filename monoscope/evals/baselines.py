"""What an SAE is to be compared with at its own L0: random directions, neurons, PCA, the mean.

Random baselines come close to trained SAEs on many metrics (arXiv 2602.14111), so a score without
them says little. All are fitted on train tokens only and measured on the held-out ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from monoscope.evals.reconstruction import Reconstruct
from monoscope.ops import select
from monoscope.ops.codes import SparseCodes

Encode = Callable[[Tensor], Tensor]
"""x [n,D] -> dense codes [n,L]."""

FIT_TOKENS = 65_536
"""Train tokens that the PCA sees."""
GAIN_TOKENS = 8_192
"""Of those, about how many the random SAE's one gain is fitted on, evenly spaced."""

_TILE_LATENTS = 1 << 23  # entries of a dense tile of pre-activations


@dataclass(frozen=True)
class Method:
    """A baseline: what it is, and its reconstruction of x."""

    description: str
    reconstruct: Reconstruct


def fit_baselines(
    train: Iterable[Tensor], mean: Tensor, d_sae: int, l0: float, seed: int
) -> dict[str, Method]:
    """All four baselines, at k = l0 rounded (at least 1), from tiles of train tokens x [n,D].

    mean: train mean [D].  d_sae: L of the SAE they stand beside.
    """
    mean = mean.float()
    tiles = list(train)
    k = max(1, round(l0))
    k_wide, k_narrow = min(k, d_sae), min(k, len(mean))
    n_fit = sum(len(x) for x in tiles)
    random = RandomSAE(mean, d_sae, k_wide, seed)
    random.fit_gain(x[:: max(1, n_fit // GAIN_TOKENS)] for x in tiles)
    return {
        "random": Method(
            f"top {k_wide} of {d_sae} frozen random unit directions, tied, one fitted gain",
            random,
        ),
        "neurons": Method(
            f"the {k_narrow} coordinates of x farthest from the train mean, kept exactly",
            Neurons(mean, k_narrow),
        ),
        "pca": Method(
            f"first {k_narrow} principal components of {n_fit} train tokens",
            PCA(tiles, mean, k_narrow),
        ),
        "mean": Method("the train mean for every token", MeanPredictor(mean)),
    }


class RandomSAE:
    """A TopK SAE that learned nothing: z = W(x − b), x̂ = b + g Σ_{i in top k} relu(z_i) W_i.

    W [L,D] are seeded random unit rows, tied; b is the train mean. Random rows are far from
    orthogonal, so Σ z_i W_i has the wrong length; the single gain g, by least squares on train
    tokens, mends that, and the baseline is no straw man.
    """

    def __init__(self, mean: Tensor, d_sae: int, k: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.directions = F.normalize(torch.randn(d_sae, len(mean), generator=generator), dim=1)
        self.mean, self.k, self.gain = mean, k, 1.0

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [N,D] -> x̂ [N,D] and the count of non-zero codes [N]."""
        raw, l0 = self._raw(x)
        return self.mean.to(x.device) + self.gain * raw, l0

    def fit_gain(self, tiles: Iterable[Tensor]) -> None:
        """g = Σ⟨x − b, r⟩ / Σ‖r‖² with r the reconstruction at gain 1, summed in fp64."""
        top, bottom = 0.0, 0.0
        for x in tiles:
            raw, _ = self._raw(x)
            top += float(((x - self.mean) * raw).sum(dtype=torch.float64))
            bottom += float(raw.square().sum(dtype=torch.float64))
        self.gain = top / bottom if bottom > 0 else 1.0

    def encode(self, x: Tensor) -> SparseCodes:
        """Its codes g·relu(z) over the top k, for probes that want features and not x̂."""
        parts = []
        directions, mean = self.directions.to(x.device), self.mean.to(x.device)
        for tile in (x.float() - mean).split(max(1, _TILE_LATENTS // len(directions))):
            parts.append(select.topk(tile @ directions.T, self.k))
        codes = SparseCodes.concat(parts)
        return codes.with_values(codes.values * self.gain)

    def _raw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        directions, mean = self.directions.to(x.device), self.mean.to(x.device)
        parts, counts = [], []
        for tile in (x.float() - mean).split(max(1, _TILE_LATENTS // len(directions))):
            values, indices = (tile @ directions.T).topk(self.k, dim=1)
            values = values.relu()
            parts.append(
                F.embedding_bag(indices, directions, per_sample_weights=values, mode="sum")
            )
            counts.append((values > 0).sum(1))
        return torch.cat(parts), torch.cat(counts)


class Neurons:
    """The model's own basis as a dictionary: x̂ = μ + the k coordinates of x − μ largest in size."""

    def __init__(self, mean: Tensor, k: int) -> None:
        self.mean, self.k = mean, k

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [N,D] -> x̂ [N,D] and the count of kept coordinates [N]."""
        mean = self.mean.to(x.device)
        centred = x.float() - mean
        indices = centred.abs().topk(self.k, dim=1).indices
        kept = torch.zeros_like(centred).scatter(1, indices, centred.gather(1, indices))
        return mean + kept, (kept != 0).sum(1)


class PCA:
    """x̂ = μ + V Vᵀ (x − μ), V [D,k] the leading eigenvectors of Σ (x−μ)(x−μ)ᵀ on train tokens.

    Products are float32 within a tile and summed in fp64 across tiles. L0 is k on every token.
    """

    def __init__(self, tiles: Iterable[Tensor], mean: Tensor, k: int) -> None:
        moment = torch.zeros(len(mean), len(mean), dtype=torch.float64)
        for x in tiles:
            centred = x - mean
            moment += (centred.T @ centred).double()
        self.mean, self.k = mean, k
        self.components = torch.linalg.eigh(moment).eigenvectors[:, -k:].float()

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [N,D] -> x̂ [N,D] and k for each token [N]."""
        mean, components = self.mean.to(x.device), self.components.to(x.device)
        x_hat = mean + (x.float() - mean) @ components @ components.T
        return x_hat, torch.full((len(x),), self.k, device=x.device)


class MeanPredictor:
    """x̂ = μ for every token: FVU 1 by definition where μ is the mean of the measured tokens."""

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [N,D] -> μ repeated [N,D] and zeros [N]."""
        mean = self.mean.to(x.device)
        return mean.expand(len(x), -1), torch.zeros(len(x), dtype=torch.int64, device=x.device)


def both_signs(axes: Tensor, mean: Tensor, k: int) -> tuple[Tensor, Encode]:
    """Each axis [n,D] and its opposite as directions; the k largest positive coordinates fire."""
    directions = F.normalize(torch.cat([axes, -axes]), dim=1)

    def encode(x: Tensor) -> Tensor:
        z = ((x - mean) @ directions.T).relu()
        top = z.topk(min(k, z.shape[1]), dim=1)
        return torch.zeros_like(z).scatter(1, top.indices, top.values)

    return directions, encode
