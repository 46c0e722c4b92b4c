"""What the SAE's recipe recovers of worlds whose truth is known, beside chance and baselines.

The SAE's recipe with its recorded settings (k or target_l0 set to the world's own L0, as many
latents as there are features) is trained anew on each world: it is the method that is measured
here, not the given weights. f1 and mcc depend on L0, so l0 stands beside them.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from monoscope.evals import matching, worlds
from monoscope.evals.baselines import PCA, Encode, RandomSAE, both_signs
from monoscope.evals.cache import Figures
from monoscope.evals.material import NO_DIRECTIONS, Material
from monoscope.evals.probes import mean_over
from monoscope.evals.worlds import World
from monoscope.sae.recipes import RECIPES

VERSION = 4
_TEST = 20_000
_BATCH = 512
_LR = 3e-3
_REPLICATES = 1000
_APART = 0x66312063  # "f1 c": chance's pairs are not those that the seed draws elsewhere
_DRAWS = 3


def run(material: Material) -> Figures:
    """Figures by world and method; {"skipped": …} where no trainer was given."""
    if material.untrainable is not None:
        return {"skipped": material.untrainable}
    if not material.has_directions:
        return {"skipped": NO_DIRECTIONS}
    recipe = material.sae.provenance["recipe"]
    if RECIPES[recipe].bottleneck:
        return {"skipped": f"{recipe} is for fewer latents than a world has features"}
    out: Figures = {"recipe": recipe}
    for done, kind in enumerate(worlds.KINDS):
        material.tell(f"world: {kind}", done, len(worlds.KINDS))
        out[kind] = material.part("world", VERSION, {"kind": kind}, partial(_world, material, kind))
    return out


def _world(material: Material, kind: str) -> Figures:
    world = worlds.make(kind, material.seed)
    n, seed = material.sizes.world_samples, material.seed
    trained = material.train_alike(
        world.batches(n + 64 * _BATCH, seed + 1, _BATCH), d_sae=world.n_features,
        k=max(1, round(world.l0)), target_l0=world.l0, n_tokens=n, batch_size=_BATCH, lr=_LR,
        seed=seed, device="cpu",
    )  # fmt: skip
    f, x = world.sample(_TEST, torch.Generator().manual_seed(seed + 2))
    found: Figures = {
        "sae": figures(world, f, x, trained.W_dec, lambda x: trained.encode(x).to_dense())
    }
    for name, (directions, encode) in _baselines(world, x, seed).items():
        found[name] = figures(world, f, x, directions, encode)
    found["chance_mcc"] = matching.chance(world.directions, world.n_features, seed)
    found |= _chance(world, f, trained.encode(x).to_dense(), trained.W_dec, seed)
    found["n_features"], found["l0"], found["n_samples"] = world.n_features, world.l0, n
    return found


def figures(world: World, f: Tensor, x: Tensor, directions: Tensor, encode: Encode) -> Figures:
    """How close directions [L,D] and codes come to the truth, on samples f [n,F], x [n,D].

    mcc: mean cosine of true directions with their one-to-one partners. uniqueness: share of the
    partners that are nearest to no other feature. f1: mean over features of 2PR/(P+R) of "the
    partner fires" for "the feature is active"; f1_quantiles over features. absorption: where there
    are parents, P(partner silent | parent and a child active) − P(silent | parent alone).
    ci: 95 % bootstrap over the true features, for absorption over the parents.
    """
    partner, cosine = matching.matched(world.directions, directions)
    codes = encode(x)
    fires = _fires(codes, partner)
    truth = f > 0
    f1 = _f1(fires, truth)
    by_feature = {"mcc": cosine, "uniqueness": _unique(world, directions), "f1": f1.numpy()}
    means = {
        name: mean_over(values.tolist(), _REPLICATES, world.n_features)
        for name, values in {**by_feature, "absorption": absorption(world, truth, fires)}.items()
    }
    return {
        **{name: held["mean"] for name, held in means.items()},
        "ci": {name: held["ci"] for name, held in means.items()},
        "share_over_0.9": float((cosine > 0.9).mean()),
        "f1_quantiles": {f"{q:g}": float(f1.quantile(q)) for q in (0.05, 0.25, 0.5, 0.75, 0.95)},
        "l0": float((codes > 0).double().sum(1).mean()),
    }


def absorption(world: World, truth: Tensor, fires: Tensor) -> np.ndarray:
    """For each parent how much likelier a child's presence makes its silence; empty without any.

    truth, fires [n,F] bool: the feature is active, its partner fires.
    """
    gaps = []
    for parent in world.parent[world.parent >= 0].unique().tolist():
        children = truth[:, world.parent == parent].any(1)
        with_child, alone = truth[:, parent] & children, truth[:, parent] & ~children
        if with_child.any() and alone.any():
            silent = (~fires[:, parent]).double()
            gaps.append(float(silent[with_child].mean() - silent[alone].mean()))
    return np.array(gaps)


def _fires(codes: Tensor, partner: np.ndarray) -> Tensor:
    """Whether each feature's partner fires, [n,F] bool; never where it has none (−1)."""
    return (codes[:, np.maximum(partner, 0)] > 0) & torch.from_numpy(partner >= 0)


def _f1(fires: Tensor, truth: Tensor) -> Tensor:
    both = (fires & truth).sum(0).double()
    return 2 * both / (fires.sum(0) + truth.sum(0)).clamp_min(1).double()


def _unique(world: World, directions: Tensor) -> np.ndarray:
    """Whether each feature's nearest direction is nearest to no other feature, [F]."""
    near, _ = matching.nearest(world.directions, directions.detach())
    return (np.bincount(near, minlength=len(directions))[near] == 1).astype(float)


def _chance(world: World, f: Tensor, codes: Tensor, directions: Tensor, seed: int) -> Figures:
    """uniqueness of random directions, and f1 of the same codes with their partners shuffled."""
    generator = torch.Generator().manual_seed(_APART + seed)
    partner, _ = matching.matched(world.directions, directions)
    unique, f1 = [], []
    for _ in range(_DRAWS):
        draw = torch.randn(len(directions), world.directions.shape[1], generator=generator)
        unique.append(_unique(world, draw).mean())
        shuffled = partner[torch.randperm(len(partner), generator=generator).numpy()]
        f1.append(float(_f1(_fires(codes, shuffled), f > 0).mean()))
    return {"chance_uniqueness": float(np.mean(unique)), "chance_f1": float(np.mean(f1))}


def _baselines(world: World, x: Tensor, seed: int) -> dict[str, tuple[Tensor, Encode]]:
    """Frozen random SAE, the coordinates of x, and principal components with both signs."""
    mean, k = x.mean(0), max(1, round(world.l0))
    random = RandomSAE(mean, world.n_features, k, seed + 3)
    axes = torch.eye(x.shape[1])
    components = PCA([x], mean, x.shape[1]).components.T
    return {
        "random": (random.directions, lambda x: random.encode(x).to_dense()),
        "neurons": both_signs(axes, mean, k),
        "pca": both_signs(components, mean, k),
    }
