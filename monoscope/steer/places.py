"""Where an edit is written: the positions it names, and the condition that another latent fires.

all             every position the SAE's mask policy keeps
given, prompt   the positions of the prompt; two words for one thing
generated       the positions of tokens the model wrote itself
when:I          positions where latent I of the same SAE fires, f_I(x) > 0 on the unedited x
when:I:T        positions where it fires above T, in the SAE's raw units
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, cast, get_args

from torch import Tensor

from monoscope.errors import ConfigError

Stretch = Literal["all", "generated", "given", "prompt"]
WHERE = "all, given, prompt, generated, when:LATENT or when:LATENT:THRESHOLD"
_WHEN = re.compile(r"when:(?P<latent>\d{1,18})(?::(?P<above>\d+\.?\d*(?:e[+-]?\d+)?|\.\d+))?")


@dataclass(frozen=True)
class Place:
    """The positions an edit names: a stretch of the text, or wherever another latent fires.

    when: that latent, or None.  above: what its activation must exceed, raw units.
    """

    stretch: Stretch = "all"
    when: int | None = None
    above: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read a place from its written form. Raises ConfigError naming the forms there are."""
        if isinstance(text, str):
            if text in get_args(Stretch):
                return cls(cast(Stretch, text))
            match = _WHEN.fullmatch(text)
            above = float(match["above"] or 0) if match else math.inf
            if match and math.isfinite(above):
                return cls("all", int(match["latent"]), above)
        raise ConfigError("unknown positions for an edit", got=repr(text), expected=WHERE)

    def named(self, generated: Tensor) -> Tensor:
        """The positions of the stretch, [B,S] bool, from which of them were generated, [B,S]."""
        if self.stretch == "generated":
            return generated
        whole = generated.new_ones(generated.shape)
        return whole if self.stretch == "all" else ~generated
