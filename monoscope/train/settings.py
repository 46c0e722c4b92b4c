"""Which settings there are: their ranges, and the recipes that each of them goes with."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from monoscope.errors import ConfigError
from monoscope.sae.config import (
    LARGEST,
    WITH_K,
    check_keys,
    require_int,
    require_number,
    require_one_of,
    shown,
)
from monoscope.sae.recipes import RECIPES, Recipe

MOST_TOKENS = 2**53  # beyond it a float no longer tells two counts apart
MOST_SEED = 2**32 - 1
# low, high, and whether low itself is excluded
RANGES: dict[str, tuple[float, float, bool]] = {
    "lr": (0.0, 1.0, False),
    "warmup_fraction": (0.0, 1.0, False),
    "decay_fraction": (0.0, 1.0, False),
    "sparsity_coefficient": (0.0, 1e6, False),
    "sparsity_warmup_fraction": (0.0, 1.0, False),
    "auxk_coefficient": (0.0, 1e3, False),
    "preact_coefficient": (0.0, 1e3, False),
    "bandwidth": (0.0, 1e3, True),
    "rho": (0.0, 0.999, True),
    "k_anneal_fraction": (0.0, 1.0, False),
    "grad_clip": (0.0, 1e6, True),
}
WHOLE: dict[str, tuple[int, int]] = {
    "n_tokens": (1, MOST_TOKENS),
    "batch_size": (2, LARGEST),
    "seed": (0, MOST_SEED),
    "checkpoint_every_tokens": (0, MOST_TOKENS),
    "k_aux": (1, LARGEST),
    "dead_after_tokens": (1, MOST_TOKENS),
    "resample_every_tokens": (1, MOST_TOKENS),
}
# Settings that only some recipes have: not among the recipe's defaults, not accepted.
OF_SOME = (
    "sparsity_coefficient",
    "sparsity_warmup_fraction",
    "auxk_coefficient",
    "preact_coefficient",
    "bandwidth",
    "rho",
    "prefixes",
    "tied",
    "k_anneal_fraction",
)
# Fields of a recipe's own row that a run may have otherwise, with their ranges as above.
_ROW_RANGES: dict[str, tuple[float, float, bool]] = {
    "adam_beta1": (0.0, 0.9999, False),
    "adam_beta2": (0.0, 0.999999, False),
    "adam_eps": (1e-30, 1.0, False),
    "threshold_lr": (0.0, 1e4, True),
    "decoder_lr": (0.0, 1e4, True),
    "huber": (0.0, 1e4, False),
    "start_l0": (0.0, LARGEST, False),
    "init_norm": (0.0, 1e3, True),
    "whitening": (0.0, 1.0, False),
}
_ROWS = ("data", "random")
OF_ROW = (*_ROW_RANGES, "rows")
OF_START = ("rows", "whitening", "init_norm")  # how decoder rows begin, where there are any


def takes(row: Recipe, name: str) -> bool:
    """Whether a recipe has a use for a setting."""
    if name in ("k", "k_start"):
        return row.activation in WITH_K
    if name in OF_START and row.activation == "sigmoid":
        return False  # its weights begin as those of a dense network
    needs = {
        "target_l0": row.sparsity is not None,
        "k_aux": row.auxiliary == "auxk",
        "resample_every_tokens": row.resample,
        "threshold_lr": row.activation == "jumprelu",
        "decoder_lr": row.tied is None,
        "huber": row.huber is not None,
        "start_l0": row.start_l0 is not None,
        "init_norm": row.decoder == "free" and row.tied is None,  # else the norm is given
    }
    return getattr(row, name) is not None if name in OF_SOME else needs.get(name, True)


def require_place(recipe: str, name: str, value: object) -> None:
    """Raise ConfigError for a setting that this recipe has no use for, naming those that have."""
    row = RECIPES[recipe]
    if takes(row, name):
        return
    fits = [other for other in RECIPES if takes(RECIPES[other], name)]
    hint = "Leave it out."
    if name == "k" and takes(row, "target_l0"):
        hint = "Set target_l0 (--target-l0) instead."
    elif name == "target_l0":
        hint = "Set k (--k) instead." if takes(row, "k") else "It has no penalty to steer."
    raise ConfigError(
        f"{name} does not go with recipe {recipe}",
        got=f"{name} {shown(value)}",
        expected=f"{name} with {', '.join(fits)}",
        hint=hint,
    )


def checked_row(recipe: str, asked: object) -> dict[str, Any]:
    """The fields of the recipe's row that are asked for, without those that are None.

    Raises ConfigError unless they are of OF_ROW, in range, and go with the recipe.
    """
    if not isinstance(asked, Mapping):
        raise ConfigError(
            "overrides are out of range",
            got=shown(asked),
            expected=f"values by name, of {', '.join(OF_ROW)}",
        )
    check_keys("overrides of the recipe", asked, list(OF_ROW))
    given = {name: value for name, value in asked.items() if value is not None}
    for name, value in given.items():
        if name == "rows":
            require_one_of("rows", value, _ROWS)
        else:
            low, high, above = _ROW_RANGES[name]
            require_number(name, value, low=low, high=high, above=above)
        require_place(recipe, name, value)
    rows = given.get("rows", RECIPES[recipe].rows)
    if given.get("whitening") and rows == "random":
        raise ConfigError(
            "whitening is of rows from data",
            got=f"whitening {given['whitening']} with rows random",
            expected="rows data, or whitening 0",
            hint="Set rows=data, or leave whitening out.",
        )
    return given


def checked_prefixes(given: Any) -> tuple[float, ...]:
    """Matryoshka's shares; ConfigError unless they ascend and end in 1."""
    expected = "ascending shares of d_sae that end in 1, such as [0.1, 0.3, 1.0]"
    if not isinstance(given, list | tuple) or not given:
        raise ConfigError("prefixes are out of range", got=shown(given), expected=expected)
    for share in given:
        require_number("a share in prefixes", share, low=0.0, high=1.0, above=True)
    shares = tuple(float(share) for share in given)
    if any(a >= b for a, b in pairwise(shares)) or shares[-1] != 1.0:
        raise ConfigError("prefixes are out of range", got=shown(list(given)), expected=expected)
    return shares


def require_annealing(recipe: str, k_start: float | None, fraction: float | None) -> None:
    """Raise ConfigError for a k_start that never counts, or a fraction of nothing."""
    if k_start is not None and fraction == 0:
        raise ConfigError(
            "k_start without time to become k",
            got=f"k_start {shown(k_start)}, k_anneal_fraction 0",
            expected="0 < k_anneal_fraction <= 1",
            hint="Leave k_anneal_fraction out for half of the run, or leave k_start out.",
        )
    if k_start is None and fraction and RECIPES[recipe].k_start is None:
        raise ConfigError(
            "k_anneal_fraction needs a k to start from",
            got=f"k_anneal_fraction {shown(fraction)} without k_start",
            expected="both, or neither",
            hint="Set k_start too, such as 4 times k.",
        )


def require_whole(name: str, value: object) -> None:
    """Raise ConfigError unless a setting of WHOLE is in its range."""
    low, high = WHOLE[name]
    require_int(name, value, low=low, high=high)


def require_in_range(name: str, value: object) -> None:
    """Raise ConfigError unless a setting of RANGES is in its range."""
    low, high, above = RANGES[name]
    require_number(name, value, low=low, high=high, above=above)
