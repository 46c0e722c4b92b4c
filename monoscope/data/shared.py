"""share(): several sites of one model, which reads the corpus once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monoscope.data.live import Live, LiveStream
from monoscope.data.reading import SETTINGS, Reading
from monoscope.errors import ConfigError
from monoscope.sites import Site


class SharedLive:
    """A Live whose model reads for other sites too; made by `share`, trained on as the Live is.

    reading: what they share; it counts the blocks that the model was run for.
    """

    def __init__(self, live: Live, reading: Reading) -> None:
        self.live, self.reading = live, reading

    @property
    def site(self) -> Site:
        return self.live.parsed_site

    def asked(self) -> dict[str, Any]:
        """As of the Live."""
        return self.live.asked()

    def stream(self, batch_size: int, seed: int) -> LiveStream:
        """The stream of the Live, bit for bit on a CPU."""
        return LiveStream(self.live, batch_size, seed, self.reading)


def share(sources: Sequence[Live]) -> list[SharedLive]:
    """The same sources, one a site, with the model run once for all of them.

    Raises ConfigError for a site given twice, for two models or corpora, and for a setting of the
    reading that differs.
    """
    first, sites = sources[0], [source.parsed_site for source in sources]
    if len(set(sites)) != len(sites):
        raise ConfigError("each site is read once", got=", ".join(map(str, sites)))
    for source in sources[1:]:
        if source.lm is not first.lm:
            raise ConfigError(
                "sites that are read together are those of one model",
                got=f"two, for {first.site} and {source.site}",
                hint="Load the model once, and give it to every Live.",
            )
        if source.corpus.fingerprint != first.corpus.fingerprint:
            raise ConfigError(
                "sites that are read together are read on one corpus",
                got=f"another for {source.site} than for {first.site}",
            )
        for name in SETTINGS:
            if getattr(source, name) != getattr(first, name):
                raise ConfigError(
                    f"sites that are read together have one {name}",
                    got=f"{getattr(source, name)} for {source.site}",
                    expected=f"{getattr(first, name)}, as for {first.site}",
                )
    reading = Reading(first, sites)
    return [SharedLive(source, reading) for source in sources]
