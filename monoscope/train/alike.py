"""alike(): train once more as a given SAE was trained, on other data, at another budget or size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monoscope.errors import ConfigError
from monoscope.sae import SAE
from monoscope.sae.config import WITH_K
from monoscope.sae.recipes import Recipe, get_recipe
from monoscope.train.config import TrainConfig
from monoscope.train.order import SETTINGS
from monoscope.train.run import Run, train

_OF_BUDGET = ("dead_after_tokens", "resample_every_tokens")
_OF_SIZE = ("k_aux", "k_start", "sparsity_coefficient")
_NEVER = ("hidden", "checkpoint_every_tokens")  # the first is the SAE's; the second changes nothing


def alike(
    sae: SAE,
    source: Any,
    *,
    n_tokens: int,
    seed: int,
    d_sae: int | None = None,
    k: int | None = None,
    target_l0: float | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    device: str | None = None,
) -> Run:
    """Train on `source` by the configuration that `sae` recorded; what is given here replaces it.

    k, target_l0: latents a token, whichever of the two the recipe takes; the other is left out.
    lr: in place of the recipe's default, times the factor by which the recorded one differed.
    At another budget what counts tokens of the run (dead_after_tokens, resample_every_tokens)
    follows the recipe's rule; at another size, so do k_aux, k_start and sparsity_coefficient.

    Raises ConfigError for an SAE that does not say its recipe, and what `train` raises.
    """
    name = sae.provenance.get("recipe")
    if not name:
        raise ConfigError("the SAE does not say by which recipe it was trained")
    row = get_recipe(str(name))
    held = recorded(sae)
    batch = batch_size or held.get("batch_size") or 2048
    settings = _settings(held, str(name), n_tokens, resized=d_sae is not None)
    if target_l0 is not None:
        settings.pop("rho", None)  # it follows from the target
    if sae.config.hidden:
        settings["hidden"] = list(sae.config.hidden)
    width = d_sae or sae.config.d_sae
    wanted = held.get("target_l0") if target_l0 is None else target_l0
    if wanted is not None and wanted < 1:
        wanted = wanted / width  # for `train` a number below 1 is a share
    return train(
        source,
        d_sae=width,
        recipe=str(name),
        k=(k or sae.config.k) if row.activation in WITH_K else None,
        target_l0=wanted if row.sparsity is not None else None,
        n_tokens=n_tokens,
        batch_size=batch,
        lr=_lr(held, row, sae.config.d_sae, lr, row.default_lr(width, n_tokens // batch)),
        seed=seed,
        device=device,
        settings=settings,
    )


def recorded(sae: SAE) -> Mapping[str, Any]:
    """The training configuration in an SAE's provenance; empty where there is none."""
    whole = sae.provenance.get("config")
    held = whole.get("train") if isinstance(whole, Mapping) else None
    return held if isinstance(held, Mapping) else {}


def _settings(held: Mapping[str, Any], recipe: str, n_tokens: int, resized: bool) -> dict[str, Any]:
    """The recorded settings that hold at this budget and size, and that the recipe has a use for.

    An older version recorded zeros for what a recipe does not have.
    """
    leave = {*_NEVER, *(_OF_SIZE if resized else ())}
    if resized or held.get("n_tokens") != n_tokens:
        leave |= set(_OF_BUDGET)
    out = {}
    for name in SETTINGS:
        value = held.get(name)
        if value is None or name in leave:
            continue
        try:
            TrainConfig(n_tokens=n_tokens, recipe=recipe, **{name: value})
        except ConfigError:
            continue
        out[name] = value
    if "k_start" not in out and get_recipe(recipe).k_start is None:
        out.pop("k_anneal_fraction", None)
    return out | (held.get("overrides") or {})


def _lr(
    held: Mapping[str, Any], row: Recipe, d_sae: int, given: float | None, default: float
) -> float | None:
    """The recorded lr as a multiple of the recipe's default then, of `given` or the default now."""
    if not held.get("lr"):
        return given
    then = row.default_lr(d_sae, int(held["n_tokens"]) // int(held["batch_size"]))
    factor = float(held["lr"]) / then
    if abs(factor - 1) < 1e-9:
        return given
    return min(1.0, factor * (default if given is None else given))
