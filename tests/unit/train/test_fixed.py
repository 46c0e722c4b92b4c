"""Steps of fixed shape do what plain steps do, wait for nothing, and undo what is not proved."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from monoscope.ops import fixed, select
from monoscope.sae import SAE, SAEConfig
from monoscope.sae.recipes import get_recipe
from monoscope.train import start
from monoscope.train.config import TrainConfig
from monoscope.train.fixed import LAG, WARM, Stepper, _Steps, obstacle
from monoscope.train.state import TrainState
from monoscope.train.step import step

D, L, K, BATCH = 8, 40, 3, 32
FIXED = ["topk", "batchtopk", "matryoshka", "ksparse"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
