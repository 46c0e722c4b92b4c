"""Edits as the API takes them, and what they become for the loaded SAE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from monoscope.errors import ConfigError

if TYPE_CHECKING:
    from monoscope.steer.edits import Edit
    from monoscope.viewer.engine import Loaded

MAX_EDITS = 64
MOST = 1e6  # in any unit: beyond it nothing is left of the model, and float32 soon overflows
Latent = Annotated[int, Field(ge=0, le=2**53, strict=True)]
Message = dict[str, str]


class EditSpec(BaseModel):
    """One change to one latent: op add, set, cap (a value in a unit), scale (a factor), ablate.

    unit: raw (the SAE's own codes), max (× the latent's largest activation), norm (× the median
    norm at the site). where: all, given or prompt, generated, when:LATENT or when:LATENT:THRESHOLD.
    """

    model_config = ConfigDict(extra="forbid")

    latent: Latent
    op: Literal["add", "set", "scale", "ablate", "cap"]
    value: float | None = Field(default=None, ge=-MOST, le=MOST, allow_inf_nan=False)
    unit: Literal["raw", "max", "norm"] = "raw"
    where: str = Field(default="all", max_length=60)


Edits = Annotated[list[EditSpec], Field(max_length=MAX_EDITS)]


def edits_of(specs: Sequence[EditSpec], loaded: Loaded) -> list[Edit]:
    """The edits themselves. Raises LatentError or ConfigError, naming what is wrong."""
    return [_edit(spec, loaded) for spec in specs]


def _edit(spec: EditSpec, loaded: Loaded) -> Edit:
    from monoscope.steer.edits import Ablate, Add, Cap, Scale, Set

    if (spec.value is None) != (spec.op == "ablate"):
        what = "ablate takes no value" if spec.op == "ablate" else f"{spec.op} needs a value"
        raise ConfigError(what, got=f"value {spec.value} for latent {spec.latent}")
    if spec.op in ("scale", "ablate"):
        if spec.unit != "raw":
            raise ConfigError(f"{spec.op} takes no unit", got=spec.unit)
        if spec.op == "ablate":
            return Ablate(loaded.sae, spec.latent, where=spec.where)
        return Scale(loaded.sae, spec.latent, float(spec.value or 0), where=spec.where)
    name = {"raw": "value", "max": "times_max", "norm": "times_norm"}[spec.unit]
    kind: Any = {"add": Add, "set": Set, "cap": Cap}[spec.op]
    strength = {name: spec.value}
    return kind(loaded.sae, spec.latent, where=spec.where, atlas=loaded.atlas, **strength)
