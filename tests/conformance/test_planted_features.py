"""A world whose features are known: every sparse recipe finds them, far better than chance.

64 unit directions in 32 dimensions, each present on 3 % of the tokens with a strength of 1 to 2.
MCC: mean cosine between true directions and decoder rows under the best one-to-one matching.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from monoscope.train import train

D, FEATURES, SHARE, N = 32, 64, 0.03, 40_000
K, BATCH, PASSES = 2, 256, 2
SPARSE: dict[str, dict[str, Any]] = {
    "topk": {"k": K},
    "batchtopk": {"k": K},
    "matryoshka": {"k": K},
    "ksparse": {"k": K},
    "bricken": {"target_l0": K},
    "templeton": {"target_l0": K},
    "gated": {"target_l0": K},
    "jumprelu": {"target_l0": K},
    "jumprelu_tanh": {"target_l0": K},
}


@cache
def _world() -> tuple[Tensor, Tensor]:
    """Tokens [N, D] and the directions [FEATURES, D] they are made of."""
    g = torch.Generator().manual_seed(0)
    directions = torch.randn(FEATURES, D, generator=g)
    directions /= directions.norm(dim=1, keepdim=True)
    present = (torch.rand(N, FEATURES, generator=g) < SHARE).float()
    strength = 1 + torch.rand(N, FEATURES, generator=g)
    return (present * strength) @ directions, directions


def _mcc(rows: Tensor, directions: Tensor) -> float:
    rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-9)
    cosine = (directions @ rows.T).double().numpy()
    return float(np.mean(cosine[linear_sum_assignment(-cosine)]))


def _chance() -> float:
    return _mcc(torch.randn(FEATURES, D, generator=torch.Generator().manual_seed(7)), _world()[1])


@pytest.mark.slow
@pytest.mark.parametrize("recipe", SPARSE)
def test_planted_features_are_found(recipe: str) -> None:
    x, directions = _world()
    run = train(
        x, d_sae=FEATURES, recipe=recipe, n_tokens=PASSES * N, batch_size=BATCH, **SPARSE[recipe]
    )
    found, chance = _mcc(run.sae.W_dec.detach(), directions), _chance()
    print(f"{recipe}: MCC {found:.3f}, chance {chance:.3f}")  # shown with pytest -s
    assert chance < 0.45
    assert found > 0.65
    assert run.metrics["fvu"] < 0.6
    if "target_l0" in SPARSE[recipe]:
        assert run.metrics["target"]["reached"]
