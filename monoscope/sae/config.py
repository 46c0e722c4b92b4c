"""SAEConfig: what an SAE is, apart from its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from monoscope.errors import ConfigError, nearest

Activation = Literal["relu", "topk", "batchtopk"]
ACTIVATIONS: tuple[str, ...] = get_args(Activation)


@dataclass(frozen=True, kw_only=True)
class SAEConfig:
    """Sizes and activation of an SAE.

    d_in: D, width of the activations.  d_sae: L, number of latents.
    k: active latents a token, for topk and batchtopk; None for relu.

    Raises ConfigError for sizes out of range and for a k that does not go with the activation.
    """

    d_in: int
    d_sae: int
    activation: Activation = "batchtopk"
    k: int | None = 32

    def __post_init__(self) -> None:
        for name in ("d_in", "d_sae"):
            require_int(name, getattr(self, name), low=1)
        if self.activation not in ACTIVATIONS:
            close = nearest(str(self.activation), ACTIVATIONS)
            raise ConfigError(
                "unknown activation",
                got=repr(self.activation),
                expected=f"one of {', '.join(ACTIVATIONS)}",
                hint=f"Did you mean {close}?" if close else None,
            )
        if self.activation == "relu":
            if self.k is not None:
                raise ConfigError("k does not go with relu", got=self.k, hint="Leave k out.")
            return
        require_int("k", self.k, low=1)
        if self.k is not None and self.k > self.d_sae:
            raise ConfigError(
                "k is larger than d_sae",
                got=f"k {self.k}, d_sae {self.d_sae}",
                expected=f"1 <= k <= {self.d_sae}",
                hint="Lower --k or raise --d-sae.",
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SAEConfig:
        """Read a config back; unknown keys are errors that name the nearest."""
        check_keys("SAE config", values, [f.name for f in fields(cls)])
        return cls(**values)


def check_keys(what: str, values: Mapping[str, Any], known: list[str]) -> None:
    """Raise ConfigError for the first key that is not known, naming the nearest one that is."""
    for key in values:
        if key not in known:
            close = nearest(key, known)
            raise ConfigError(
                f"unknown key in {what}",
                got=repr(key),
                expected=f"one of {', '.join(known)}",
                hint=f"Did you mean {close}?" if close else None,
            )


def require_int(name: str, value: object, *, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(
            f"{name} is out of range", got=repr(value), expected=f"a whole number >= {low}"
        )


def require_number(name: str, value: object, *, low: float, high: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= float(value) <= high:  # type: ignore[arg-type]
        raise ConfigError(
            f"{name} is out of range", got=repr(value), expected=f"{low:g} <= {name} <= {high:g}"
        )
