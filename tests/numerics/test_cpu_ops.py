"""The numba loops against brute force in fp64, and the bf16 selections against plain selections.

A chosen set can only differ from the fp64 one where two pre-activations are closer than fp32 can
tell; `_assert_same_choice` allows that and nothing else.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from monoscope.ops import cpu, cpu_select, decode, select
from monoscope.ops.codes import SparseCodes

SHAPES = [(1, 3, 5), (1, 33, 16), (7, 45, 12), (300, 97, 31), (5, 32, 1), (258, 1, 4)]


def _codes(n: int, latents: int, share: float, seed: int = 0) -> SparseCodes:
    g = torch.Generator().manual_seed(seed)
    dense = torch.rand(n, latents, generator=g) + 0.1
    return SparseCodes.from_dense(dense * (torch.rand(n, latents, generator=g) < share))


def _weights(latents: int, d: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(latents, d, generator=g), 0.3 * torch.randn(latents, generator=g)


def _x(n: int, d: int, seed: int = 2) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def _exact_z(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return x.double() @ w.double().T + b.double()


def _assert_same_choice(got: SparseCodes, z: Tensor, wanted: Tensor, slack: Tensor) -> None:
    """got chose `wanted` [N, L] bool, but for entries within slack [N] of each row's limit."""
    chosen = torch.zeros_like(wanted)
    chosen[got.rows, got.indices.long()] = True
    for n in (chosen != wanted).any(1).nonzero()[:, 0].tolist():
        # a swap is fair only between values that fp32 cannot tell apart
        ours, theirs = z[n][chosen[n] & ~wanted[n]], z[n][wanted[n] & ~chosen[n]]
        odd = torch.cat([ours, theirs])
        limit = z[n][wanted[n]].min() if wanted[n].any() else z.new_zeros(())
        assert ((odd - limit).abs().le(slack[n]) | odd.abs().le(slack[n])).all(), f"row {n}: {odd}"
    assert torch.equal(got.indices, torch.cat([c.nonzero()[:, 0] for c in chosen]).int())
    expected = z[got.rows, got.indices.long()]
    assert (got.values.double() - expected).abs().le(slack[got.rows]).all()


def _slack(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """What fp32 can be off by, [N]: a few roundings of terms no larger than ‖x‖·max‖w‖ + |b|."""
    return 4e-7 * (x.norm(dim=1) * w.norm(dim=1).max() + b.abs().max()).double() + 1e-12


def _topk_mask(z: Tensor, k: int) -> Tensor:
    top = z.topk(min(k, z.shape[1]), dim=1).indices
    return torch.zeros_like(z, dtype=torch.bool).scatter_(1, top, True) & (z > 0)


def _check_topk(x: Tensor, w: Tensor, b: Tensor, k: int) -> cpu_select.Bf16Encoder:
    encoder = cpu_select.Bf16Encoder(w, b)
    z = _exact_z(x, w, b)
    _assert_same_choice(encoder.topk(x, k), z, _topk_mask(z, k), _slack(x, w, b))
    return encoder


def _check_above(x: Tensor, w: Tensor, b: Tensor, theta: Tensor) -> cpu_select.Bf16Encoder:
    encoder = cpu_select.Bf16Encoder(w, b)
    z = _exact_z(x, w, b)
    codes = encoder.above(x, theta)
    wanted = z > theta.double().clamp_min(0)
    slack = _slack(x, w, b)
    chosen = torch.zeros_like(wanted)
    chosen[codes.rows, codes.indices.long()] = True
    odd = chosen != wanted
    assert ((z - theta.double().clamp_min(0)).abs() <= slack[:, None])[odd].all()
    expected = z[codes.rows, codes.indices.long()]
    assert (codes.values.double() - expected).abs().le(slack[codes.rows]).all()
    return encoder


@pytest.mark.parametrize("share", [0.02, 0.3, 1.0, 0.0])
@pytest.mark.parametrize(("n", "latents", "d"), SHAPES)
def test_loops_agree_with_fp64(n: int, latents: int, d: int, share: float) -> None:
    codes = _codes(n, latents, share)
    w, _ = _weights(latents, d)
    g = _x(n, d)
    dense, values = codes.to_dense().double(), codes.values
    torch.testing.assert_close(
        cpu.decode(codes, w).double(), dense @ w.double(), rtol=1e-5, atol=1e-5
    )
    dots = (g.double() @ w.double().T)[codes.rows, codes.indices.long()]
    torch.testing.assert_close(cpu.entry_dots(g, codes, w).double(), dots, rtol=1e-5, atol=1e-5)
    sums = dense.T @ g.double()
    torch.testing.assert_close(cpu.row_sums(codes, values, g).double(), sums, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(decode.decode(codes, w), cpu.decode(codes, w), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("d", [1, 12, 31, 576])
def test_a_dot_is_the_same_whatever_is_beside_it(d: int) -> None:
    """Rows are taken four at a time; equal ones have equal dots in each place, to the bit."""
    w, _ = _weights(1, d)
    g = _x(1, d)
    alone = cpu.entry_dots(g, SparseCodes.from_dense(torch.eye(1, 512)), w.expand(512, d))
    for n in range(1, 10):
        some = torch.zeros(1, 512)
        some[0, :n] = 1
        dots = cpu.entry_dots(g, SparseCodes.from_dense(some), w.expand(512, d).contiguous())
        assert dots.eq(alone).all() and dots.shape == (n,)


def test_both_roads_are_taken() -> None:
    assert cpu._is_dense(_codes(7, 45, 0.3))
    assert not cpu._is_dense(_codes(300, 97, 0.02))


@pytest.mark.parametrize("k", [1, 3, 32, 1000])
@pytest.mark.parametrize(("n", "latents", "d"), SHAPES)
def test_topk_is_exact(n: int, latents: int, d: int, k: int) -> None:
    w, b = _weights(latents, d)
    _check_topk(_x(n, d), w, b, k)


@pytest.mark.parametrize("low, high", [(-32768, 32767), (-300, 300), (-1, 1), (127, 129)])
def test_the_kth_largest_key_is_that_of_a_sort(low: int, high: int) -> None:
    rng, bins = np.random.default_rng(0), np.empty(256, np.int32)
    for n in (1, 2, 7, 300):
        keys = rng.integers(low, high + 1, n).astype(np.int16)
        keys[-1:] = high if n % 2 else low
        ordered = np.sort(keys)[::-1]
        found = [cpu_select._kth_largest_key(keys, n, k, bins) for k in range(1, n + 1)]
        assert found == ordered.tolist()


def test_topk_with_fewer_positives_than_k() -> None:
    w, b = _weights(601, 40)
    encoder = _check_topk(_x(90, 40), w, b - 12.0, 40)  # some 3 % are positive
    assert encoder.topk(_x(90, 40), 40).l0.float().mean() < 30


def test_values_just_above_zero_are_kept() -> None:
    """z is as often 1e-4 as −1e-4 here, and bf16 cannot tell which: both must be candidates."""
    w, _ = _weights(211, 24)
    x = _x(50, 24)
    w = w - (w @ x[0] / x[0].square().sum())[:, None] * x[0]  # every z of row 0 is about 0 …
    b = 1e-4 * torch.randn(211, generator=torch.Generator().manual_seed(5))  # … plus its bias
    _check_above(x[:1], w, b, torch.zeros(()))
    _check_topk(x[:1], w, b, 150)
    kept = cpu_select.Bf16Encoder(w, b).above(x[:1], torch.zeros(())).indices.numel()
    assert kept == int((_exact_z(x[:1], w, b) > 0).sum())


def test_heavy_tails_and_large_biases() -> None:
    g = torch.Generator().manual_seed(3)
    w, b = _weights(1237, 48)
    w = w * torch.exp(1.5 * torch.randn(1237, 1, generator=g))
    x = _x(64, 48) * torch.exp(2.0 * torch.randn(64, 1, generator=g))
    x[:, 7] *= 300.0  # one massive dimension, as residual streams have
    _check_topk(x, w, b, 17)
    _check_topk(x, w, 50.0 * torch.randn(1237, generator=g), 17)
    _check_above(x, w, 50.0 * torch.randn(1237, generator=g), torch.tensor(20.0))
    _check_topk(x, w, torch.full((1237,), 1000.0), 17)


def test_ties_go_to_the_lowest_latents() -> None:
    row = torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
    w, b = row.expand(100, 8).contiguous(), torch.zeros(100)
    b[60] = 1.0
    got = cpu_select.Bf16Encoder(w, b).topk(row.expand(3, 8), 5)
    assert got.indices.reshape(3, 5).tolist() == [[0, 1, 2, 3, 60]] * 3


def test_thresholds_per_latent() -> None:
    w, b = _weights(333, 20)
    theta = torch.rand(333, generator=torch.Generator().manual_seed(4)) * 6 - 1
    _check_above(_x(70, 20), w, b, theta)
    _check_above(_x(70, 20), w, b, torch.zeros(333))


def test_a_full_room_falls_back_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_select, "ROOM", 4)
    w, b = _weights(333, 20)
    encoder = _check_above(_x(70, 20), w, b, torch.tensor(0.5))
    assert encoder.fallbacks == 70


def test_topk_falls_back_where_bf16_cannot_tell() -> None:
    g = torch.Generator().manual_seed(0)
    w = torch.randn(1, 16, generator=g) + 1e-5 * torch.randn(700, 16, generator=g)
    x = w[:1].expand(3, 16) * torch.tensor([[1.0], [2.0], [-1.0]])
    encoder = _check_topk(x, w, torch.zeros(700), 2)
    assert encoder.fallbacks == 2  # the third row has nothing positive: nothing to decide


def test_no_fallback_on_ordinary_data() -> None:
    w, b = _weights(2048, 64)
    assert _check_topk(_x(200, 64), w, b, 32).fallbacks == 0


@pytest.mark.parametrize("guess", [0.0, 0.5, 7.0, 1e9])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (45, 4), (300, 97), (9, 200)])
def test_batch_topk_is_exact_whatever_the_guess(n: int, k: int, guess: float) -> None:
    w, b = _weights(97, 12)
    x = _x(n, 12)
    codes, smallest = select.batch_topk(cpu_select.Bf16Encoder(w, b), x, k, guess)
    z = _exact_z(x, w, b)
    best = z.flatten().sort(descending=True).values
    best = best[: n * k][best[: n * k] > 0]
    got = codes.values.double().sort(descending=True).values
    assert got.shape == best.shape
    torch.testing.assert_close(got, best, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        codes.values.double(), z[codes.rows, codes.indices.long()], rtol=1e-5, atol=1e-5
    )
    assert smallest == float(codes.values.min())


def test_nothing_positive_gives_no_codes() -> None:
    w, b = _weights(97, 12)
    encoder = cpu_select.Bf16Encoder(w, b - 1000.0)
    assert encoder.topk(_x(5, 12), 3).indices.numel() == 0
    codes, smallest = select.batch_topk(encoder, _x(5, 12), 3, 1.0)
    assert codes.n_tokens == 5 and codes.indices.numel() == 0 and smallest == 0.0


def test_a_bias_rounded_up_is_the_least_bf16_not_below() -> None:
    g = torch.Generator().manual_seed(0)
    sizes = 10.0 ** torch.randint(-9, 9, (500,), generator=g)
    bias = torch.cat([torch.randn(500, generator=g) * sizes,
                      torch.tensor([0.0, -0.0, 1.0, -1.0, -torch.inf, 1e-39, -1e-39])])  # fmt: skip
    up = cpu_select._rounded_up(bias)
    assert (up.float() >= bias).all()
    below = torch.nextafter(up, torch.tensor(-torch.inf, dtype=torch.bfloat16))
    finite = bias > -torch.inf
    assert (below.float() < bias)[finite].all() and torch.isinf(up[~finite]).all()


def test_silent_biases_cost_no_proof() -> None:
    w, b = _weights(2048, 64)
    b[: 2048 // 2] = -1e4
    assert _check_topk(_x(50, 64), w, b, 32).fallbacks == 0
    b[: 2048 // 2] = -torch.inf
    got = cpu_select.Bf16Encoder(w, b).topk(_x(50, 64), 32)
    assert int(got.indices.min()) >= 1024 and (got.l0 == 32).all()


def test_values_above_a_limit_of_any_sign() -> None:
    w, b = _weights(333, 20)
    x = _x(70, 20)
    for low in (torch.tensor(-1.5), torch.linspace(-3, 1, 333)):
        fast, plain = cpu_select.Bf16Encoder(w, b).wider(x, low), select.Encoder(w, b).wider(x, low)
        slack, z = _slack(x, w, b), _exact_z(x, w, b)
        wanted = z > low.double()
        chosen = torch.zeros_like(wanted)
        chosen[fast.rows, fast.indices.long()] = True
        assert ((z - low.double()).abs() <= slack[:, None])[chosen != wanted].all()
        assert abs(fast.indices.numel() - plain.indices.numel()) <= 2


def test_the_largest_codes_are_the_reference_ones() -> None:
    codes = _codes(50, 97, 0.3)
    codes = codes.with_values((codes.values * 8).round())  # many equal
    w, b = _weights(97, 4)
    for count in (1, 7, 200, codes.indices.numel(), 10**6):
        fast, plain = (
            cpu_select.Bf16Encoder(w, b).largest(codes, count),
            select.largest(codes, count),
        )
        for ours, theirs in ((fast.indices, plain.indices), (fast.offsets, plain.offsets),
                             (fast.values, plain.values)):  # fmt: skip
            assert torch.equal(ours, theirs)
