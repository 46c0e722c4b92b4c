"""TrainConfig: how an SAE is trained. What is left out is filled in from the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from monoscope.errors import ConfigError
from monoscope.sae.config import (
    WITH_K,
    SAEConfig,
    check_keys,
    count_of,
    require_int,
    require_one_of,
    shown,
)
from monoscope.sae.normalise import NORMALISATIONS
from monoscope.sae.recipes import Recipe, get_recipe
from monoscope.train import settings
from monoscope.train.settings import MOST_SEED, OF_SOME, OF_START, RANGES, WHOLE

DEFAULT_D_SAE, DEFAULT_K = 4096, 32
_NEEDED = ("n_tokens", "batch_size", "seed")
ANNEAL_FRACTION = 0.5  # where a k to start from is given, and not how soon it becomes k


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a run; sizes are in tokens. None means: as the recipe says (see `resolved`).

    n_tokens: training tokens, over all passes.  lr: Adam's step size at its highest.
    warmup_fraction, decay_fraction: shares of the run with rising and falling lr.
    normalisation: of the inputs: none, mean_norm, standardize or unit.
    sparsity_coefficient: what the sparsity term is multiplied by, after a rise over the first
    sparsity_warmup_fraction of the run.  target_l0: latents a token to steer that coefficient to,
    as a count or a share of d_sae.
    k_start: latents a token at the start (topk, batchtopk), as a count or a share of d_sae; it
    becomes k over the first k_anneal_fraction of the run, half of it unless that is said.
    prefixes: the nested dictionaries of matryoshka, as ascending shares of d_sae that end in 1.
    bandwidth: ε of jumprelu's straight-through estimators, in units where E‖x‖ = √D.
    rho: the mean activation that kl asks of a unit.  tied: one matrix both ways (ksparse).
    dead_after_tokens: a latent that has not fired for this long counts as dead.
    checkpoint_every_tokens: how often the run is saved; None by the clock, every minute (see
    train/job.py); 0 only at its end.  It changes nothing in what is trained.
    overrides: fields of the recipe's own row that shall be others, those of settings.OF_ROW; a
    start_l0 of 0 leaves biases and thresholds where they are.
    """

    n_tokens: int
    recipe: str = "batchtopk"
    batch_size: int = 2048
    seed: int = 0
    lr: float | None = None
    warmup_fraction: float | None = None
    decay_fraction: float | None = None
    normalisation: str | None = None
    sparsity_coefficient: float | None = None
    sparsity_warmup_fraction: float | None = None
    target_l0: float | None = None
    k_start: float | None = None
    k_anneal_fraction: float | None = None
    prefixes: tuple[float, ...] | None = None
    bandwidth: float | None = None
    rho: float | None = None
    tied: bool | None = None
    auxk_coefficient: float | None = None
    k_aux: int | None = None
    preact_coefficient: float | None = None
    grad_clip: float | None = None
    dead_after_tokens: int | None = None
    resample_every_tokens: int | None = None
    checkpoint_every_tokens: int | None = None
    overrides: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        recipe = get_recipe(self.recipe)
        for name in WHOLE:
            if getattr(self, name) is not None or name in _NEEDED:
                settings.require_whole(name, getattr(self, name))
        for name in RANGES:
            if getattr(self, name) is not None:
                settings.require_in_range(name, getattr(self, name))
        if self.normalisation is not None:
            require_one_of("normalisation", self.normalisation, NORMALISATIONS)
        if self.tied is not None and not isinstance(self.tied, bool):
            raise ConfigError(
                "tied is out of range", got=shown(self.tied), expected="true or false"
            )
        if self.prefixes is not None:
            object.__setattr__(self, "prefixes", settings.checked_prefixes(self.prefixes))
        self._check_belongs(recipe)
        if self.overrides is not None:
            given = settings.checked_row(self.recipe, self.overrides)
            object.__setattr__(self, "overrides", given or None)

    def _check_belongs(self, recipe: Recipe) -> None:
        """Refuse a setting that this recipe has no use for."""
        for name in (*OF_SOME, "target_l0", "k_start", "k_aux", "resample_every_tokens"):
            if getattr(self, name) is not None:
                settings.require_place(self.recipe, name, getattr(self, name))
        if recipe.activation == "sigmoid" and self.normalisation == "unit":
            raise ConfigError(
                "normalisation unit does not go with kl",
                got="normalisation unit",
                expected="none, mean_norm or standardize",
                hint="A sigmoid's codes cannot be given the norm back.",
            )

    @property
    def row(self) -> Recipe:
        """The recipe as this run has it."""
        recipe = get_recipe(self.recipe)
        beta2 = recipe.default_beta2(self.n_tokens // self.batch_size)
        return replace(recipe, **{"adam_beta2": beta2, **(self.overrides or {})})

    def resolved(self, sae: SAEConfig) -> TrainConfig:
        """The same with every None filled in from the recipe and the sizes of the SAE.

        Raises ConfigError for what does not fit together.
        """
        recipe = get_recipe(self.recipe)
        settings.require_annealing(self.recipe, self.k_start, self.k_anneal_fraction)
        target = None if self.target_l0 is None else float(target_count(self.target_l0, sae.d_sae))
        defaults: dict[str, Any] = {
            name: getattr(recipe, name)
            for name in (*OF_SOME, "warmup_fraction", "decay_fraction", "normalisation")
        }
        defaults |= {
            "lr": recipe.default_lr(sae.d_sae, self.n_tokens // self.batch_size),
            "grad_clip": recipe.grad_clip,
            # 10M tokens (Gao 2024) for long runs, a tenth of a short one
            "dead_after_tokens": max(1, min(10_000_000, self.n_tokens // 10)),
        }
        if recipe.auxiliary == "auxk":  # a power of two near d_in / 2
            defaults["k_aux"] = 2 ** round(max(sae.d_in / 2, 1)).bit_length() // 2
        if recipe.resample:
            defaults["resample_every_tokens"] = max(1, self.n_tokens // 5)
        if self.k_start is not None and recipe.k_anneal_fraction == 0:
            defaults["k_anneal_fraction"] = ANNEAL_FRACTION
        if recipe.k_start is not None and sae.k is not None and self.k_anneal_fraction != 0:
            defaults["k_start"] = min(sae.d_sae, round(recipe.k_start * sae.k))
        if recipe.sparsity == "kl" and target is not None:
            defaults["rho"] = target / sae.d_sae
        missing = {k: v for k, v in defaults.items() if getattr(self, k) is None}
        if self.k_start is not None:
            missing["k_start"] = count_of("k_start", self.k_start, sae.d_sae)
        if (start_l0 := (self.overrides or {}).get("start_l0", 0)) > sae.d_sae:
            raise ConfigError(
                "start_l0 is out of range",
                got=shown(start_l0),
                expected=f"0 <= start_l0 <= {sae.d_sae} = d_sae",
            )
        return replace(self, **missing, target_l0=target)

    def shape(
        self, d_in: int, d_sae: int | None, k: float | None, hidden: Sequence[int] = ()
    ) -> SAEConfig:
        """The SAE that this recipe trains on activations of width d_in.

        d_sae: default DEFAULT_D_SAE, or a ninth of d_in for a bottleneck.  k: a count or a share of
        d_sae, default DEFAULT_K where the recipe has one.
        """
        recipe = get_recipe(self.recipe)
        require_int("d_in", d_in, low=1)
        if d_sae is not None:
            require_int("d_sae", d_sae, low=1)
        if recipe.bottleneck:
            d_sae = d_sae or max(1, d_in // 9)
            if d_sae >= d_in and not hidden:
                raise ConfigError(
                    f"recipe {self.recipe} needs a bottleneck",
                    got=f"d_sae {d_sae}",
                    expected=f"1 <= d_sae < {d_in}, the width of the activations",
                )
        if recipe.activation in WITH_K:
            k = DEFAULT_K if k is None else k
        elif k is not None:
            settings.require_place(self.recipe, "k", k)
        for name in OF_START if hidden else ():
            if name in (self.overrides or {}):
                raise ConfigError(
                    f"{name} does not go with hidden layers",
                    got=f"hidden {shown(list(hidden))}",
                    expected="an SAE of one layer each way",
                    hint="Leave one of them out.",
                )
        return SAEConfig(
            d_in=d_in, d_sae=d_sae or DEFAULT_D_SAE, activation=recipe.activation,
            k=k,  # type: ignore[arg-type]  # SAEConfig makes a share a count
            normalisation="unit" if self.normalisation == "unit" else "none",
            hidden=hidden,  # type: ignore[arg-type]  # SAEConfig makes a list a tuple
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        if self.prefixes is not None:
            values["prefixes"] = list(self.prefixes)
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainConfig:
        check_keys("training config", values, [f.name for f in fields(cls)])
        return cls(**values)


def target_count(value: float, d_sae: int) -> float:
    """A target L0 given as a count, whole or not, or as a share 0 < value < 1 of d_sae."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value <= d_sae:
        raise ConfigError(
            "target_l0 is out of range",
            got=shown(value),
            expected=f"0 < target_l0 <= {d_sae} = d_sae (below 1: a share of d_sae)",
        )
    return value * d_sae if value < 1 else value


def prefix_counts(shares: tuple[float, ...], d_sae: int) -> tuple[int, ...]:
    """The numbers of latents of nested prefixes; those that a small d_sae makes equal are one."""
    return tuple(sorted({max(1, round(share * d_sae)) for share in shares}))


__all__ = ["MOST_SEED", "TrainConfig", "prefix_counts", "target_count"]
