"""What is timed: our training step, the peers', the dense step and the encoder product alone.

Each function makes its contender from the sizes and returns run(n), which does n steps. All train
on the same batches: 8 of them, sums of 24 of 4096 directions. Imports are inside the functions,
since the peers live in an environment of their own.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from itertools import count
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Run, serve

N_BATCHES, N_DIRECTIONS, N_ACTIVE = 8, 4096, 24


def batches(sizes: dict[str, Any]) -> list[Tensor]:
    """The activations [B, D] every contender sees."""
    g = torch.Generator().manual_seed(0)
    directions = torch.randn(N_DIRECTIONS, sizes["d_in"], generator=g)
    directions /= directions.norm(dim=1, keepdim=True)
    out = []
    for _ in range(N_BATCHES):
        shape = (sizes["batch_size"], N_ACTIVE)
        which = torch.randint(0, N_DIRECTIONS, shape, generator=g)
        strength = 8 * torch.rand(shape, generator=g)
        x = torch.zeros(shape[0], sizes["d_in"])
        for at in range(N_ACTIVE):
            x += strength[:, at, None] * directions[which[:, at]]
        out.append(x)
    return out


def cycle(sizes: dict[str, Any]) -> Iterator[Tensor]:
    """The batches, again and again."""
    data = [x.to(sizes.get("device", "cpu")) for x in batches(sizes)]
    for i in count():
        yield data[i % len(data)]


def _settle(sizes: dict[str, Any]) -> None:
    """Wait for a GPU to have done what it was given."""
    if sizes.get("device", "cpu") != "cpu":
        torch.cuda.synchronize()


def monoscope(sizes: dict[str, Any]) -> Run:
    """Our step as `monoscope train` runs it; sizes may name a recipe and TrainConfig fields.

    fixed, capture: as for Stepper.
    """
    from monoscope.sae import SAE, SAEConfig
    from monoscope.sae.recipes import get_recipe
    from monoscope.train import start
    from monoscope.train.config import TrainConfig
    from monoscope.train.fixed import Stepper
    from monoscope.train.state import TrainState

    data = batches(sizes)
    recipe = get_recipe(sizes.get("recipe", "topk"))
    has_k = recipe.activation in ("topk", "batchtopk")
    sae = SAEConfig(
        d_in=sizes["d_in"], d_sae=sizes["d_sae"], activation=recipe.activation,
        k=sizes["k"] if has_k else None,
    )  # fmt: skip
    config = TrainConfig(
        n_tokens=10_000 * sizes["batch_size"], recipe=sizes.get("recipe", "topk"),
        batch_size=sizes["batch_size"], **sizes.get("settings", {}),
    ).resolved(sae)  # fmt: skip
    inputs = start.inputs(torch.cat(data), config)
    model = SAE(sae)
    generator = torch.Generator().manual_seed(config.seed)
    start.initialise(model, inputs(torch.cat(data)), recipe, config, generator)
    device = sizes.get("device", "cpu")
    data = [x.to(device) for x in data]
    model, inputs = model.to(device), inputs.to(device)
    state = TrainState.fresh(model, recipe, config.lr, inputs, config.seed)
    if sizes.get("dead_share"):  # AuxK has work to do: these latents never fire
        n_dead = int(sizes["dead_share"] * sizes["d_sae"])
        with torch.no_grad():
            state.sae.b_enc[:n_dead] = -1e3
        state.last_fired[:n_dead] = -(10**12)
    stepper = Stepper(
        state, recipe, config, fixed=sizes.get("fixed"), capture=sizes.get("capture", True)
    )
    numbers = count()
    told = [False]

    def run(n: int) -> None:
        for _ in range(n):
            stepper.take(data[next(numbers) % N_BATCHES])
        stepper.settle()
        _settle(sizes)
        if device != "cpu" and not told[0]:
            told[0] = True
            how = stepper.plain or f"captured {stepper.captured}, redone {stepper.redone}"
            print(f"monoscope, fixed={sizes.get('fixed')}: {how}", file=sys.stderr)

    return run


def saelens(sizes: dict[str, Any]) -> Run:
    """SAELens' own trainer, TopK, with the auxiliary loss it has on by default."""
    warnings.filterwarnings("ignore")
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    shape = {"d_in": sizes["d_in"], "d_sae": sizes["d_sae"], "k": sizes["k"]}
    where = {"device": sizes.get("device", "cpu")}
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(**shape, aux_loss_coefficient=1.0, **where))
    data = cycle(sizes)

    def run(n: int) -> None:
        config = SAETrainerConfig(
            total_training_samples=n * sizes["batch_size"],
            train_batch_size_samples=sizes["batch_size"],
            lr_end=3e-4,
            **where,
        )
        SAETrainer(config, sae, data).fit()
        _settle(sizes)

    return run


def sparsify(sizes: dict[str, Any]) -> Run:
    """sparsify's SparseCoder with Adam and the steps its trainer takes around it; no AuxK."""
    from sparsify.config import SparseCoderConfig
    from sparsify.sparse_coder import SparseCoder

    config = SparseCoderConfig(num_latents=sizes["d_sae"], k=sizes["k"])
    coder = SparseCoder(sizes["d_in"], config, device=sizes.get("device", "cpu"))
    optimizer = torch.optim.Adam(coder.parameters(), lr=3e-4)
    data = cycle(sizes)

    def run(n: int) -> None:
        for _ in range(n):
            coder(next(data)).fvu.backward()
            coder.remove_gradient_parallel_to_decoder_directions()
            optimizer.step()
            optimizer.zero_grad()
            coder.set_decoder_norm_to_unit_norm()
        _settle(sizes)

    return run


def dense(sizes: dict[str, Any]) -> Run:
    """The step one would write first: dense codes, autograd, Adam."""
    d_in, d_sae = sizes["d_in"], sizes["d_sae"]
    w_enc = torch.nn.Parameter(torch.randn(d_in, d_sae) / d_in**0.5)
    w_dec = torch.nn.Parameter(w_enc.detach().T.clone())
    b_enc, b_dec = torch.nn.Parameter(torch.zeros(d_sae)), torch.nn.Parameter(torch.zeros(d_in))
    optimizer = torch.optim.Adam([w_enc, w_dec, b_enc, b_dec], lr=3e-4)
    data = cycle(sizes)

    def run(n: int) -> None:
        for _ in range(n):
            x = next(data)
            z = (x - b_dec) @ w_enc + b_enc
            values, columns = z.topk(sizes["k"], dim=1)
            f = torch.zeros_like(z).scatter(1, columns, values.relu())
            (f @ w_dec + b_dec - x).square().sum(1).mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def encoder_fp32(sizes: dict[str, Any]) -> Run:
    """The dense encoder product alone, fp32: the floor of every step that computes it so."""
    w = torch.randn(sizes["d_in"], sizes["d_sae"])
    data = cycle(sizes)

    @torch.no_grad()
    def run(n: int) -> None:
        for _ in range(n):
            next(data) @ w

    return run


def encoder_bf16(sizes: dict[str, Any]) -> Run:
    """The dense encoder product alone, bf16: the floor on a GPU."""
    device = sizes.get("device", "cpu")
    w = torch.randn(sizes["d_sae"], sizes["d_in"], device=device, dtype=torch.bfloat16)
    data = [x.to(device, torch.bfloat16) for x in batches(sizes)]
    numbers = count()

    @torch.no_grad()
    def run(n: int) -> None:
        for _ in range(n):
            data[next(numbers) % N_BATCHES] @ w.T
        _settle(sizes)

    return run


CONTENDERS = {
    "monoscope": monoscope,
    "monoscope_plain": lambda sizes: monoscope({**sizes, "fixed": False}),
    "monoscope_fixed": lambda sizes: monoscope({**sizes, "fixed": True, "capture": False}),
    "monoscope_graph": lambda sizes: monoscope({**sizes, "fixed": True}),
    "encoder_bf16": encoder_bf16,
    "saelens": saelens,
    "sparsify": sparsify,
    "dense": dense,
    "encoder_fp32": encoder_fp32,
}

if __name__ == "__main__":
    serve(CONTENDERS)
