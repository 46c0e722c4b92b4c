"""What an SAE records of its training: its site, and the model whose activations it read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from monoscope.errors import ConfigError, MismatchError, SiteError
from monoscope.sae.model import SAE
from monoscope.sites import Site


class Model(Protocol):
    """What `check_fits` asks of a language model."""

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> Mapping[str, Any]: ...

    def width(self, site: Site, /) -> int: ...


def site_of(sae: SAE) -> Site:
    """The site an SAE was trained at.

    Raises ConfigError where its provenance does not say, SiteError where it names no site.
    """
    text = sae.provenance.get("site")
    if not text:
        raise ConfigError(
            "the SAE does not say where it was trained",
            expected='a site in sae.provenance["site"]',
            hint='Set it, e.g. sae.provenance["site"] = "resid_post.8".',
        )
    if not isinstance(text, str | Site):
        raise SiteError("the SAE's recorded site is not a site", got=repr(text))
    return Site.parse(text)


def check_fits(lm: Model, sae: SAE) -> None:
    """Raise MismatchError unless the SAE's width and recorded model are those of `lm`."""
    site = site_of(sae)
    width = lm.width(site)
    if sae.config.d_in != width:
        raise MismatchError(
            f"the SAE does not fit {lm.name} at {site}",
            got=f"d_in {sae.config.d_in}",
            expected=f"{width}, the model's width there",
        )
    trained_on = sae.provenance.get("model") or {}
    for key in ("weights", "tokenizer"):
        theirs, ours = trained_on.get(key), lm.identity.get(key)
        if theirs and ours and theirs != ours:
            raise MismatchError(
                f"the SAE was trained on another model ({key} differ)",
                got=f"{lm.identity.get('model', lm.name)} ({ours[:12]})",
                expected=f"{trained_on.get('model', 'the one it was trained on')} ({theirs[:12]})",
                hint='Load that model; to use this one on purpose, remove "model" from '
                "sae.provenance.",
            )
