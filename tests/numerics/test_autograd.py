"""Gradients against finite differences, in fp64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from monoscope.ops.autograd import (
    decode_values,
    encode_values,
    huber_distance,
    nested_distances,
)
from monoscope.ops.codes import SparseCodes
from monoscope.ops.select import Encoder
from monoscope.sae import SAE, SAEConfig, losses

N, D, L, K = 6, 5, 9, 3
DEAD = torch.tensor([1, 4, 8])
NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")
TERMS = ("squared_error", "relative_error", "l1", "l1_decoder_norm", "auxk")


def _sae(seed: int = 0) -> SAE:
    g = torch.Generator().manual_seed(seed)
    sae = SAE(SAEConfig(d_in=D, d_sae=L, activation="topk", k=K)).double()
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g, dtype=torch.float64))
    return sae


def _x(seed: int = 1) -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _chosen(sae: SAE, x: Tensor) -> SparseCodes:
    return Encoder(sae.W_enc, sae.b_enc).topk(x - sae.b_dec.detach(), K)


def _with_grad(sae: SAE, x: Tensor, codes: SparseCodes) -> SparseCodes:
    return codes.with_values(sae.preactivations(x, codes))


def test_encode_and_decode_pass_gradcheck() -> None:
    sae, x = _sae(), _x()
    codes = _chosen(sae, x)
    assert codes.indices.numel() > N

    def encode(w: Tensor, b: Tensor, c: Tensor) -> Tensor:
        # the forward hands on the chosen values; give it those of the moved weights
        z = ((x - c) @ w.T + b).detach()[codes.rows, codes.indices.long()]
        return encode_values(x, w, b, c, codes.with_values(z))

    inputs = [sae.W_enc, sae.b_enc, sae.b_dec]
    assert torch.autograd.gradcheck(encode, [p.detach().clone().requires_grad_() for p in inputs])
    decode_inputs = [codes.values.clone().requires_grad_(), sae.W_dec.detach().requires_grad_()]
    assert torch.autograd.gradcheck(lambda v, w: decode_values(v, w, codes), decode_inputs)


def _loss(sae: SAE, x: Tensor, chosen: SparseCodes, term: str, x_hat: Tensor | None) -> Tensor:
    """The term with the choice of latents held; values recomputed from the present weights."""
    z = ((x - sae.b_dec) @ sae.W_enc.T + sae.b_enc).detach()
    values = z[chosen.rows, chosen.indices.long()]
    codes = _with_grad(sae, x, chosen.with_values(values))
    if term in ("squared_error", "relative_error"):
        loss: Callable[[Tensor, Tensor], Tensor] = getattr(losses, term)
        return loss(x, sae.reconstruct(codes))
    if term == "l1":
        return losses.l1(codes)
    if term == "l1_decoder_norm":
        return losses.l1_decoder_norm(codes, sae.W_dec)
    assert x_hat is not None  # held, since the residual is detached
    return losses.auxk(sae, x, x_hat, DEAD, 2)


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("name", NAMES)
def test_loss_terms_agree_with_finite_differences(term: str, name: str) -> None:
    sae, x = _sae(), _x()
    chosen = _chosen(sae, x)
    x_hat = sae.reconstruct(_with_grad(sae, x, chosen)).detach()
    _loss(sae, x, chosen, term, x_hat).backward()
    parameter = dict(sae.named_parameters())[name]
    grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    expected = torch.zeros_like(parameter)
    step = 1e-6
    with torch.no_grad():
        flat, out = parameter.view(-1), expected.view(-1)
        for i in range(flat.numel()):
            was = float(flat[i])
            sides = []
            for sign in (1, -1):
                flat[i] = was + sign * step
                sides.append(float(_loss(sae, x, chosen, term, x_hat)))
            flat[i] = was
            out[i] = (sides[0] - sides[1]) / (2 * step)
    torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-7)


def test_auxk_reaches_the_dead_latents_and_only_them() -> None:
    sae, x = _sae(), _x()
    x_hat = sae.reconstruct(_with_grad(sae, x, _chosen(sae, x)))
    with torch.no_grad():
        sae.b_enc[DEAD] += 20.0  # each of them is open
    losses.auxk(sae, x, x_hat, DEAD, 3).backward()
    live = torch.ones(L, dtype=torch.bool)
    live[DEAD] = False
    for parameter in (sae.W_enc, sae.b_enc, sae.W_dec):
        assert parameter.grad is not None
        assert (parameter.grad[DEAD].reshape(3, -1).abs().sum(1) > 0).all()
        assert not parameter.grad[live].any()  # the residual is detached


def test_l1_decoder_norm_reaches_the_decoder() -> None:
    sae, x = _sae(), _x()
    losses.l1_decoder_norm(_with_grad(sae, x, _chosen(sae, x)), sae.W_dec).backward()
    assert sae.W_dec.grad is not None and sae.W_dec.grad.any()


def test_auxk_does_not_see_a_joint_shift_of_x_and_b_dec() -> None:
    sae, x = _sae(), _x()
    shift = torch.linspace(-3, 40, D, dtype=torch.float64)
    x_hat = sae.reconstruct(_chosen(sae, x)).detach()
    before = losses.auxk(sae, x, x_hat, DEAD, 2)
    with torch.no_grad():
        sae.b_dec += shift
    after = losses.auxk(sae, x + shift, x_hat + shift, DEAD, 2)
    torch.testing.assert_close(after, before, rtol=1e-10, atol=0)


def test_auxk_is_zero_without_dead_latents_and_one_when_none_fires() -> None:
    sae, x = _sae(), _x()
    assert float(losses.auxk(sae, x, x * 0, DEAD[:0], 2)) == 0.0
    with torch.no_grad():
        sae.b_enc[DEAD] = -1e6
    x_hat = x - (x - x.mean(0))  # the error has mean zero, so doing nothing costs its variance
    assert float(losses.auxk(sae, x, x_hat, DEAD, 2).detach()) == pytest.approx(1.0)


def test_relative_error_is_one_for_the_mean_and_needs_no_scale() -> None:
    x = _x()
    assert float(losses.relative_error(x, x.mean(0).expand_as(x))) == pytest.approx(1.0)
    assert float(losses.relative_error(7 * x, 7 * 0.5 * x)) == pytest.approx(
        float(losses.relative_error(x, 0.5 * x))
    )


@pytest.mark.parametrize("share", [0.4, 1.0, 1e3])
def test_huber_is_its_formula_and_has_its_gradient_at_a_fixed_bound(share: float) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(9, 5, generator=g, dtype=torch.float64)
    x_hat = (x + torch.randn(9, 5, generator=g, dtype=torch.float64)).requires_grad_()
    lengths = (x - x_hat).detach().norm(dim=1)
    bound = share * float(lengths.sort().values[4])

    def plain(x_hat: Tensor) -> Tensor:
        total = x_hat.new_zeros(())
        for r in (x - x_hat).norm(dim=1):
            total = total + (r**2 if r <= bound else bound * (2 * r - bound))
        return total

    loss, squared = huber_distance(x, x_hat, share)
    torch.testing.assert_close(loss, plain(x_hat))
    torch.testing.assert_close(squared, (x - x_hat).detach().square().sum())
    assert not squared.requires_grad
    got, expected = (torch.autograd.grad(v, x_hat)[0] for v in (loss, plain(x_hat)))
    torch.testing.assert_close(got, expected)
    longest = float(got.norm(dim=1).max())
    assert longest == pytest.approx(2 * min(bound, float(lengths.max())))


def test_huber_of_a_perfect_reconstruction_has_no_gradient() -> None:
    x = _x()
    x_hat = x.clone().requires_grad_()
    loss, _ = huber_distance(x, x_hat, 1.0)
    loss.backward()
    assert float(loss.detach()) == 0 and x_hat.grad is not None and not x_hat.grad.any()


def test_nested_distances_are_those_of_every_level_and_have_their_gradients() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(7, 5, generator=g, dtype=torch.float64)
    parts = torch.randn(3, 7, 5, generator=g, dtype=torch.float64, requires_grad=True)
    b_dec = torch.randn(5, generator=g, dtype=torch.float64, requires_grad=True)
    levels = parts.cumsum(0) + b_dec
    distances, x_hat = nested_distances(x, parts, b_dec)
    torch.testing.assert_close(distances, ((x - levels) ** 2).sum((1, 2)))
    torch.testing.assert_close(x_hat, levels[-1].detach())
    assert torch.autograd.gradcheck(lambda p, b: nested_distances(x, p, b)[0], (parts, b_dec))
