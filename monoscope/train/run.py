"""train(): from a source of activations to a finished SAE in a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monoscope.errors import TrainingError
from monoscope.train.grid import Run, train_many
from monoscope.train.loop import Progress
from monoscope.train.order import Order


def train(
    source: Any,
    *,
    d_sae: int | None = None,
    recipe: str | None = None,
    activation: str | None = None,
    k: int | float | None = None,
    target_l0: float | None = None,
    n_tokens: int | None = None,
    batch_size: int = 2048,
    lr: float | None = None,
    seed: int = 0,
    data_seed: int | None = None,
    device: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Run:
    """Train an SAE on a store, a live model, a tensor x [N, D], or an iterator of them.

    d_sae … out, settings: see `Order`.  data_seed: of the order of the data; default seed.
    resume: go on from the newest whole checkpoint in `out`, or return the run that is finished
    there.  progress: called now and then; its notes say in plain words what goes wrong.

    Ctrl-C saves the run as it stands and raises KeyboardInterrupt. Where the data end before
    n_tokens, the schedule is finished over what there is.

    Raises ConfigError, DataError, MismatchError (resumed with other settings), OutputError (the
    folder is another's, or being written to), TrainingError (the loss is no longer finite, or the
    run has diverged; the last good checkpoint stands).
    """
    order = Order(
        d_sae=d_sae, recipe=recipe, activation=activation, k=k, target_l0=target_l0,
        n_tokens=n_tokens, lr=lr, seed=seed, settings=dict(settings or {}), out=out,
    )  # fmt: skip
    (made,) = train_many(
        source, [order], batch_size=batch_size, data_seed=seed if data_seed is None else data_seed,
        device=device, resume=resume, progress=progress,
    )  # fmt: skip
    if isinstance(made, TrainingError):
        raise made
    return made


__all__ = ["Run", "train"]
