"""What every recipe promises, on data with a known sparse structure."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monoscope.sae import SAE, SAEConfig
from monoscope.sae.recipes import RECIPES
from monoscope.sae.surgery import fold_scale, unit_decoder
from monoscope.train import start
from monoscope.train.calibrate import finish
from monoscope.train.config import TrainConfig
from monoscope.train.source import TensorStream
from monoscope.train.state import TrainState
from monoscope.train.step import step

D, L, K, BATCH, STEPS = 16, 48, 4, 128, 40
EVERY = pytest.mark.parametrize("name", list(RECIPES))


def _data(n: int = 1024) -> Tensor:
    """Three of 24 directions a token, plus a mean; norms around 20."""
    g = torch.Generator().manual_seed(0)
    directions = torch.randn(24, D, generator=g)
    mixes = torch.zeros(n, 24).scatter_(1, torch.rand(n, 24, generator=g).topk(3).indices, 1.0)
    return 3.0 * (mixes * torch.rand(n, 24, generator=g).add(0.5)) @ directions + 2.0


def _begin(name: str) -> tuple[TrainState, TrainConfig]:
    recipe = RECIPES[name]
    k = None if recipe.activation == "relu" else K
    shape = SAEConfig(d_in=D, d_sae=L, activation=recipe.activation, k=k)
    config = TrainConfig(n_tokens=BATCH * STEPS, recipe=name, batch_size=BATCH, lr=3e-3)
    config = config.resolved(shape)
    x = _data()
    scale = start.input_scale(x, recipe)
    sae = SAE(shape)
    start.initialise(sae, x * scale, recipe, torch.Generator().manual_seed(1))
    assert config.lr is not None
    return TrainState.fresh(sae, recipe, config.lr, scale, 1), config


def _train(name: str) -> tuple[TrainState, list[float], list[float]]:
    state, config = _begin(name)
    stream = TensorStream(_data(), BATCH, 0)
    fvu, l0 = [], []
    for _ in range(STEPS):
        done = step(state, RECIPES[name], config, next(stream))
        fvu.append(done.objective.fvu)
        l0.append(done.l0)
        if RECIPES[name].decoder == "unit":
            norms = state.sae.W_dec.detach().norm(dim=1)
            torch.testing.assert_close(norms, torch.ones(L), rtol=0, atol=1e-5)
    return state, fvu, l0


def _finished(name: str) -> SAE:
    state, _, _ = _train(name)
    finish(state.sae, state.scale, state.guess, [_data()])
    return state.sae


@EVERY
def test_a_short_run_lowers_the_error(name: str) -> None:
    _, fvu, l0 = _train(name)
    assert sum(fvu[-5:]) < 0.9 * sum(fvu[:5])
    if RECIPES[name].activation != "relu":
        assert max(l0) <= K  # the mean of the batch


@EVERY
def test_active_latents_at_inference(name: str) -> None:
    l0 = _finished(name).encode(_data()).l0
    assert int(l0.sum()) > 0
    if RECIPES[name].activation == "topk":
        assert int(l0.max()) <= K
    if RECIPES[name].activation == "batchtopk":
        assert float(l0.double().mean()) == pytest.approx(K, rel=1e-3)


@EVERY
def test_permuting_latents_permutes_codes(name: str) -> None:
    sae, x = _finished(name), _data(200)
    order = torch.randperm(L, generator=torch.Generator().manual_seed(2))
    other = SAE(sae.config)
    other.load_state_dict(sae.state_dict())
    with torch.no_grad():
        other.W_enc.copy_(sae.W_enc[order])
        other.b_enc.copy_(sae.b_enc[order])
        other.W_dec.copy_(sae.W_dec[order])
    torch.testing.assert_close(other.encode(x).to_dense(), sae.encode(x).to_dense()[:, order])
    torch.testing.assert_close(
        other.decode(other.encode(x)), sae.decode(sae.encode(x)), rtol=1e-5, atol=1e-4
    )


@EVERY
def test_folding_the_scale_keeps_the_reconstruction(name: str) -> None:
    state, _, _ = _train(name)
    sae, x, scale = state.sae, _data(200), 0.37
    if RECIPES[name].activation == "batchtopk":
        sae.threshold.fill_(0.3)
    before = sae.decode(sae.encode(x * scale)) / scale
    codes = sae.encode(x * scale)
    fold_scale(sae, scale)
    after = sae.encode(x)
    assert torch.equal(after.indices, codes.indices)
    torch.testing.assert_close(after.values * scale, codes.values, rtol=1e-5, atol=1e-5)
    error = (sae.decode(after) - before).norm() / before.norm()
    assert float(error) < 1e-5


def test_unit_decoder_keeps_the_reconstruction_of_relu() -> None:
    sae, x = _finished("templeton"), _data(200)
    before = sae.decode(sae.encode(x))
    unit_decoder(sae)
    torch.testing.assert_close(sae.W_dec.detach().norm(dim=1), torch.ones(L), rtol=0, atol=1e-5)
    error = (sae.decode(sae.encode(x)) - before).norm() / before.norm()
    assert float(error) < 1e-5


@EVERY
def test_a_token_is_encoded_alike_in_any_batch(name: str) -> None:
    sae, x = _finished(name), _data(300)
    together = sae.encode(x)
    for n in (0, 17, 299):
        alone = sae.encode(x[n : n + 1])
        assert torch.equal(alone.indices, together.tokens(slice(n, n + 1)).indices)
        torch.testing.assert_close(alone.values, together.tokens(slice(n, n + 1)).values)
    assert torch.equal(sae.encode(x[100:233]).indices, together.tokens(slice(100, 233)).indices)


@EVERY
def test_encode_sees_the_weights_of_the_last_step(name: str) -> None:
    """Fused Adam does not raise a parameter's version, so the version alone cannot say so."""
    state, config = _begin(name)
    x = _data(200)
    state.sae.encode(x * state.scale)
    for batch in (_data()[:BATCH], _data()[BATCH : 2 * BATCH]):
        step(state, RECIPES[name], config, batch)
        fresh = SAE(state.sae.config)
        fresh.load_state_dict(state.sae.state_dict())
        expected, got = fresh.encode(x * state.scale), state.sae.encode(x * state.scale)
        assert torch.equal(got.indices, expected.indices)
        assert torch.equal(got.values, expected.values)
