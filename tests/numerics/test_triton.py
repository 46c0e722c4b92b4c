"""The Triton kernels in Triton's interpreter, on the CPU, against fp64 and brute force.

The interpreter runs one program after the other in Python, so shapes are the smallest that still
have several tiles, pieces and groups, none of them full. That Triton's compiler takes the kernels
is tested too; what a GPU does with them is for tests marked gpu.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
pytest.importorskip("triton", reason="no Triton here: make test-gpu-interpreter")

from monoscope import ops  # noqa: E402
from monoscope.ops import cuda, decode, fixed, select  # noqa: E402
from monoscope.ops.adam import AdamStep, adam_rows  # noqa: E402
from monoscope.ops.codes import SparseCodes  # noqa: E402
from monoscope.ops.rowgrads import Factor, RowGrads  # noqa: E402
from monoscope.sae import SAE, SAEConfig  # noqa: E402
from monoscope.sae.recipes import get_recipe  # noqa: E402
from monoscope.train import fixed as train_fixed  # noqa: E402
from monoscope.train import optimizer, start  # noqa: E402
from monoscope.train.config import TrainConfig  # noqa: E402
from monoscope.train.state import TrainState  # noqa: E402
from monoscope.train.step import step  # noqa: E402

DEVICE = "cuda" if HAS_GPU else "cpu"
SHAPES = [(1, 3, 5), (5, 29, 11), (3, 1, 1)]  # tokens, latents, width
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def _codes(n: int, latents: int, share: float) -> SparseCodes:
    g = torch.Generator().manual_seed(0)
    dense = torch.rand(n, latents, generator=g) + 0.1
    return SparseCodes.from_dense(
        (dense * (torch.rand(n, latents, generator=g) < share)).to(DEVICE)
    )


def _padded(codes: SparseCodes, k: int) -> SparseCodes:
    """The same with room for k entries a token; what holds nothing has index L."""
    z = codes.to_dense()
    columns = torch.arange(codes.d_sae, device=DEVICE).expand_as(z)
    return fixed.topk_slots(z, columns, k, codes.d_sae)


def _double(codes: SparseCodes) -> SparseCodes:
    return codes.with_values(codes.values.double())


@pytest.mark.parametrize("share", [0.2, 0.0])
@pytest.mark.parametrize(("n", "latents", "d"), SHAPES)
def test_sparse_kernels_agree_with_fp64(
    n: int, latents: int, d: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "WIDEST", 4)  # rows in several pieces, the last not full
    codes, w, g = _codes(n, latents, share), _random(latents + 1, d, seed=1), _random(n, d, seed=2)
    w[latents] = torch.nan  # where an entry that holds nothing must not look
    w = w[:latents]
    for given in (codes, _padded(codes, 9)):
        held = given.indices < latents
        y = decode.decode(_double(codes), w.double())
        torch.testing.assert_close(cuda.decode(given, w).double(), y, **CLOSE)
        dots = cuda.entry_dots(g, given, w)
        wanted = decode.entry_dots(g.double(), codes, w.double())
        torch.testing.assert_close(dots[held].double(), wanted, **CLOSE)
        assert (dots[~held] == 0).all()
        sums = decode.row_sums(codes, codes.values.double(), g.double())
        got = cuda.row_sums(given, given.values, g).double()
        torch.testing.assert_close(got, sums, **CLOSE)


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize(("with_dense", "n_factors"), [(True, 0), (False, 1), (True, 2)])
def test_adam_rows_agree_with_fp64(unit: bool, with_dense: bool, n_factors: int) -> None:
    n, latents, d = 5, 7, 11
    w = _random(latents, d, seed=3)
    w /= w.norm(dim=1, keepdim=True)
    m, v = 0.1 * _random(latents, d, seed=4), 0.01 * _random(latents, d, seed=5).square()
    codes = [_codes(n, latents, 0.3), _padded(_codes(n, latents, 0.2), 4)]
    factors = [
        Factor(codes[f], codes[f].values, _random(n, d, seed=6 + f)) for f in range(n_factors)
    ]
    dense = _random(latents, d, seed=9) if with_dense else None
    grad = torch.zeros_like(w).double() if dense is None else dense.double()
    for f in factors:
        plain = fixed if f.codes.padded else decode
        grad += plain.row_sums(_double(f.codes), f.coefficients.double(), f.rows.double())
    adam = AdamStep(1e-2, 0.8, 0.95, 1e-6, t=3, scale=0.7)
    got, wanted = [t.clone() for t in (w, m, v)], [t.double() for t in (w, m, v)]
    cuda.adam_rows(got[0], factors, dense, got[1], got[2], adam, unit=unit)
    adam_rows(wanted[0], grad, wanted[1], wanted[2], adam, unit=unit)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-6)
    still = [t.clone() for t in got]
    constants = torch.tensor([*fixed.constants_of(adam)[:-1], 0.0], device=DEVICE)
    cuda.fixed_adam_rows(got[0], factors, dense, got[1], got[2], constants, unit=unit)
    assert all(torch.equal(a, b) for a, b in zip(got, still, strict=True))


def _brute(w: Tensor, b: Tensor, x: Tensor, k: int) -> list[list[tuple[int, float]]]:
    """Of each token its k largest positive z in fp64, the lowest latents first among equals."""
    z = (x.double() @ w.double().T + b.double()).tolist()
    rows = []
    for row in z:
        ranked = sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]
        rows.append([(i, row[i]) for i in sorted(ranked) if row[i] > 0])
    return rows


def _is_brute(codes: SparseCodes, wanted: list[list[tuple[int, float]]]) -> None:
    for n, row in enumerate(wanted):
        here = slice(int(codes.offsets[n]), int(codes.offsets[n + 1]))
        held = codes.indices[here] < codes.d_sae
        assert codes.indices[here][held].tolist() == [i for i, _ in row]
        assert codes.values[here][held].tolist() == pytest.approx([z for _, z in row], rel=1e-4)


@pytest.mark.parametrize("k", [1, 3, 40])
@pytest.mark.parametrize(("n", "latents", "d"), SHAPES)
def test_topk_is_that_of_brute_force(
    n: int, latents: int, d: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "TILE", 2)
    monkeypatch.setattr(cuda, "WIDEST", 4)
    monkeypatch.setattr(cuda, "GROUPS", 8)  # of several latents each, the last ones not full
    w, b, x = _random(latents, d, seed=1), _random(latents, seed=2), _random(n, d, seed=3)
    encoder = cuda.CudaEncoder(w, b)
    _is_brute(encoder.topk(x, k), _brute(w, b, x, k))
    codes, proved = encoder.fixed_topk(x, k)
    assert bool(proved) and encoder.fallbacks == 0
    assert codes.indices.numel() == n * k and codes.padded
    _is_brute(codes, _brute(w, b, x, k))


def test_what_has_no_room_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bias as wide as this makes every margin wider than the values are apart."""
    monkeypatch.setattr(cuda, "ROOM", 6)
    w, x = _random(29, 11, seed=1), _random(5, 11, seed=3)
    b = _random(29, seed=2) + 1e4
    encoder = cuda.CudaEncoder(w, b)
    monkeypatch.setattr(cuda, "TILE", 2)
    _, proved = encoder.fixed_topk(x, 1)
    assert not bool(proved)
    _is_brute(encoder.topk(x, 1), _brute(w, b, x, 1))
    assert encoder.fallbacks == 5


@pytest.mark.parametrize("low", [-1.0, 0.7])
@pytest.mark.parametrize("of_each", [False, True])
def test_thresholds_are_the_reference_ones(low: float, of_each: bool) -> None:
    w, b, x = _random(29, 11, seed=1), _random(29, seed=2), _random(3, 11, seed=3)
    limit = low + 2 * _random(29, seed=4) if of_each else torch.tensor(low, device=DEVICE)
    fast, plain = cuda.CudaEncoder(w, b), select.Encoder(w.double(), b.double())
    for name in ("wider", "above"):
        got, wanted = getattr(fast, name)(x, limit), getattr(plain, name)(x.double(), limit)
        assert torch.equal(got.offsets, wanted.offsets)
        assert torch.equal(got.indices, wanted.indices)
        torch.testing.assert_close(got.values.double(), wanted.values, **CLOSE)
    assert fast.fallbacks == 0


@pytest.mark.parametrize("guess", [0.0, 0.9, 1e6])
def test_the_largest_of_a_batch(guess: float) -> None:
    w, b, x = _random(29, 11, seed=1), _random(29, seed=2), _random(4, 11, seed=3)
    z = (x.double() @ w.double().T + b.double()).flatten()
    best = z.topk(12)
    assert best.values[-1] > 0.9
    fast = cuda.CudaEncoder(w, b)
    codes, least, proved = fast.fixed_batch_topk(x, 3, torch.tensor(guess, device=DEVICE))
    assert bool(proved) == (guess < 1e3) and codes.indices.numel() == 12
    if guess < 1e3:
        assert sorted((codes.rows * 29 + codes.indices).tolist()) == sorted(best.indices.tolist())
        assert float(least) == pytest.approx(float(best.values[-1]), rel=1e-4)
        eager, smallest = select.batch_topk(fast, x, 3, guess)
        assert torch.equal(eager.indices, codes.indices) and smallest == float(least)


def test_ties_go_to_the_lowest_latents() -> None:
    row = _random(1, 8, seed=0)
    w, b = row.expand(50, 8).contiguous(), torch.zeros(50, device=DEVICE)
    b[40] = 1.0
    encoder = cuda.CudaEncoder(w, b)
    for codes in (encoder.topk(row.expand(3, 8), 5), encoder.fixed_topk(row.expand(3, 8), 5)[0]):
        assert codes.indices.reshape(3, 5).tolist() == [[0, 1, 2, 3, 40]] * 3


def test_the_last_bit_decides() -> None:
    """Values that bf16 cannot tell apart, in no order."""
    steps = torch.randperm(30, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    w, b = (1 + steps * 2.0**-23)[:, None], torch.zeros(30, device=DEVICE)
    codes, proved = cuda.CudaEncoder(w, b).fixed_topk(torch.ones(2, 1, device=DEVICE), 4)
    best = sorted(steps.topk(4).indices.tolist())
    assert bool(proved) and codes.indices.reshape(2, 4).tolist() == [best] * 2


@pytest.mark.parametrize("recipe", ["topk", "matryoshka"])
def test_a_whole_step_of_the_kernels(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Selection, losses, gradients and RowAdam: a fixed step by kernels beside a plain one."""
    row = get_recipe(recipe)
    shape = SAEConfig(d_in=6, d_sae=20, activation=row.activation, k=1)
    config = TrainConfig(n_tokens=1000, recipe=recipe, batch_size=5, dead_after_tokens=11)
    config = config.resolved(shape)
    data = [_random(5, 6, seed=0).cpu() + 0.5] * 6  # others would need other guesses
    states = []
    for _ in range(2):
        inputs, sae = start.inputs(torch.cat(data), config), SAE(shape)
        start.initialise(
            sae, inputs(torch.cat(data)), row, config, torch.Generator().manual_seed(0)
        )
        state = TrainState.fresh(sae.to(DEVICE), row, 1e-2, inputs.to(DEVICE), 0)
        states.append(state)
    plain, state = states
    stepper = train_fixed.Stepper(state, row, config, fixed=True, capture=False)
    for number, x in enumerate(data):
        wanted = step(plain, row, config, x.to(DEVICE))
        with monkeypatch.context() as patch:
            if number >= train_fixed.WARM:
                for room in (ops, optimizer, train_fixed):
                    patch.setattr(room, "fast_path", lambda tensor: "cuda")
            got = stepper.take(x.to(DEVICE))
        total = got.objective.total.detach()
        assert got.objective.proved is None or bool(got.objective.proved)
        torch.testing.assert_close(total, wanted.objective.total.detach(), rtol=1e-4, atol=1e-5)
    stepper.settle()
    assert stepper.redone == 0
    for name, value in plain.sae.state_dict().items():
        torch.testing.assert_close(state.sae.state_dict()[name], value, rtol=1e-3, atol=1e-5)


def test_row_adam_walks_by_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, g = _codes(5, 7, 0.4), _random(5, 11, seed=2)
    weights = [torch.nn.Parameter(_random(7, 11, seed=1)) for _ in range(2)]
    for weight, path in zip(weights, ("cuda", None), strict=True):
        monkeypatch.setattr(optimizer, "fast_path", lambda tensor, path=path: path)
        made = optimizer.RowAdam([{"params": [weight]}], lr=1e-2)
        for _ in range(3):
            grads = RowGrads()
            grads.add(weight, Factor(codes, codes.values, g))
            made.descend(grads)
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-6)


def test_the_compiler_takes_every_kernel(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(
        [str(root), *filter(None, [os.environ.get("PYTHONPATH")])])}  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("triton_compile.py"))],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.split())) == 7


@pytest.mark.gpu
def test_kernels_at_the_size_they_are_for() -> None:
    w, b, x = _random(65_536, 2304, seed=1) / 48, torch.zeros(65_536), _random(256, 2304, seed=3)
    fast, plain = cuda.CudaEncoder(w, b.to(DEVICE)), select.Encoder(w, b.to(DEVICE))
    got, wanted = fast.topk(x, 64), plain.topk(x, 64)
    assert torch.equal(got.offsets, wanted.offsets) and torch.equal(got.indices, wanted.indices)
    torch.testing.assert_close(got.values, wanted.values, **CLOSE)
    assert fast.fallbacks == 0
