"""Site: a place in a model where activations are read and edits are written.

Grammar:   embed | resid_pre.L | resid_mid.L | resid_post.L | attn_out.L
           | mlp_in.L | mlp_post.L | mlp_out.L | module:dotted.path[:in|:out]
           | SITE->SITE (transcoder) | {SITE,SITE,…} (crosscoder)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from monoscope.errors import SiteError, nearest

LAYER_KINDS = (
    "resid_pre",
    "resid_mid",
    "resid_post",
    "attn_out",
    "mlp_in",
    "mlp_post",
    "mlp_out",
)
_FORMS = ", ".join(
    ["embed", *(f"{kind}.L" for kind in LAYER_KINDS), "module:dotted.path[:in|:out]"]
)


@dataclass(frozen=True)
class Site:
    """One place in a model; `str(site)` gives back the text it was parsed from.

    kind: "embed", one of LAYER_KINDS, or "module".  layer: block index, for LAYER_KINDS.
    path, io: dotted module path and which side of it, for "module".
    """

    kind: str
    layer: int | None = None
    path: str | None = None
    io: Literal["in", "out"] = "out"

    def __str__(self) -> str:
        if self.kind == "module":
            return f"module:{self.path}:{self.io}"
        return self.kind if self.layer is None else f"{self.kind}.{self.layer}"

    @classmethod
    def parse(cls, text: str | Site) -> Site:
        """Read one site from its text.

        Raises SiteError for an unknown form, and for transcoder or crosscoder forms, which
        are part of the grammar but cannot be harvested or trained yet.
        """
        if isinstance(text, Site):
            return text
        text = text.strip()
        if "->" in text or (text.startswith("{") and text.endswith("}")):
            parts = text.split("->") if "->" in text else text[1:-1].split(",")
            for part in parts:
                _parse_one(part.strip())
            form = "transcoder site A->B" if "->" in text else "crosscoder site {A,B}"
            raise SiteError(
                f"a {form} is not supported yet", got=repr(text), hint=f"Use one site: {_FORMS}."
            )
        return _parse_one(text)


def _parse_one(text: str) -> Site:
    if text == "embed":
        return Site("embed")
    if text.startswith("module:"):
        match = re.fullmatch(r"module:([A-Za-z_]\w*(?:\.\w+)*)(?::(in|out))?", text)
        if match:
            return Site("module", path=match[1], io="in" if match[2] == "in" else "out")
        raise SiteError("bad module site", got=repr(text), expected="module:dotted.path[:in|:out]")
    match = re.fullmatch(r"([a-z_]+)\.(\d+)", text)
    if match and match[1] in LAYER_KINDS:
        return Site(match[1], layer=int(match[2]))
    close = nearest(text.split(".")[0], ("embed", *LAYER_KINDS))
    hint = f"Did you mean {close}{'' if close == 'embed' else '.L'}?" if close else None
    raise SiteError("unknown site", got=repr(text), expected=f"one of {_FORMS}", hint=hint)
