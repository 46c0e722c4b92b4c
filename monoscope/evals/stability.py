"""Stability across training seeds: how many latents another training run finds again.

Decoder directions of two SAEs are matched one to one by cosine (Hungarian). SAEs trained here by
the recorded configuration, alike in all but budget and seed, or given ones, are compared; random
directions say what the same matching gives by chance. Only latents whose decoder row is not zero
take part. l0 is told beside it: SAEs of different L0 are not expected to agree.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from monoscope.artifact.checks import weights_hash
from monoscope.evals import matching
from monoscope.evals.cache import Figures
from monoscope.evals.material import NO_DIRECTIONS, Material, mean_l0
from monoscope.evals.probes import mean_over

if TYPE_CHECKING:
    from monoscope.sae import SAE

VERSION = 3
THRESHOLD = 0.7
"""Cosine from which a latent counts as found again (Paulo & Belrose 2025, arXiv 2501.16615)."""
FIGURES = ("cosine", "found", "nearest_cosine")
_REPLICATES = 1000


def depends(material: Material) -> Figures:
    """The weights of the SAEs it is compared with."""
    return {"others": [weights_hash(other) for other in material.others]}


def run(material: Material) -> Figures:
    """Pairs among the SAEs trained alike, and the given SAE against each of them."""
    if not material.has_directions:
        return {"skipped": NO_DIRECTIONS}
    others = list(material.others)
    trained = False
    if not others:
        if material.untrainable is not None:
            return {"skipped": f"no other SAEs were given; {material.untrainable}"}
        others, trained = _train(material), True
    rows = [sae.W_dec.detach().float().cpu() for sae in others]
    own = material.sae.W_dec.detach().float().cpu()
    pairs = [compare(a, b) for a, b in combinations(rows, 2)]
    generator = torch.Generator().manual_seed(material.seed)
    draws = [torch.randn(own.shape, generator=generator) for _ in range(2)]
    return {
        "between_seeds": _mean(pairs),
        "given_against_them": _mean([compare(own, other) for other in rows]),
        "chance": compare(*draws),
        "n_others": len(others),
        "l0": material.l0,
        "l0_of_others": [mean_l0(sae, material.sample) for sae in others],
        "trained_here_tokens": material.sizes.train_tokens if trained else None,
        "threshold": THRESHOLD,
    }


def compare(a: Tensor, b: Tensor) -> Figures:
    """Matched cosine of the rows of a [n,D] and b [m,D]; the smaller set is matched into the other.

    cosine: mean over the one-to-one matching (null where it would take too long). found: share of
    its pairs from THRESHOLD on. nearest_cosine: each row's nearest, which may be shared. ci: 95 %
    bootstrap over the matched rows.
    """
    a, b = a[a.norm(dim=1) > 0], b[b.norm(dim=1) > 0]
    if len(a) > len(b):
        a, b = b, a
    values = {"nearest_cosine": matching.nearest(a, b)[1]}
    if max(len(a), len(b)) <= matching.EXACT_UP_TO:
        cosine = matching.matched(a, b)[1]
        values |= {"cosine": cosine, "found": (cosine >= THRESHOLD).astype(float)}
    means = {name: mean_over(held.tolist(), _REPLICATES, 0) for name, held in values.items()}
    found: Figures = {name: means.get(name, {}).get("mean") for name in FIGURES}
    return found | {"ci": {name: means.get(name, {}).get("ci") for name in FIGURES}}


def _train(material: Material) -> list[SAE]:
    sizes = material.sizes
    made = []
    for i in range(sizes.n_seeds):
        material.tell(f"training seed {i}", i, sizes.n_seeds)
        seed = 1000 * (material.seed + 1) + i
        made.append(material.train_alike(material.store, n_tokens=sizes.train_tokens, seed=seed))
    return made


def _mean(rows: list[Figures]) -> Figures:
    """Mean and range over pairs, key by key; null where there is no pair. pairs: each of them."""
    out: Figures = {"n_pairs": len(rows), "pairs": rows}
    for key in FIGURES:
        held = [row[key] for row in rows if row[key] is not None]
        out[key] = float(np.mean(held)) if held else None
        out[f"{key}_range"] = [min(held), max(held)] if held else None
    return out
