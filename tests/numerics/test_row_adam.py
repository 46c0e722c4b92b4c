"""The fused walk over rows against Adam written out in fp64, and the factors against autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from monoscope.ops.autograd import decode_values, encode_values
from monoscope.ops.codes import SparseCodes
from monoscope.ops.rowgrads import Factor, RowGrads, one_entry_each, open_grads
from monoscope.ops.select import Encoder
from monoscope.train.optimizer import RowAdam

N, D, L = 23, 13, 37
LR, BETAS, EPS = 3e-3, (0.8, 0.95), 1e-6


def _codes(seed: int, share: float = 0.2) -> SparseCodes:
    g = torch.Generator().manual_seed(seed)
    dense = torch.randn(N, L, generator=g) * (torch.rand(N, L, generator=g) < share)
    dense[:, 5] = 0.0  # a latent that never fires
    return SparseCodes.from_dense(dense)


def _factor(seed: int) -> Factor:
    rows = torch.randn(N, D, generator=torch.Generator().manual_seed(100 + seed))
    codes = _codes(seed)
    return Factor(codes, codes.values, rows)


def _weight(seed: int) -> Tensor:
    w = torch.randn(L, D, generator=torch.Generator().manual_seed(seed))
    return torch.nn.Parameter(w / w.norm(dim=1, keepdim=True))


class _Written:
    """Adam by its formulas in fp64, with the projection, the clipping and the unit rows."""

    def __init__(self, w: Tensor) -> None:
        self.w = w.detach().double().clone()
        self.m, self.v, self.t = torch.zeros_like(self.w), torch.zeros_like(self.w), 0

    def gradient(self, factors: list[Factor], dense: Tensor | None, unit: bool) -> Tensor:
        grad = torch.zeros_like(self.w) if dense is None else dense.double().clone()
        for f in factors:
            grad += f.codes.with_values(f.coefficients).to_dense().double().T @ f.rows.double()
        if unit:
            along = torch.einsum("ld,ld->l", grad, self.w)
            grad -= torch.einsum("l,ld->ld", along, self.w)
        return grad

    def step(self, grad: Tensor, unit: bool) -> None:
        self.t += 1
        self.m = BETAS[0] * self.m + (1 - BETAS[0]) * grad
        self.v = BETAS[1] * self.v + (1 - BETAS[1]) * grad**2
        m_hat = self.m / (1 - BETAS[0] ** self.t)
        v_hat = self.v / (1 - BETAS[1] ** self.t)
        self.w -= LR * m_hat / (v_hat.sqrt() + EPS)
        if unit:
            self.w /= self.w.norm(dim=1, keepdim=True)


def _adam(parameters: list[Tensor]) -> RowAdam:
    return RowAdam(parameters, lr=LR, betas=BETAS, eps=EPS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("max_norm", [None, 0.5, 1e6])
@pytest.mark.parametrize("with_dense", [False, True])
def test_steps_agree_with_the_formulas(
    dtype: torch.dtype, max_norm: float | None, with_dense: bool
) -> None:
    unit, free = _weight(1), _weight(2)
    unit, free = (torch.nn.Parameter(w.detach().to(dtype)) for w in (unit, free))
    bias = torch.nn.Parameter(torch.linspace(-1, 1, L, dtype=dtype))
    written = [_Written(w) for w in (unit, free, bias.reshape(1, -1))]
    optimizer = _adam([unit, free, bias])
    for t in range(5):
        grads = RowGrads()
        factors = [[_factor(3 * t + 1), _factor(3 * t + 2)], [_factor(3 * t + 3)]]
        factors = [[Factor(f.codes.with_values(f.codes.values.to(dtype)), f.coefficients.to(dtype),
                           f.rows.to(dtype)) for f in fs] for fs in factors]  # fmt: skip
        for weight, mine in zip((unit, free), factors, strict=True):
            for factor in mine:
                grads.add(weight, factor)
        dense = torch.randn(L, D, generator=torch.Generator().manual_seed(t)).to(dtype)
        unit.grad = dense.clone() if with_dense else None
        bias.grad = 0.1 * dense[:, 0]
        wanted = [
            written[0].gradient(factors[0], dense if with_dense else None, unit=True),
            written[1].gradient(factors[1], None, unit=False),
            bias.grad.double().reshape(1, -1),
        ]
        if max_norm is not None:
            norm = torch.sqrt(sum(g.square().sum() for g in wanted))
            wanted = [g * min(1.0, max_norm / (float(norm) + 1e-6)) for g in wanted]
        for w, g, is_unit in zip(written, wanted, (True, False, False), strict=True):
            w.step(g, is_unit)
        optimizer.descend(grads, unit=(unit,), max_norm=max_norm)
        optimizer.zero_grad()
    close = (
        {"rtol": 1e-4, "atol": 2e-6} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-12}
    )
    torch.testing.assert_close(unit.double(), written[0].w, **close)
    torch.testing.assert_close(free.double(), written[1].w, **close)
    torch.testing.assert_close(bias.double(), written[2].w[0], **close)
    state = optimizer.state[free]
    torch.testing.assert_close(state["exp_avg"].double(), written[1].m, **close)
    torch.testing.assert_close(state["exp_avg_sq"].double(), written[1].v, **close)


def test_a_silent_row_is_moved_by_its_momentum_alone() -> None:
    w = _weight(0)
    optimizer = _adam([w])
    grads = RowGrads()
    grads.add(w, Factor(one_entry_each(torch.tensor([5]), L), torch.ones(1), torch.ones(1, D)))
    optimizer.descend(grads)
    before = w.detach().clone()
    later = RowGrads()
    later.add(w, Factor(one_entry_each(torch.tensor([6]), L), torch.ones(1), torch.ones(1, D)))
    optimizer.descend(later)
    moved = (w.detach() != before).any(1)
    assert moved[5] and moved[6] and int(moved.sum()) == 2


def test_a_parameter_without_gradient_stays() -> None:
    w, other = _weight(0), _weight(1)
    grads = RowGrads()
    grads.add(w, _factor(0))
    optimizer = _adam([w, other])
    optimizer.descend(grads)
    assert torch.equal(other, _weight(1)) and not optimizer.state[other]


def _loss(x: Tensor, leaves: list[Tensor], choose: Callable[[], SparseCodes]) -> Tensor:
    w_enc, b_enc, w_dec, b_dec = leaves
    codes = choose()
    values = encode_values(x, w_enc, b_enc, b_dec, codes)
    return (decode_values(values, w_dec, codes) + b_dec - x).square().sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_factors_add_up_to_the_gradient_autograd_gives(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(7)
    shapes = ((L, D), (L,), (L, D), (D,))
    leaves = [torch.randn(s, generator=g, dtype=dtype).requires_grad_() for s in shapes]
    x = torch.randn(N, D, generator=g, dtype=dtype)

    def choose() -> SparseCodes:
        return Encoder(leaves[0], leaves[1]).topk(x - leaves[3].detach(), 6)

    plain = torch.autograd.grad(_loss(x, leaves, choose), leaves)
    with RowGrads() as grads:
        assert open_grads() is grads
        _loss(x, leaves, choose).backward()
    assert open_grads() is None
    assert leaves[0].grad is None and leaves[2].grad is None  # kept as factors
    for leaf, wanted in zip(leaves, plain, strict=True):
        got = grads.dense(leaf)
        assert got is not None
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_a_weight_that_is_computed_gets_its_gradient_through_autograd() -> None:
    codes, scale = _codes(1), torch.nn.Parameter(torch.tensor(2.0))
    w = _weight(3)
    with RowGrads() as grads:
        decode_values(codes.values, w * scale, codes).sum().backward()
    assert not grads.of(w) and w.grad is not None and scale.grad is not None
