"""What an SAE does beside encoding and decoding: precisions, another k, ties."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from monoscope.errors import ConfigError, DataError
from monoscope.sae import SAE, SAEConfig


def _sae(activation: str, k: int | None = None) -> SAE:
    sae = SAE(SAEConfig(d_in=8, d_sae=24, activation=activation, k=k))  # type: ignore[arg-type]
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g))
        sae.threshold.abs_()
    return sae


def _x() -> torch.Tensor:
    return torch.randn(50, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("activation", ["jumprelu", "batchtopk"])
def test_thresholds_stay_float32_in_any_precision(activation: str) -> None:
    sae = _sae(activation, 4 if activation == "batchtopk" else None)
    with torch.no_grad():
        sae.threshold.add_(0.1234567)
    before = sae.threshold.detach().clone()
    low = sae.bfloat16()
    assert low.W_enc.dtype == torch.bfloat16
    assert low.threshold.dtype == torch.float32 and torch.equal(low.threshold.detach(), before)
    assert isinstance(low.threshold, torch.nn.Parameter) == (activation == "jumprelu")
    codes = low.encode(_x())
    assert 0 < codes.indices.numel() < 50 * 24
    assert low.double().threshold.dtype == torch.float64


@pytest.mark.parametrize("activation", ["jumprelu", "gated"])
def test_a_new_sae_is_float32_while_a_model_loads_in_another_precision(activation: str) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)  # as transformers does, on whichever thread it loads
    try:
        sae = SAE(SAEConfig(d_in=8, d_sae=24, activation=activation, k=None))  # type: ignore[arg-type]
    finally:
        torch.set_default_dtype(before)
    assert {leaf.dtype for leaf in sae.state_dict().values()} == {torch.float32}


def test_encode_takes_another_k_for_topk_alone() -> None:
    sae, x = _sae("topk", 3), _x()
    assert int(sae.encode(x).l0.max()) == 3
    assert int(sae.encode(x, k=6).l0.max()) == 6
    few, many = sae.encode(x).to_dense(), sae.encode(x, k=6).to_dense()
    assert torch.equal(many[few > 0], few[few > 0])
    with pytest.raises(ConfigError, match="larger than d_sae"):
        sae.encode(x, k=25)
    with pytest.raises(ConfigError, match="takes k for topk only"):
        _sae("jumprelu").encode(x, k=6)


def test_a_tie_is_one_parameter_and_can_be_undone() -> None:
    sae = _sae("topk", 3)
    sae.tie()
    assert sae.W_dec is sae.W_enc and len(list(sae.parameters())) == 3
    sae.untie()
    assert sae.W_dec is not sae.W_enc and torch.equal(sae.W_dec, sae.W_enc)
    with torch.no_grad():
        sae.W_dec.add_(1.0)
    assert not torch.equal(sae.W_dec, sae.W_enc)


def test_the_wrong_width_is_refused() -> None:
    with pytest.raises(DataError, match=r"expected \[N, 8\]"):
        _sae("topk", 3).encode(torch.zeros(4, 9))


class _Elsewhere(torch.Tensor):
    """A tensor that says it is on a GPU, for machines that have none."""

    device = property(lambda self: torch.device("cuda:1"))  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (torch.zeros(3, 8, dtype=torch.int64), "wrong dtype: got torch.int64; expected float32"),
        (torch.zeros(3, 8, dtype=torch.bool), "wrong dtype: got torch.bool"),
        (torch.zeros(3, 8, dtype=torch.complex64), "wrong dtype: got torch.complex64"),
        (torch.zeros(3, 8, device="meta"), "activations are on the meta device"),
        (torch.zeros(3, 8).as_subclass(_Elsewhere), "activations on cuda:1, weights on cpu"),
        ([[0.0] * 8], "activations must be a tensor: got list"),
        (torch.zeros(8), r"wrong shape: got \[8\]"),
    ],
)
def test_what_cannot_be_encoded_is_named_at_every_entrance(x: Any, said: str) -> None:
    sae = _sae("topk", 4)
    for enter in (sae.encode, sae.choose, sae):
        with pytest.raises(DataError, match=said) as caught:
            enter(x)
        assert "\n" not in str(caught.value)


def test_weights_without_values_are_named() -> None:
    with pytest.raises(DataError, match="the SAE's weights are on the meta device"):
        _sae("topk", 4).to("meta").encode(_x())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_any_floating_dtype_is_taken_at_that_of_the_weights(dtype: torch.dtype) -> None:
    sae, x = _sae("topk", 4), _x().to(dtype)
    found, expected = sae.encode(x), sae.encode(x.float())
    assert found.values.dtype == torch.float32
    assert torch.equal(found.to_dense(), expected.to_dense())
