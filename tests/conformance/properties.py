"""What every recipe promises, one function a promise; test_recipes.py runs recipe × property."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from monoscope.artifact import load_sae, save_sae
from monoscope.ops.codes import SparseCodes
from monoscope.sae import SAE
from monoscope.sae.surgery import fold
from monoscope.train.config import TrainConfig
from monoscope.train.objective import Objective, objective
from monoscope.train.source import TensorStream
from monoscope.train.state import TrainState, checkpoints, read_checkpoint, save_checkpoint
from monoscope.train.step import step
from tests.conformance import reference
from tests.conformance.world import (
    BATCH,
    D,
    K,
    Variant,
    begin,
    copy_of,
    data,
    finished,
    train,
)

STEP = 1e-6  # of finite differences, in fp64


@dataclass(frozen=True)
class Property:
    """A promise: `check` raises AssertionError where it is broken; `when` says who makes it."""

    name: str
    check: Callable[[Variant], None]
    when: Callable[[Variant], bool] = lambda variant: True


def lowers_its_loss(v: Variant) -> None:
    """All terms at their full weight, over all the data; and better than the mean at the end."""
    state, config = begin(v)
    x, none = state.inputs(data()), torch.arange(0)
    weight = config.sparsity_coefficient or 0.0
    before = float(_objective(state, v, config, x, none, weight).total.detach())
    done = train(v).state
    after = _objective(done, v, config, x, none, weight)
    assert float(after.total.detach()) < 0.9 * before
    assert after.fvu < 0.95


def saves_and_loads_bitwise(v: Variant) -> None:
    sae, x = finished(v), data(200)
    with tempfile.TemporaryDirectory() as folder:
        save_sae(sae, Path(folder) / "sae", {"recipe": v.recipe})
        loaded = load_sae(Path(folder) / "sae")
    assert loaded.config == sae.config
    _same_leaves(loaded.state_dict(), sae.state_dict())
    _same_codes(loaded.encode(x), sae.encode(x))
    assert torch.equal(loaded.decode(loaded.encode(x)), sae.decode(sae.encode(x)))


def resumes_bitwise(v: Variant) -> None:
    """A run stopped, saved and brought back in other hands ends as if it had not been."""
    whole, config = begin(v)
    stream = TensorStream(data(), BATCH, 3)
    _go(whole, v, config, stream, 6)
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), whole, stream.state_dict(), {})
        about, tensors = read_checkpoint(checkpoints(Path(folder))[-1])
    _go(whole, v, config, stream, 6)
    resumed, again = begin(v)[0], TensorStream(data(), BATCH, 3)
    with torch.no_grad():
        for parameter in resumed.sae.parameters():
            parameter.add_(1.0)
    resumed.load_tensors(tensors)
    resumed.load_counters(about["counters"])
    again.load_state_dict(about["stream"])
    _go(resumed, v, config, again, 6)
    assert resumed.counters() == whole.counters()
    _same_leaves(resumed.tensors(), whole.tensors())


def toggles_change_nothing(v: Variant) -> None:
    sae, x = finished(v), data(200)
    before, weights = sae.encode(x), reference.weights_of(sae)
    for mode in (True, False, False, True, False):
        sae.train(mode)
        _same_codes(sae.encode(x), before)
    _same_leaves(sae.state_dict(), weights)


def keeps_to_k(v: Variant) -> None:
    done = train(v)
    start = done.config.k_start
    assert max(done.l0) <= max(K, start or 0)
    assert done.l0[-1] <= K
    if v.row.activation == "topk":
        assert int(finished(v).encode(data()).l0.max()) <= K


def infers_as_it_trains(v: Variant) -> None:
    """L0 at inference is that of training, by the calibrated threshold where k is shared."""
    at_inference = float(finished(v).encode(data()).l0.double().mean())
    if v.row.activation == "batchtopk":
        assert abs(at_inference - K) <= 1e-3 * K
        return
    done = train(v)
    state = done.state
    x = state.inputs(data())
    active = state.sae.activate(x, bandwidth=done.config.bandwidth or 1.0)
    dense = active.codes if isinstance(active.codes, Tensor) else active.codes.to_dense()
    assert at_inference == float((dense != 0).sum()) / len(x)


def counts_what_fires(v: Variant) -> None:
    """A latent that was selected at value zero has not fired, and L0 does not count it."""
    state, config = begin(v)
    with torch.no_grad():
        if v.row.activation in ("relu", "topk", "batchtopk", "gated", "jumprelu"):
            state.sae.b_enc[::3] -= 1e3  # never
        if v.row.activation == "jumprelu":
            state.sae.threshold[1::3] += 0.3  # near, often below
        if v.row.activation == "gated":
            state.sae.b_mag[1::3] -= 1e3  # the gate opens, the magnitude is zero
    active = state.sae.activate(state.inputs(data(40)), bandwidth=config.bandwidth or 1.0)
    dense = active.codes if isinstance(active.codes, Tensor) else active.codes.to_dense()
    on = dense.detach() != 0
    assert set(active.fired.tolist()) == set(on.any(0).nonzero()[:, 0].tolist())
    if v.row.activation != "sigmoid":  # whose units are never off
        assert active.l0 == float(on.sum()) / 40
        assert v.hidden or not on.all()


def is_alike_in_any_batch(v: Variant) -> None:
    sae, x = finished(v), data(300)
    together = sae.encode(x)
    for at in (slice(0, 1), slice(17, 18), slice(299, 300), slice(100, 233)):
        part, same = sae.encode(x[at]), together.tokens(at)
        assert torch.equal(part.indices, same.indices)
        torch.testing.assert_close(part.values, same.values, rtol=1e-4, atol=1e-5)


def permutes_with_its_latents(v: Variant) -> None:
    sae, x = finished(v), data(200)
    order = torch.randperm(v.d_sae, generator=torch.Generator().manual_seed(2))
    other = copy_of(sae)
    with torch.no_grad():
        for name in ("W_enc", "b_enc", "W_dec", *sae.rule.leaves(1)):
            getattr(other, name).copy_(getattr(sae, name)[order])
    _close(other.encode(x).to_dense(), sae.encode(x).to_dense()[:, order])
    _close(other.decode(other.encode(x)), sae.decode(sae.encode(x)))


def shifts_with_b_dec(v: Variant) -> None:
    """x and b_dec moved together: the same codes, and the same value of every loss term."""
    sae, x = finished(v).double(), data(100).double()
    shift = torch.linspace(-3, 40, D, dtype=torch.float64)
    before = sae.encode(x).to_dense()
    terms = _fp64_terms(v)
    moved = _fp64_terms(v, shift)
    with torch.no_grad():
        sae.b_dec += shift
    torch.testing.assert_close(sae.encode(x + shift).to_dense(), before, rtol=1e-8, atol=1e-8)
    assert terms.terms.keys() == moved.terms.keys()
    for name, value in terms.terms.items():
        torch.testing.assert_close(moved.terms[name], value, rtol=1e-8, atol=1e-10)


def gradients_are_right(v: Variant) -> None:
    """Every loss term × parameter, against finite differences of the plain formula in fp64."""
    state, config, x, dead = _fp64(v)
    sae = state.sae
    got = _objective(state, v, config, x, dead)
    names = {name for name, p in sae.named_parameters() if p.requires_grad}
    held = _held(v, sae, config, x)
    reached: dict[str, set[str]] = {}
    for name, value in got.terms.items():
        sae.zero_grad(set_to_none=True)
        value.backward(retain_graph=True)
        weights = reference.weights_of(sae)
        expected = reference.term(name, v, config, weights, x, held, dead, 0.7)
        torch.testing.assert_close(value.detach(), expected, rtol=1e-9, atol=1e-12)
        for parameter in sorted(names):
            numeric = _differences(
                lambda w, n=name: reference.term(n, v, config, w, x, held, dead, 0.7),  # type: ignore[misc]
                weights, parameter, tied=bool(config.tied),
            )  # fmt: skip
            if parameter == "threshold" and name != "preact":
                numeric += reference.straight_through(name, v, config, weights, x, held, 0.7)
            leaf = sae.get_parameter(parameter)
            grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            where = f"{name} in {parameter}: "
            torch.testing.assert_close(
                grad, numeric, rtol=2e-5, atol=1e-6, msg=lambda m, w=where: w + m
            )
            if grad.any():
                reached.setdefault(name, set()).add(parameter)
    for name, parameters in _must_reach(v).items():
        assert parameters <= reached.get(name, set()), (name, reached.get(name))


def folds_without_a_trace(v: Variant) -> None:
    """The folded SAE on raw x gives what the trained one gave, in raw units."""
    state = train(v).state
    sae, inputs, x = state.sae, state.inputs, data(200)
    if v.row.activation == "batchtopk":
        sae.threshold.fill_(0.5 * state.guess)
    normalised = inputs(x)
    codes = sae.encode(normalised)
    x_hat = sae.decode(codes)
    if inputs.kind == "unit":
        centred = x - inputs.shift
        x_hat = x_hat * (centred.norm(dim=1, keepdim=True) / D**0.5) + inputs.shift
    else:
        x_hat = x_hat / inputs.scale + inputs.shift
    fold(sae, inputs)
    after = sae.encode(x)
    same = (after.to_dense() > 0) == (codes.to_dense() > 0)
    assert float(same.double().mean()) > 0.9995  # rounding at the very threshold
    error = (sae.decode(after) - x_hat).norm() / x_hat.norm()
    assert float(error) < 2e-4


def forward_is_decode_of_encode(v: Variant) -> None:
    sae, x = finished(v), data(200)
    _close(sae(x).detach(), sae.decode(sae.encode(x)))
    sae(x).square().sum().backward()
    assert sae.W_dec.grad is not None and sae.W_enc.grad is not None
    assert sae.W_dec.grad.any() and sae.W_enc.grad.any()


def encodes_with_the_newest_weights(v: Variant) -> None:
    """Fused optimisers do not raise a parameter's version, so the version alone cannot say so."""
    state, config = begin(v)
    x = state.inputs(data(200))
    state.sae.encode(x)
    for batch in (data()[:BATCH], data()[BATCH : 2 * BATCH]):
        step(state, v.row, config, batch)
        _same_codes(state.sae.encode(x), copy_of(state.sae).encode(x))


def keeps_unit_rows(v: Variant) -> None:
    norms = train(v, steps=5).state.sae.W_dec.detach().norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-5)


def leaves_the_callers_tensor_alone(v: Variant) -> None:
    state, config = begin(v)
    batch = data()[:BATCH]
    before = batch.clone()
    step(state, v.row, config, batch)
    finished(v).encode(batch)
    assert torch.equal(batch, before)


def _unit_rows(v: Variant) -> bool:
    return v.row.decoder == "unit"


PROPERTIES = (
    Property("lowers its loss", lowers_its_loss),
    Property("save/load bitwise", saves_and_loads_bitwise),
    Property("resume bitwise", resumes_bitwise),
    Property("train/eval toggles", toggles_change_nothing),
    Property("L0 <= k", keeps_to_k, lambda v: v.has_k),
    Property("inference L0 = trained L0", infers_as_it_trains),
    Property("counts what fires", counts_what_fires),
    Property("any batch alike", is_alike_in_any_batch),
    Property("latent permutation", permutes_with_its_latents),
    Property("joint shift of x, b_dec", shifts_with_b_dec),
    Property("gradients, fp64", gradients_are_right),
    Property("folding", folds_without_a_trace),
    Property("forward", forward_is_decode_of_encode),
    Property("newest weights", encodes_with_the_newest_weights),
    Property("unit decoder rows", keeps_unit_rows, _unit_rows),
    Property("caller's tensor", leaves_the_callers_tensor_alone),
)


def _must_reach(v: Variant) -> dict[str, set[str]]:
    """Which parameters each term has to move, at the least."""
    row = v.row
    encoder = {"W_enc", "b_enc"}
    decoder = set() if row.tied else {"W_dec"}
    reach: dict[str, set[str]] = {"reconstruction": {"W_enc", *decoder}}
    if row.activation == "gated":  # the gate's bias learns from the gate path alone
        reach["reconstruction"] |= {"b_mag", "r_mag"}
        reach |= {"sparsity": set(encoder), "gate": set(encoder)}
    else:
        reach["reconstruction"] |= {"b_enc"}
    if row.sparsity in ("l1_decoder_norm", "l0_tanh"):
        reach["sparsity"] = encoder | decoder
    if row.sparsity == "l0_step":
        reach["sparsity"] = {"threshold"}
    if row.sparsity == "kl":
        reach["sparsity"] = set(encoder)
    if row.activation == "jumprelu":
        reach["reconstruction"] |= {"threshold"}
    if row.auxiliary == "auxk":
        reach["auxk"] = encoder | decoder
    if row.auxiliary == "preact":
        reach["preact"] = encoder | decoder | {"threshold"}
    return reach


def _fp64(v: Variant) -> tuple[TrainState, TrainConfig, Tensor, Tensor]:
    """A run of a few steps, in fp64, with a small batch and some latents taken for dead."""
    done = train(v, steps=3)
    state, config = done.state, done.config
    state.sae.double()
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in state.sae.parameters():  # away from ties and exact zeros
            noise = torch.randn(parameter.shape, generator=g, dtype=torch.float64)
            if parameter.requires_grad:
                parameter.add_(0.02 * noise)
        if v.row.activation == "jumprelu":
            state.sae.threshold.clamp_min_(0.05)
    dead = torch.arange(1, v.d_sae, 7) if v.row.auxiliary == "auxk" else torch.arange(0)
    return state, config, state.inputs(data(24)).double(), dead


def _objective(
    state: TrainState, v: Variant, config: TrainConfig, x: Tensor, dead: Tensor, weight: float = 0.7
) -> Objective:
    active = state.sae.activate(x, k=K if v.has_k else None, bandwidth=config.bandwidth or 1.0)
    return objective(state.sae, v.row, config, x, active, dead, weight)


def _fp64_terms(v: Variant, shift: Tensor | None = None) -> Objective:
    state, config, x, dead = _fp64(v)
    if shift is not None:
        with torch.no_grad():
            state.sae.b_dec += shift
        x = x + shift
    return _objective(state, v, config, x, dead)


def _held(v: Variant, sae: SAE, config: TrainConfig, x: Tensor) -> reference.Held:
    active = sae.activate(x, k=K if v.has_k else None, bandwidth=config.bandwidth or 1.0)
    chosen = active.gate if active.gate is not None else active.codes
    dense = chosen if isinstance(chosen, Tensor) else chosen.to_dense()
    x_hat = sae.reconstruct(active.codes).detach()
    on = (dense.detach() != 0).double()
    return reference.Held(on, x_hat, sae.W_dec.detach().clone(), sae.b_dec.detach().clone())


def _differences(
    loss: Callable[[dict[str, Tensor]], Tensor],
    weights: dict[str, Tensor],
    name: str,
    *,
    tied: bool,
) -> Tensor:
    """Central differences of loss in the entries of one parameter.

    At most about 40, evenly spread; the rest is filled in by autograd of the same plain formula.
    """
    leaf = weights[name].clone().requires_grad_()
    both = {"W_enc", "W_dec"} if tied and name == "W_enc" else {name}
    value = loss({**weights, **dict.fromkeys(both, leaf)})
    grad = torch.zeros_like(leaf)
    if value.requires_grad:
        grad = torch.autograd.grad(value, leaf, allow_unused=True)[0]
        grad = torch.zeros_like(leaf) if grad is None else grad.clone()
    flat = weights[name].reshape(-1)
    for i in range(0, flat.numel(), max(1, flat.numel() // 40)):
        sides = []
        for sign in (1, -1):
            moved = flat.clone()
            moved[i] += sign * STEP
            moved = moved.reshape(weights[name].shape)
            sides.append(float(loss({**weights, **dict.fromkeys(both, moved)})))
        grad.view(-1)[i] = (sides[0] - sides[1]) / (2 * STEP)
    return grad


def _go(
    state: TrainState, v: Variant, config: TrainConfig, stream: TensorStream, steps: int
) -> None:
    for _ in range(steps):
        step(state, v.row, config, next(stream))


def _close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3)


def _same_leaves(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(got[name], expected[name])] == []


def _same_codes(got: SparseCodes, expected: SparseCodes) -> None:
    assert torch.equal(got.indices, expected.indices)
    assert torch.equal(got.values, expected.values)
    assert torch.equal(got.offsets, expected.offsets)
