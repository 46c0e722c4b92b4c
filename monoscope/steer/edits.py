"""Edits as values: what to do to one latent, how strongly, and where. Nothing here runs a model.

With d = W_dec[latent] in model units and f(x) the latent's activation on x, every edit moves x
along d and leaves the rest of x, the SAE's error included, as it was:

    Add     x' = x + s·d
    Set     x' = x + (v − f(x))·d       the clamp of Templeton et al. 2024
    Scale   x' = x + (c·f(x) − f(x))·d
    Ablate  x' = x − f(x)·d
    Cap     x' = x + (min(f(x), v) − f(x))·d

Strengths (s, v) come in one of three units: raw (the SAE's own codes), × the largest activation the
latent was seen with, or × the median ‖x‖ at the site, for which d is normalised:
s·‖d‖ = times_norm · median ‖x‖.

On the command line an edit is written `latent=op:value unit`, e.g. `123=set:5max@generated`;
`places.py` has the words after the @.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import ClassVar, Literal, final, get_args

from torch import Tensor

from monoscope.errors import ConfigError, LatentError, nearest
from monoscope.sae.model import SAE, require_directions, require_latent
from monoscope.sae.trained import site_of
from monoscope.sites import Site
from monoscope.steer.places import WHERE, Place
from monoscope.steer.units import MaxSource, direction_norm, latent_max, median_norm

Unit = Literal["raw", "max", "norm"]
_UNIT_FIELDS = ("value", "times_max", "times_norm")
GRAMMAR = (
    "LATENT=OP[:VALUE[UNIT]][@WHERE]: OP add, set, cap (UNIT raw, max or norm), scale (no unit) "
    f"or ablate (no value); WHERE {WHERE}; "
    "e.g. 123=set:5max, 123=add:0.6norm@generated, 123=cap:1@when:456, 123=ablate"
)


@dataclass(frozen=True)
class Edit(ABC):
    """One change to one latent of one SAE, at the SAE's own site.

    where: "all" positions, those "generated", those "given" (or "prompt"), or "when:I" another
    latent fires, "when:I:T" above T (see `places.py`).
    Raises LatentError for a latent outside the SAE and ConfigError for an unknown `where`.
    """

    op: ClassVar[str]
    reads: ClassVar[bool]  # whether the coefficient depends on f(x)

    sae: SAE = field(repr=False)
    latent: int
    _: KW_ONLY
    where: str = "all"

    def __post_init__(self) -> None:
        if isinstance(self.latent, bool) or not isinstance(self.latent, int):
            raise LatentError("a latent is a whole number", got=repr(self.latent))
        require_latent(self.sae, self.latent)
        require_directions(self.sae, "an edit")
        if self.place.when is not None:
            require_latent(self.sae, self.place.when)

    @abstractmethod
    def coefficient(self, f: Tensor) -> Tensor:
        """How far to move along d, [N], from the latent's activations f [N] on the unedited x."""

    @property
    @abstractmethod
    def _spec(self) -> str:
        """The part of the written form after `latent=` and before `@where`."""

    @cached_property  # read once, not at every token
    def place(self) -> Place:
        """The positions that `where` names."""
        return Place.parse(self.where)

    @property
    def site(self) -> Site:
        """The SAE's own site, where the edit is written. Raises ConfigError if unrecorded."""
        return site_of(self.sae)

    @property
    def direction(self) -> Tensor:
        """d = W_dec[latent], [D], in model units."""
        return self.sae.W_dec[self.latent].detach()

    def __str__(self) -> str:
        return f"{self.latent}={self._spec}" + ("" if self.where == "all" else f"@{self.where}")

    def to_json(self) -> dict[str, object]:
        """The edit as plain values: edit (its written form), latent, op, where, site."""
        return {
            "edit": str(self),
            "latent": self.latent,
            "op": self.op,
            "where": self.where,
            "site": str(self.site),
        }


@dataclass(frozen=True)
class _WithStrength(Edit):
    """An edit with a strength: exactly one of value (raw), times_max, times_norm.

    atlas: where `times_max` reads the latent's maximum; by default, the SAE's own provenance.
    Raises ConfigError for none or several units, for a strength that is not finite, and where the
    unit needs a figure that is not known.
    """

    value: float | None = None
    _: KW_ONLY
    times_max: float | None = None
    times_norm: float | None = None
    atlas: MaxSource | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in _UNIT_FIELDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigError(
                f"{self.op} needs exactly one strength",
                got=" and ".join(given) or "none",
                expected="value= (raw), times_max= or times_norm=",
            )
        _check_finite(self.op, self.amount)
        if not math.isfinite(self.strength):
            raise ConfigError(f"{self.op} has no finite strength in this unit", got=self.strength)

    @property
    def unit(self) -> Unit:
        """The unit the strength was given in."""
        if self.value is not None:
            return "raw"
        return "max" if self.times_max is not None else "norm"

    @property
    def amount(self) -> float:
        """The strength as given, in `unit`."""
        given = (self.value, self.times_max, self.times_norm)
        return next(v for v in given if v is not None)

    @cached_property  # an atlas is asked once, not at every token
    def strength(self) -> float:
        """The strength in raw units: what multiplies d (Add), or what f becomes (Set)."""
        if self.unit == "max":
            return self.amount * latent_max(self.sae, self.latent, self.atlas)
        if self.unit == "norm":
            return self.amount * median_norm(self.sae) / direction_norm(self.sae, self.latent)
        return self.amount

    @property
    def _spec(self) -> str:
        unit = "" if self.unit == "raw" else self.unit
        return f"{self.op}:{_number(self.amount)}{unit}"

    def to_json(self) -> dict[str, object]:
        """As Edit.to_json, with amount, unit, and strength (raw units)."""
        return {
            **super().to_json(),
            "amount": self.amount,
            "unit": self.unit,
            "strength": self.strength,
        }


@final
@dataclass(frozen=True)
class Add(_WithStrength):
    """Move along the latent's direction by a fixed amount: x' = x + s·d."""

    op = "add"
    reads = False

    def coefficient(self, f: Tensor) -> Tensor:
        """s for every position, [N]; f is not looked at."""
        return f.new_full(f.shape, self.strength)


@final
@dataclass(frozen=True)
class Set(_WithStrength):
    """Clamp the latent's activation: x' = x + (v − f(x))·d (Templeton et al. 2024)."""

    op = "set"
    reads = True

    def coefficient(self, f: Tensor) -> Tensor:
        """v − f, [N]."""
        return self.strength - f


@final
@dataclass(frozen=True)
class Cap(_WithStrength):
    """Hold the latent's activation at v or below: x' = x + (min(f(x), v) − f(x))·d.

    Silent where f(x) is v or less. Raises ConfigError for a negative v, as no activation is.
    """

    op = "cap"
    reads = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.strength < 0:
            raise ConfigError("the strength of cap", got=self.strength, expected="0 or above")

    def coefficient(self, f: Tensor) -> Tensor:
        """min(f, v) − f, [N]: exactly 0 where f is v or less."""
        return f.clamp(max=self.strength) - f


@final
@dataclass(frozen=True)
class Scale(Edit):
    """Multiply the latent's activation by c: x' = x + (c·f(x) − f(x))·d; silent where f is 0."""

    op = "scale"
    reads = True

    value: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_finite(self.op, self.value)

    def coefficient(self, f: Tensor) -> Tensor:
        """c·f − f, [N]: exactly 0 for c = 1."""
        return self.value * f - f

    @property
    def _spec(self) -> str:
        return f"scale:{_number(self.value)}"

    def to_json(self) -> dict[str, object]:
        """As Edit.to_json, with amount, the factor c."""
        return {**super().to_json(), "amount": float(self.value)}


@final
@dataclass(frozen=True)
class Ablate(Edit):
    """Remove the latent's contribution: x' = x − f(x)·d."""

    op = "ablate"
    reads = True

    def coefficient(self, f: Tensor) -> Tensor:
        """−f, [N]."""
        return -f

    @property
    def _spec(self) -> str:
        return "ablate"


_SPEC = re.compile(
    r"(?P<latent>\d+)=(?P<op>[a-z]+)"
    r"(?::(?P<value>[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)(?P<unit>[a-z]*))?(?:@(?P<where>[a-z0-9:.+-]+))?"
)


def parse_edit(text: str, sae: SAE, *, atlas: MaxSource | None = None) -> Edit:
    """Read one edit in its written form, `latent=op:value unit`, as `str(edit)` writes it.

    A value without a unit is raw. Raises ConfigError naming the grammar, or LatentError.
    """
    match = _SPEC.fullmatch(re.sub(r"\s+", "", text).lower())
    if match is None:
        raise _bad(text)
    latent, op, value, unit, where = match.groups()
    if op not in _OPS:
        close = nearest(op, _OPS)
        raise _bad(text, f"unknown op {op!r}" + (f" (did you mean {close}?)" if close else ""))
    if (value is None) != (op == "ablate"):
        raise _bad(text, "ablate takes no value" if op == "ablate" else f"{op} needs a value")
    place = _read_place(text, where or "all")
    if op == "ablate":
        return Ablate(sae, int(latent), where=place)
    if op == "scale":
        if unit:
            raise _bad(text, "scale takes a plain factor, without a unit")
        return Scale(sae, int(latent), float(value), where=place)
    if (unit or "raw") not in get_args(Unit):
        raise _bad(text, f"unknown unit {unit!r}")
    name = {"max": "times_max", "norm": "times_norm"}.get(unit, "value")
    return _STRONG[op](sae, int(latent), where=place, atlas=atlas, **{name: float(value)})


_STRONG: dict[str, type[Add] | type[Set] | type[Cap]] = {"add": Add, "set": Set, "cap": Cap}
_OPS = (*_STRONG, "scale", "ablate")


def _read_place(text: str, where: str) -> str:
    try:
        Place.parse(where)
    except ConfigError:
        raise _bad(text, f"unknown positions @{where}") from None
    return where


def _check_finite(op: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"the strength of {op} must be a finite number", got=repr(value))


def _number(value: float) -> str:
    whole = float(value).is_integer() and abs(value) < 1e15
    return repr(int(value)) if whole else repr(float(value))


def _bad(text: str, why: str = "") -> ConfigError:
    what = f"cannot read the edit {text!r}" + (f" ({why})" if why else "")
    return ConfigError(what, expected=GRAMMAR)
