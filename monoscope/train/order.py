"""Order: one SAE as it is asked for, before data and recipe have filled in the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from monoscope.errors import ConfigError
from monoscope.sae import SAEConfig
from monoscope.sae.config import ACTIVATIONS, LARGEST, check_keys, require_one_of
from monoscope.sae.recipes import get_recipe
from monoscope.train.config import TrainConfig
from monoscope.train.settings import OF_ROW

_NAMED = ("n_tokens", "recipe", "batch_size", "seed", "lr", "target_l0", "overrides")
SETTINGS = (*(f.name for f in fields(TrainConfig) if f.name not in _NAMED), *OF_ROW, "hidden")
_RECIPE_OF = {None: "batchtopk", "sigmoid": "kl", "identity": "autoencoder"}


@dataclass(frozen=True, kw_only=True)
class Order:
    """What an SAE shall be, how it is trained, and where it goes.

    d_sae, k, target_l0: its sizes, as TrainConfig.shape fills them in; k is for the top-k family,
    target_l0 for recipes with a sparsity penalty, each a count or a share of d_sae.  recipe: a row
    of sae/recipes.py; activation alone picks the recipe of its name.  n_tokens: training tokens,
    over as many passes as they take; default six passes.  seed: of the weights and of what is
    random later.  settings (SETTINGS): further TrainConfig fields, fields of the recipe's own row
    that shall be others, and hidden, the widths of an autoencoder's hidden layers.  out: folder to
    write, if any.
    """

    d_sae: int | None = None
    recipe: str | None = None
    activation: str | None = None
    k: int | float | None = None
    target_l0: float | None = None
    n_tokens: int | None = None
    lr: float | None = None
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    out: str | Path | None = None

    def configs(
        self, d_in: int, batch_size: int, n_rows: int | None
    ) -> tuple[SAEConfig, TrainConfig]:
        """Both configs in full; n_rows: rows of a pass over the data, where they have an end.

        Raises ConfigError for whatever is unknown or out of range.
        """
        total = self.n_tokens
        if total is None:
            if n_rows is None:
                raise ConfigError(
                    "n_tokens is needed when training from an iterator",
                    got="no n_tokens",
                    expected="a whole number of training tokens",
                    hint="Set n_tokens (--tokens).",
                )
            total = 6 * n_rows
        return self._filled(d_in, batch_size, total)

    def check(self) -> None:
        """What can be told without data; raises ConfigError as configs does."""
        self._filled(LARGEST, 2, 1 if self.n_tokens is None else self.n_tokens)

    def _filled(self, d_in: int, batch_size: int, n_tokens: int) -> tuple[SAEConfig, TrainConfig]:
        check_keys("training settings", self.settings, list(SETTINGS))
        settings = dict(self.settings)
        hidden = settings.pop("hidden", ())
        overrides = {name: settings.pop(name) for name in OF_ROW if name in settings}
        config = TrainConfig(
            n_tokens=n_tokens, recipe=self.recipe_name(), batch_size=batch_size, seed=self.seed,
            lr=self.lr, target_l0=self.target_l0, overrides=overrides, **settings,
        )  # fmt: skip
        sae = config.shape(d_in, self.d_sae, self.k, hidden)
        return sae, config.resolved(sae)

    def recipe_name(self) -> str:
        """The recipe that recipe and activation together name.

        Raises ConfigError if they disagree, or if the activation belongs to several recipes.
        """
        if self.recipe is None:
            if self.activation == "relu":
                raise ConfigError(
                    "relu belongs to several recipes",
                    got="activation relu without a recipe",
                    expected="recipe bricken, templeton or autoencoder",
                    hint="Set recipe (--recipe).",
                )
            require_one_of("activation", self.activation or "batchtopk", ACTIVATIONS)
            return _RECIPE_OF.get(self.activation, self.activation or "")
        row = get_recipe(self.recipe)
        if self.activation is not None and row.activation != self.activation:
            raise ConfigError(
                "activation and recipe disagree",
                got=f"recipe {self.recipe}, activation {self.activation}",
                expected=f"activation {row.activation}, that of the recipe",
                hint="Leave one of them out.",
            )
        return self.recipe
