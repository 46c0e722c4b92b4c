"""Every recipe keeps every promise of properties.py, and the few that only some of them make."""

from __future__ import annotations

import pytest
import torch

from monoscope.sae.surgery import unit_decoder
from tests.conformance.properties import PROPERTIES, Property
from tests.conformance.world import VARIANTS, Variant, data, finished

PROMISED = [
    pytest.param(variant, promise, id=f"{variant}-{promise.name}")
    for variant in VARIANTS
    for promise in PROPERTIES
    if promise.when(variant)
]


@pytest.mark.parametrize(("variant", "promise"), PROMISED)
def test_recipe_keeps_its_promise(variant: Variant, promise: Property) -> None:
    promise.check(variant)


@pytest.mark.parametrize("recipe", ["templeton", "jumprelu_tanh", "gated"])
def test_unit_decoder_keeps_the_reconstruction(recipe: str) -> None:
    sae, x = finished(Variant(recipe)), data(200)
    with torch.no_grad():
        sae.W_dec.mul_(torch.linspace(0.5, 2.0, sae.d_sae)[:, None])
    before = sae.decode(sae.encode(x))
    unit_decoder(sae)
    norms = sae.W_dec.detach().norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-5)
    error = (sae.decode(sae.encode(x)) - before).norm() / before.norm()
    assert float(error) < 1e-4
