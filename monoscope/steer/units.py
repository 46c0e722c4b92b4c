"""What steering needs of an SAE's training: its typical norm and maxima."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from monoscope.artifact.checks import check_atlas
from monoscope.errors import ConfigError, MismatchError
from monoscope.sae.model import SAE

# Which atlases an SAE was found to be the SAE of, by the hash in them: hashing takes its time, and
# a slider makes an edit at every move.
_OWN: WeakKeyDictionary[SAE, set[str]] = WeakKeyDictionary()


class LatentStats(Protocol):
    """What `times_max` asks of one feature of an atlas: the largest activation it was seen with."""

    @property
    def max(self) -> float: ...


class MaxSource(Protocol):
    """What `times_max` asks of an atlas: which SAE it is of, and the figures of one latent."""

    @property
    def manifest(self) -> Mapping[str, Any]: ...
    def feature(self, latent: int, /) -> LatentStats: ...


def median_norm(sae: SAE) -> float:
    """The median ‖x‖ at the SAE's site in training. Raises ConfigError if not recorded."""
    stats = sae.provenance.get("norm_stats") or {}
    value = stats.get("median_norm")
    if value is None:
        raise ConfigError(
            "a strength in × norm needs the site's median norm, which this SAE does not record",
            hint="Give value= or times_max=, or set "
            'sae.provenance["norm_stats"] = {"median_norm": ...}.',
        )
    return float(value)


def latent_max(sae: SAE, latent: int, atlas: MaxSource | None = None) -> float:
    """The largest activation a latent was seen with: the atlas's if given, else the SAE's own.

    Raises ConfigError where neither knows it, or where the latent never fired; MismatchError for
    another SAE's atlas.
    """
    if atlas is not None:
        _require_own(sae, atlas)
        value, source = float(atlas.feature(latent).max), "the atlas"
    else:
        recorded = sae.provenance.get("latent_max")
        if recorded is None:
            raise ConfigError(
                "a strength in × max needs the latent's maximum, which this SAE does not record",
                hint="Pass atlas= (ms.load_atlas, ms.index), or give value= or times_norm=.",
            )
        if len(recorded) != sae.config.d_sae:
            raise MismatchError(
                'sae.provenance["latent_max"] does not fit the SAE',
                got=f"{len(recorded)} values",
                expected=f"{sae.config.d_sae}, one a latent",
            )
        value, source = float(recorded[latent]), "training"
    if not value > 0:
        raise ConfigError(
            f"latent {latent} never fired in {source}, so × max means nothing for it",
            got=f"max {value:g}",
            hint="Give value= or times_norm=.",
        )
    return value


def _require_own(sae: SAE, atlas: MaxSource) -> None:
    known = _OWN.setdefault(sae, set())
    if (indexed := str(atlas.manifest["sae"]["hash"])) not in known:
        check_atlas(sae, atlas.manifest)
        known.add(indexed)


def direction_norm(sae: SAE, latent: int) -> float:
    """‖W_dec[latent]‖ in model units. Raises ConfigError for a row of zeros."""
    norm = float(sae.W_dec[latent].detach().double().norm())
    if norm == 0:
        raise ConfigError(
            f"latent {latent} has no direction",
            got="a row of zeros in W_dec",
            hint="Choose a feature that fires: `monoscope features ATLAS` lists them.",
        )
    return norm
