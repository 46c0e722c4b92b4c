"""Normalisations, against what they say they do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monoscope.errors import DataError
from monoscope.sae.normalise import NORMALISATIONS, Normaliser, radius


def _x(n: int = 500) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, 6, generator=g) * torch.arange(1, 7) + 4


def test_each_brings_about_what_it_names() -> None:
    x = _x()
    assert torch.equal(Normaliser.fit("none", x)(x), x)
    scaled = Normaliser.fit("mean_norm", x)(x)
    assert float(scaled.norm(dim=1).mean()) == pytest.approx(6**0.5)
    torch.testing.assert_close(scaled / scaled[0, 0], x / x[0, 0], rtol=1e-4, atol=1e-5)
    standard = Normaliser.fit("standardize", x)(x)
    torch.testing.assert_close(standard.mean(0), torch.zeros(6), rtol=0, atol=1e-5)
    torch.testing.assert_close(standard.std(0, correction=0), torch.ones(6), rtol=1e-5, atol=0)
    unit = Normaliser.fit("unit", x)(x)
    torch.testing.assert_close(unit.norm(dim=1), torch.full((500,), 6**0.5))
    cosine = torch.nn.functional.cosine_similarity(unit, x - x.mean(0))
    torch.testing.assert_close(cosine, torch.ones(500))


@pytest.mark.parametrize("kind", NORMALISATIONS)
def test_the_callers_tensor_is_left_alone(kind: str) -> None:
    x = _x()
    Normaliser.fit(kind, x)(x)  # type: ignore[arg-type]
    assert torch.equal(x, _x())


def test_a_constant_coordinate_does_not_explode() -> None:
    x = _x()
    x[:, 2] = 5.0
    assert float(Normaliser.fit("standardize", x)(x).abs().max()) < 10


def test_activations_without_any_spread_are_refused() -> None:
    with pytest.raises(DataError, match="all zero"):
        Normaliser.fit("mean_norm", torch.zeros(9, 4))
    for kind in ("standardize", "unit"):
        with pytest.raises(DataError, match="all alike"):
            Normaliser.fit(kind, torch.ones(9, 4))  # type: ignore[arg-type]


def test_a_token_at_the_centre_has_a_radius() -> None:
    assert torch.isfinite(1 / radius(torch.zeros(2, 4))).all()
