"""The Triton kernels in Triton's interpreter, on the CPU, against the reference and brute force.

What a GPU does with them (speed, and what its compiler makes of them) is for tests marked gpu.
"""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
pytest.importorskip("triton", reason="the kernels need the extra `gpu`")

from monoscope.ops import cuda, decode, select  # noqa: E402
from monoscope.ops.adam import AdamStep, adam_rows  # noqa: E402
from monoscope.ops.codes import SparseCodes  # noqa: E402
from monoscope.ops.rowgrads import Factor  # noqa: E402

DEVICE = "cuda" if HAS_GPU else "cpu"
SHAPES = [(1, 3, 5), (7, 45, 12), (11, 97, 31), (5, 32, 1), (9, 1, 4)]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def _codes(n: int, latents: int, share: float) -> SparseCodes:
    g = torch.Generator().manual_seed(0)
    dense = torch.rand(n, latents, generator=g) + 0.1
    return SparseCodes.from_dense(
        (dense * (torch.rand(n, latents, generator=g) < share)).to(DEVICE)
    )


@pytest.mark.parametrize("share", [0.05, 0.4, 0.0])
@pytest.mark.parametrize(("n", "latents", "d"), SHAPES)
def test_sparse_kernels_agree_with_the_reference(
    n: int, latents: int, d: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "WIDEST", 8)  # rows in several pieces
    codes, w, g = _codes(n, latents, share), _random(latents, d, seed=1), _random(n, d, seed=2)
    torch.testing.assert_close(cuda.decode(codes, w), decode.decode(codes, w), **CLOSE)
    torch.testing.assert_close(
        cuda.entry_dots(g, codes, w), decode.entry_dots(g, codes, w), **CLOSE
    )
    torch.testing.assert_close(
        cuda.row_sums(codes, codes.values, g), decode.row_sums(codes, codes.values, g), **CLOSE
    )


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("with_dense", [False, True])
@pytest.mark.parametrize("n_factors", [0, 1, 2])
def test_adam_rows_agree_with_the_reference(unit: bool, with_dense: bool, n_factors: int) -> None:
    n, latents, d = 9, 11, 13
    w = _random(latents, d, seed=3)
    w /= w.norm(dim=1, keepdim=True)
    m, v = 0.1 * _random(latents, d, seed=4), 0.01 * _random(latents, d, seed=5).square()
    codes = _codes(n, latents, 0.3)
    factors = [Factor(codes, codes.values, _random(n, d, seed=6 + f)) for f in range(n_factors)]
    dense = _random(latents, d, seed=9) if with_dense else None
    grad = torch.zeros_like(w) if dense is None else dense.clone()
    for f in factors:
        grad += decode.row_sums(f.codes, f.coefficients, f.rows)
    step = AdamStep(1e-2, 0.8, 0.95, 1e-6, t=3, scale=0.7)
    got, wanted = [t.clone() for t in (w, m, v)], [t.clone() for t in (w, m, v)]
    cuda.adam_rows(got[0], factors, dense, got[1], got[2], step, unit=unit)
    adam_rows(wanted[0], grad, wanted[1], wanted[2], step, unit=unit)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def _same(got: SparseCodes, wanted: SparseCodes) -> None:
    assert torch.equal(got.offsets, wanted.offsets)
    assert torch.equal(got.indices, wanted.indices)
    torch.testing.assert_close(got.values, wanted.values, **CLOSE)


@pytest.mark.parametrize("k", [1, 3, 40])
@pytest.mark.parametrize(("n", "latents", "d"), SHAPES)
def test_topk_is_the_reference_one(n: int, latents: int, d: int, k: int) -> None:
    w, b, x = _random(latents, d, seed=1), _random(latents, seed=2), _random(n, d, seed=3)
    _same(cuda.CudaEncoder(w, b).topk(x, k), select.Encoder(w, b).topk(x, k))


@pytest.mark.parametrize("low", [-1.0, 0.0, 0.7])
@pytest.mark.parametrize("of_each", [False, True])
def test_thresholds_are_the_reference_ones(low: float, of_each: bool) -> None:
    w, b, x = _random(97, 31, seed=1), _random(97, seed=2), _random(8, 31, seed=3)
    limit = low + 2 * _random(97, seed=4) if of_each else torch.tensor(low, device=DEVICE)
    fast, plain = cuda.CudaEncoder(w, b), select.Encoder(w, b)
    _same(fast.wider(x, limit), plain.wider(x, limit))
    _same(fast.above(x, limit), plain.above(x, limit))
    assert fast.fallbacks == 0


def test_tiles_and_rows_without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "TILE", 3)
    monkeypatch.setattr(cuda, "ROOM", 40)
    w, b, x = _random(97, 31, seed=1), _random(97, seed=2), _random(8, 31, seed=3)
    fast = cuda.CudaEncoder(w, b)
    zero = torch.zeros((), device=DEVICE)
    _same(fast.above(x, zero), select.Encoder(w, b).above(x, zero))
    assert 0 < fast.fallbacks <= 8
    codes, _ = select.batch_topk(fast, x, 3, 0.0)
    wanted, _ = select.batch_topk(select.Encoder(w, b), x, 3, 0.0)
    _same(codes, wanted)


def test_ties_go_to_the_lowest_latents() -> None:
    row = _random(1, 8, seed=0)
    w, b = row.expand(50, 8).contiguous(), torch.zeros(50, device=DEVICE)
    b[40] = 1.0
    got = cuda.CudaEncoder(w, b).topk(row.expand(3, 8), 5)
    assert got.indices.reshape(3, 5).tolist() == [[0, 1, 2, 3, 40]] * 3


@pytest.mark.gpu
def test_kernels_at_the_size_they_are_for() -> None:
    w, b, x = _random(65_536, 2304, seed=1) / 48, torch.zeros(65_536), _random(256, 2304, seed=3)
    fast, plain = cuda.CudaEncoder(w, b.to(DEVICE)), select.Encoder(w, b.to(DEVICE))
    _same(fast.topk(x, 64), plain.topk(x, 64))
    assert fast.fallbacks == 0
