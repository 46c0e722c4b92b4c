"""SAEConfig: what an SAE is, apart from its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from monoscope.errors import ConfigError, nearest

Activation = Literal["relu", "topk", "batchtopk", "jumprelu", "gated", "sigmoid", "identity"]
ACTIVATIONS: tuple[str, ...] = get_args(Activation)
WITH_K = ("topk", "batchtopk")
WITH_HIDDEN = ("relu", "sigmoid", "identity")
PER_TOKEN = ("none", "unit", "rms", "layer_norm")
LARGEST = 2**31 - 1  # of a size: latents and widths are counted in 32 bits


@dataclass(frozen=True, kw_only=True)
class SAEConfig:
    """Sizes and activation of an SAE.

    d_in: D, width of the activations.  d_sae: L, number of latents.
    k: active latents a token, for topk and batchtopk, as a count or (0 < k < 1) a share of d_sae;
    None for the others.
    normalisation: what encode does to each token; "unit" brings x − b_dec to norm √D, and gives the
    norm back to the codes; "rms" and "layer_norm" are those of imported SAEs (frames.py).
    hidden: widths of the layers between x and the latents, mirrored on the way back.

    Raises ConfigError for sizes out of range and for a k that does not go with the activation.
    """

    d_in: int
    d_sae: int
    activation: Activation = "batchtopk"
    k: int | None = 32
    normalisation: Literal["none", "unit", "rms", "layer_norm"] = "none"
    hidden: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("d_in", "d_sae"):
            require_int(name, getattr(self, name), low=1)
        require_one_of("activation", self.activation, ACTIVATIONS)
        require_one_of("normalisation", self.normalisation, PER_TOKEN)
        if not isinstance(self.hidden, tuple | list):
            raise ConfigError(
                "hidden is out of range",
                got=shown(self.hidden),
                expected="widths of layers, such as [512, 128]",
            )
        object.__setattr__(self, "hidden", tuple(self.hidden))
        for width in self.hidden:
            require_int("a width in hidden", width, low=1)
        if self.hidden and self.activation not in WITH_HIDDEN:
            raise ConfigError(
                f"hidden layers do not go with {self.activation}",
                got=list(self.hidden),
                expected=f"an activation among {', '.join(WITH_HIDDEN)}",
            )
        if self.activation in WITH_K:
            object.__setattr__(self, "k", count_of("k", self.k, self.d_sae))
        elif self.k is not None:
            raise ConfigError(
                f"k does not go with {self.activation}",
                got=f"k {shown(self.k)}",
                expected=f"k with {' or '.join(WITH_K)}",
                hint="Leave k out.",
            )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "hidden": list(self.hidden)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SAEConfig:
        """Read a config back; unknown keys are errors that name the nearest."""
        check_keys("SAE config", values, [f.name for f in fields(cls)])
        return cls(**values)


def count_of(name: str, value: object, d_sae: int) -> int:
    """A number of latents given as a count, or as a share 0 < value < 1 of d_sae.

    Raises ConfigError, naming both ranges, for anything else.
    """
    number = _number(value)
    if 0 < number < 1:
        return max(1, round(number * d_sae))
    is_whole = isinstance(number, int) or (number > 1 and number.is_integer())
    if is_whole and 1 <= number <= d_sae:
        return int(number)
    is_more = is_whole and number > d_sae
    raise ConfigError(
        f"{name} is larger than d_sae" if is_more else f"{name} is out of range",
        got=f"{name} {shown(value)}, d_sae {d_sae}" if is_more else shown(value),
        expected=f"a whole number from 1 to {d_sae} = d_sae, or a share of d_sae, 0 < {name} < 1",
        hint=f"Lower {name} or raise d_sae." if is_more else None,
    )


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


def require_one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    """Raise ConfigError for a name that is not among `known`, naming the nearest one."""
    if value not in known:
        close = nearest(str(value), known)
        raise ConfigError(
            f"unknown {name}",
            got=shown(value),
            expected=f"one of {', '.join(known)}",
            hint=f"Did you mean {close}?" if close else None,
        )


def require_int(name: str, value: object, *, low: int, high: int = LARGEST) -> None:
    """Raise ConfigError unless value is a whole number with low <= value <= high."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(
            f"{name} is out of range",
            got=shown(value),
            expected=f"a whole number >= {low} and <= {high}",
        )


def require_number(
    name: str, value: object, *, low: float, high: float, above: bool = False
) -> None:
    """Raise ConfigError unless low <= value <= high, or low < value with `above`."""
    number = _number(value)
    if not low <= number <= high or (above and number == low):
        sign = "<" if above else "<="
        raise ConfigError(
            f"{name} is out of range",
            got=shown(value),
            expected=f"{low:g} {sign} {name} <= {high:g}",
        )


def _number(value: object) -> int | float:
    """The value if it is a number, else NaN, which is in no range."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number else math.nan  # type: ignore[return-value]


def shown(value: object) -> str:
    """A value as in Python, a very long one cut short."""
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python prints
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:60]}…"
