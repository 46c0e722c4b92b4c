"""TrainConfig: how an SAE is trained. What is left out is filled in from the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from monoscope.sae.config import SAEConfig, check_keys, require_int, require_number
from monoscope.sae.recipes import get_recipe


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a run; sizes are in tokens. None means: as the recipe says (see `resolved`).

    n_tokens: training tokens, over all passes.  lr: Adam's step size at its highest.
    warmup_fraction, decay_fraction: shares of the run with rising and falling lr.
    dead_after_tokens: a latent that has not fired for this long counts as dead.
    checkpoint_every_tokens: how often the run is saved; 0 only at its end.
    """

    n_tokens: int
    recipe: str = "batchtopk"
    batch_size: int = 2048
    seed: int = 0
    lr: float | None = None
    warmup_fraction: float | None = None
    decay_fraction: float | None = None
    sparsity_coefficient: float | None = None
    auxk_coefficient: float | None = None
    k_aux: int | None = None
    dead_after_tokens: int | None = None
    resample_every_tokens: int | None = None
    checkpoint_every_tokens: int = 1_000_000

    def __post_init__(self) -> None:
        get_recipe(self.recipe)
        for name, low in (("n_tokens", 1), ("batch_size", 2), ("seed", 0)):
            require_int(name, getattr(self, name), low=low)
        require_int("checkpoint_every_tokens", self.checkpoint_every_tokens, low=0)
        for name in ("k_aux", "dead_after_tokens", "resample_every_tokens"):
            if getattr(self, name) is not None:
                require_int(name, getattr(self, name), low=1)
        for name, high in (
            ("lr", 1.0),
            ("warmup_fraction", 1.0),
            ("decay_fraction", 1.0),
            ("sparsity_coefficient", 1e6),
            ("auxk_coefficient", 1e3),
        ):
            if getattr(self, name) is not None:
                require_number(name, getattr(self, name), low=0.0, high=high)

    def resolved(self, sae: SAEConfig) -> TrainConfig:
        """The same with every None filled in from the recipe and the sizes of the SAE."""
        recipe = get_recipe(self.recipe)
        lr = recipe.lr * ((4096 / sae.d_sae) ** 0.5 if recipe.lr_by_width else 1.0)
        defaults: dict[str, Any] = {
            "lr": lr,
            "warmup_fraction": recipe.warmup_fraction,
            "decay_fraction": recipe.decay_fraction,
            "sparsity_coefficient": recipe.sparsity_coefficient,
            "auxk_coefficient": recipe.auxk_coefficient,
            "k_aux": 2 ** round(max(sae.d_in / 2, 1)).bit_length() // 2,
            # 10M tokens (Gao 2024) for long runs, a tenth of a short one
            "dead_after_tokens": max(1, min(10_000_000, self.n_tokens // 10)),
            "resample_every_tokens": max(1, self.n_tokens // 5),
        }
        missing = {k: v for k, v in defaults.items() if getattr(self, k) is None}
        return replace(self, **missing)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainConfig:
        check_keys("training config", values, [f.name for f in fields(cls)])
        return cls(**values)
