"""Steps of fixed shape do what plain steps do, wait for nothing, and undo what is not proved."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from monoscope import ops
from monoscope.ops import fixed, select
from monoscope.ops.adam import AdamStep, adam_rows
from monoscope.sae import SAE, SAEConfig, activations
from monoscope.sae.normalise import Normaliser
from monoscope.sae.recipes import get_recipe
from monoscope.train import fixed as train_fixed
from monoscope.train import grid, job, optimizer, start, train
from monoscope.train.config import TrainConfig
from monoscope.train.fixed import LAG, WARM, Stepper, obstacle
from monoscope.train.state import TrainState
from monoscope.train.step import step

D, L, K, BATCH = 8, 40, 3, 32
FIXED = ["topk", "batchtopk", "matryoshka", "ksparse"]


pytestmark = pytest.mark.usefixtures("one_thread")


def batches(n: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(BATCH, D, generator=g) * 3 + 1 for _ in range(n)]


def begun(recipe: str, **settings: Any) -> tuple[TrainState, TrainConfig]:
    """A run at its start; after a few steps some latents count as dead."""
    row = get_recipe(recipe)
    sae_config = SAEConfig(d_in=D, d_sae=L, activation=row.activation, k=K)
    given = {"dead_after_tokens": 2 * BATCH, "n_tokens": 40 * BATCH} | settings
    config = TrainConfig(recipe=recipe, batch_size=BATCH, lr=1e-2, **given).resolved(sae_config)
    data = torch.cat(batches(8))
    inputs, sae = start.inputs(data, config), SAE(sae_config)
    start.initialise(sae, inputs(data), row, config, torch.Generator().manual_seed(1))
    assert config.lr is not None
    return TrainState.fresh(sae, row, config.lr, inputs, 1), config


@pytest.mark.parametrize("settings", [{}, {"k_aux": 2}, {"dead_after_tokens": 10**6}])
@pytest.mark.parametrize("recipe", FIXED)
def test_a_fixed_step_is_a_plain_one(recipe: str, settings: dict[str, Any]) -> None:
    if "k_aux" in settings and get_recipe(recipe).auxiliary is None:
        pytest.skip("no AuxK")
    row = get_recipe(recipe)
    plain, config = begun(recipe, **settings)
    state = copy.deepcopy(plain)
    state.optimizer = TrainState.fresh(state.sae, row, 1.0, state.inputs, 1).optimizer
    stepper = Stepper(state, row, config, fixed=True)
    for number, x in enumerate(batches(12)):
        wanted = step(plain, row, config, x)
        got = stepper.take(x)
        assert (got.objective.proved is not None) == (number >= WARM)
        assert float(got.objective.total.detach()) == pytest.approx(
            float(wanted.objective.total.detach()), rel=1e-4
        )
        assert got.objective.fvu == pytest.approx(wanted.objective.fvu, rel=1e-4)
        assert float(got.l0) == pytest.approx(wanted.l0)
        assert got.lr == wanted.lr
    stepper.settle()
    assert stepper.redone == 0
    assert torch.equal(state.last_fired, plain.last_fired)
    for name, value in plain.sae.state_dict().items():
        torch.testing.assert_close(state.sae.state_dict()[name], value, rtol=1e-3, atol=1e-5)
    assert state.guess == pytest.approx(plain.guess, rel=1e-4)
    assert (state.step, state.n_tokens) == (plain.step, plain.n_tokens)
    for theirs, ours in zip(plain.sae.parameters(), state.sae.parameters(), strict=True):
        a, b = plain.optimizer.state[theirs], state.optimizer.state[ours]
        assert a["step"] == b["step"]


WAITS = {
    "aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::masked_select",
    "aten::is_nonzero", "aten::equal", "aten::unique2", "aten::_unique2", "aten::bincount",
    "aten::repeat_interleave.Tensor",
}  # fmt: skip


class NoWaiting(TorchDispatchMode):
    """Fails on whatever makes the host wait for a device: values read, shapes that values decide.

    Copies of tensors made of host numbers wait too, but look like any other on a CPU; on a fake GPU
    (below) they are between devices and are told apart.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name
        full = func.name()
        given = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        if name in WAITS or (full in WAITS and not (kwargs or {}).get("output_size")):
            raise AssertionError(f"{full} waits for the device")
        if name.startswith("aten::index") and any(t.dtype == torch.bool for t in given):
            raise AssertionError(f"{full} by a mask waits for the device")
        out = func(*args, **(kwargs or {}))
        devices = {t.device.type for t in given if t.ndim or "copy" in name}
        devices |= {
            t.device.type
            for t in tree_leaves(out)
            if isinstance(t, Tensor) and (t.ndim or "copy" in name)
        }
        if len(devices) > 1:
            raise AssertionError(f"{full} moves values between {sorted(devices)}")
        return out


def counted_on_the_host(state: TrainState) -> None:
    """Adam's counts of steps are the host's own tensors, which a dispatcher cannot tell apart."""
    numbers = state.optimizer.numbers()
    state.optimizer.numbers = lambda: numbers  # type: ignore[method-assign]
    state.optimizer.count = lambda by: None  # type: ignore[method-assign]


@pytest.mark.parametrize("recipe", FIXED)
def test_a_fixed_step_never_waits(recipe: str) -> None:
    state, config = begun(recipe)
    stepper = Stepper(state, get_recipe(recipe), config, fixed=True)
    data = batches(WARM + 2)
    for x in data[:WARM]:
        stepper.take(x)
    counted_on_the_host(state)
    with NoWaiting():
        for x in data[WARM:]:
            stepper.take(x)


class Launch:
    """A kernel that is launched and does nothing."""

    def __init__(self, kernel: Any) -> None:
        self.name = kernel.__name__

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        assert grid[0] > 0
        return lambda *args, **kwargs: LAUNCHED.append(self.name)


LAUNCHED: list[str] = []


@pytest.fixture
def gpu_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The GPU's code for tensors without values, Triton's kernels launched but not run."""
    language = ModuleType("triton.language")
    language.constexpr = object  # type: ignore[attr-defined]
    triton = ModuleType("triton")
    triton.__spec__ = ModuleSpec("triton", None)
    vars(triton).update(
        jit=Launch, language=language, cdiv=lambda a, b: -(-a // b),
        next_power_of_2=lambda n: 1 << (n - 1).bit_length(),
    )  # fmt: skip
    ours = ("monoscope.ops.cuda", "monoscope.ops.triton_kernels")
    with monkeypatch.context() as patch:
        for name in ours:
            patch.delitem(sys.modules, name, raising=False)
            patch.delattr(ops, name.rpartition(".")[2], raising=False)
        patch.setitem(sys.modules, "triton", triton)
        patch.setitem(sys.modules, "triton.language", language)
        for room in (ops, optimizer, train_fixed):
            patch.setattr(room, "fast_path", lambda tensor: "cuda")
        LAUNCHED.clear()
        yield
        for name in ours:
            sys.modules.pop(name, None)
            if hasattr(ops, name.rpartition(".")[2]):
                delattr(ops, name.rpartition(".")[2])


@pytest.mark.parametrize("recipe", FIXED)
def test_the_step_of_a_gpu_never_waits_at_its_full_size(recipe: str, gpu_path: None) -> None:
    """d 2304, 65,536 latents, 8,192 tokens, on the meta device, which has shapes but no values."""
    row = get_recipe(recipe)
    shape = SAEConfig(d_in=2304, d_sae=65_536, activation=row.activation, k=64)
    config = TrainConfig(n_tokens=10**8, recipe=recipe, batch_size=8192).resolved(shape)
    with torch.device("meta"):
        sae = SAE(shape)
        if config.tied:
            sae.tie()
        one = torch.ones(())
        state = TrainState.fresh(sae, row, 1e-3, Normaliser("mean_norm", one, one), 0)
    for parameter in sae.parameters():
        state.optimizer._state_of(parameter)["step"] = torch.tensor(9.0)
    state.step = 9
    steps = Stepper(state, row, config, fixed=True)._steps
    assert steps is not None
    counted_on_the_host(state)
    raw = torch.empty(8192, 2304, device="meta")
    with NoWaiting():
        done = steps.run(raw)
    assert done.objective.total.device.type == "meta"
    kernels = {"candidates_kernel", "exact_kernel", "decode_kernel", "entry_dots_kernel"}
    assert set(LAUNCHED) >= kernels | {"adam_rows_kernel"}
    assert ("auxk" in done.objective.terms) == (row.auxiliary == "auxk")


def test_a_plain_step_waits() -> None:
    state, config = begun("topk")
    with NoWaiting(), pytest.raises(AssertionError, match="waits for the device"):
        step(state, get_recipe("topk"), config, batches(1)[0])


class Doubtful(select.Encoder):
    """Says of every second batch that its choice is not proved."""

    def fixed_topk(self, x: Tensor, k: int) -> tuple[select.SparseCodes, Tensor]:
        codes, _ = super().fixed_topk(x, k)
        return codes, x.detach()[0, 0] > float("inf")


def test_a_step_without_proof_changes_nothing_and_is_taken_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = get_recipe("topk")
    state, config = begun("topk")
    plain = copy.deepcopy(state)
    plain.optimizer = TrainState.fresh(plain.sae, row, 1.0, plain.inputs, 1).optimizer
    stepper = Stepper(state, row, config, fixed=True)
    data = batches(WARM + LAG + 2)
    for x in data[:WARM]:
        stepper.take(x), step(plain, row, config, x)
    before = {name: t.clone() for name, t in state.tensors().items() if "step" not in name}
    monkeypatch.setattr(activations, "make_encoder", Doubtful)
    for x in data[WARM : WARM + LAG]:
        stepper.take(x)
    for name, tensor in state.tensors().items():
        if "step" not in name:
            assert torch.equal(tensor, before[name]), name
    monkeypatch.undo()
    assert state.step == WARM + LAG and stepper.redone == 0
    stepper.settle()
    assert stepper.redone == LAG and state.step == WARM + LAG
    for x in data[WARM : WARM + LAG]:  # late, and one after the other
        plain.step, plain.n_tokens = WARM + LAG - 1, (WARM + LAG - 1) * BATCH
        for adam in plain.optimizer.state.values():
            adam["step"].fill_(WARM + LAG - 1)
        step(plain, row, config, x)
    for name, tensor in plain.tensors().items():
        assert torch.equal(state.tensors()[name], tensor), name


def test_a_guess_too_high_is_noticed_and_lowered() -> None:
    row = get_recipe("batchtopk")
    state, config = begun("batchtopk")
    stepper = Stepper(state, row, config, fixed=True)
    data = batches(WARM + 6)
    for x in data[:WARM]:
        stepper.take(x)
    assert stepper._steps is not None
    stepper._steps.guess.fill_(1e6)
    for x in data[WARM:]:
        stepper.take(x)
    stepper.settle()
    assert 1 <= stepper.redone <= 6 and 0 < state.guess < 1e3
    assert state.step == len(data) and state.n_tokens == len(data) * BATCH


@pytest.mark.parametrize("kind", ["random", "ties", "few"])
def test_slots_hold_the_largest_of_brute_force(kind: str) -> None:
    g = torch.Generator().manual_seed(3)
    z = torch.randn(9, 23, generator=g)
    if kind == "ties":
        z = (2 * z).round()
    if kind == "few":
        z = torch.where(torch.rand(z.shape, generator=g) < 0.1, z.abs(), -1.0)
    columns = torch.arange(23).expand_as(z)

    def best(pairs: list[tuple[float, int]], k: int) -> list[tuple[float, int]]:
        kept = sorted((p for p in pairs if p[0] > 0), key=lambda p: -p[0])[:k]
        return sorted(kept, key=lambda p: p[1])

    for k in (1, 4, 23, 30):
        codes = fixed.topk_slots(z, columns, k, 23)
        assert codes.indices.numel() == 9 * k
        for n, row in enumerate(z.tolist()):
            here = slice(n * k, (n + 1) * k)
            held = codes.indices[here] < 23
            got = list(zip(codes.values[here][held].tolist(), codes.indices[here][held].tolist(),
                           strict=True))  # fmt: skip
            assert got == best([(value, i) for i, value in enumerate(row)], k)
            assert (codes.values[here][~held] == 0).all()
        codes, least = fixed.batch_slots(z, columns, 9 * k, 23)
        assert codes.indices.numel() == 9 * k and int(codes.offsets[-1]) == 9 * k
        held = codes.indices < 23
        flat = best([(v, i) for i, v in enumerate(z.flatten().tolist())], 9 * k)
        rows = codes.rows[held]
        assert list(zip(codes.values[held].tolist(), (rows * 23 + codes.indices[held]).tolist(),
                        strict=True)) == flat  # fmt: skip
        enough = int((z > 0).sum()) >= 9 * k
        assert float(least) == (min(v for v, _ in flat) if enough else 0.0)


@pytest.mark.parametrize("unit", [False, True])
def test_adam_by_numbers_on_the_device_is_adam(unit: bool) -> None:
    g = torch.Generator().manual_seed(0)
    w = torch.nn.functional.normalize(torch.randn(7, 5, generator=g), dim=1)
    m, v, grad = torch.randn(7, 5, generator=g), torch.rand(7, 5, generator=g), torch.ones(7, 5)
    numbers = AdamStep(1e-2, 0.8, 0.95, 1e-6, t=3, scale=0.7)
    wanted = [t.clone() for t in (w, m, v)]
    adam_rows(wanted[0], grad.clone(), wanted[1], wanted[2], numbers, unit=unit)
    constants = torch.tensor(fixed.constants_of(numbers))
    got = [t.clone() for t in (w, m, v)]
    fixed.adam_rows(got[0], (), grad, got[1], got[2], constants, unit=unit)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)
    constants[-1] = 0.0
    still = [t.clone() for t in got]
    fixed.adam_rows(got[0], (), grad, got[1], got[2], constants, unit=unit)
    assert all(torch.equal(a, b) for a, b in zip(got, still, strict=True))


def test_why_steps_are_plain() -> None:
    for recipe in ("jumprelu", "gated", "bricken"):
        row = get_recipe(recipe)
        sae = SAE(SAEConfig(d_in=D, d_sae=L, activation=row.activation, k=None))
        config = TrainConfig(recipe=recipe, n_tokens=100).resolved(sae.config)
        one = torch.ones(())
        state = TrainState.fresh(sae, row, 1.0, Normaliser("none", one, one), 0)
        assert "as many latents as there happen to be" in (obstacle(state, config) or "")
    state, config = begun("topk", grad_clip=1.0)
    assert "grad_clip" in (obstacle(state, config) or "")
    state, config = begun("topk")
    assert obstacle(state, config) is None
    assert Stepper(state, get_recipe("topk"), config).plain is None  # on a CPU none is missed


@pytest.mark.parametrize("recipe", FIXED)
def test_a_run_of_fixed_steps_is_resumed_bit_for_bit(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = train_fixed.Stepper
    monkeypatch.setattr(job, "Stepper", lambda *args: made(*args, fixed=True))
    monkeypatch.setattr(grid, "CALIBRATION_TOKENS", 128)
    data = torch.cat(batches(10))
    often = {"checkpoint_every_tokens": 5 * BATCH, "dead_after_tokens": 3 * BATCH}
    asked = {"d_sae": L, "k": K, "recipe": recipe, "n_tokens": 26 * BATCH, "batch_size": BATCH,
             "settings": often, "lr": 5e-3}  # fmt: skip
    whole = train(data, **asked)
    taken = made.take

    def stopped(self: Stepper, raw: Tensor) -> Any:
        if self.state.step == 17:
            raise KeyboardInterrupt
        return taken(self, raw)

    monkeypatch.setattr(made, "take", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(data, **asked, out=tmp_path)
    monkeypatch.setattr(made, "take", taken)
    again = train(data, **asked, out=tmp_path, resume=True)
    for name, value in whole.sae.state_dict().items():
        assert torch.equal(again.sae.state_dict()[name], value), name


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", ["topk", "batchtopk", "matryoshka"])
def test_a_captured_step_is_a_plain_one(recipe: str) -> None:
    row = get_recipe(recipe)
    plain, config = begun(recipe)
    state, _ = begun(recipe)
    for one in (plain, state):
        one.sae.to("cuda")
        one.inputs, one.last_fired = one.inputs.to("cuda"), one.last_fired.to("cuda")
    stepper = Stepper(state, row, config)
    assert stepper.plain is None
    data = [x.cuda() for x in batches(16)]
    for number, x in enumerate(data):
        wanted = step(plain, row, config, x)
        if number > 2 * WARM + LAG:
            torch.cuda.set_sync_debug_mode("error")
        try:
            got = stepper.take(x)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.testing.assert_close(
            got.objective.total.detach(), wanted.objective.total.detach(), rtol=1e-3, atol=1e-4
        )
    assert stepper.captured and stepper.redone == 0
