"""What a sweep trains on: one source, or several that differ in their site and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monoscope.data.live import Live
from monoscope.data.shared import share
from monoscope.data.store import ActivationStore
from monoscope.errors import ConfigError


def sources_of(given: Any) -> list[tuple[str | None, Any]]:
    """Each source of a sweep with its site, None where it has none.

    given: what `train` takes; or a list of stores, or of Lives, which then share one reading.

    Raises ConfigError unless several sources are of one kind, model and corpus, each with a site
    of its own.
    """
    several = isinstance(given, list | tuple) and any(hasattr(one, "stream") for one in given)
    if not several or len(given) == 1:
        one = given[0] if several else given
        site = getattr(one, "site", None)
        return [(None if site is None else str(site), one)]
    if not any(all(isinstance(one, kind) for one in given) for kind in (ActivationStore, Live)):
        raise ConfigError(
            "a sweep takes one source, or several stores, or several models that read (Live)",
            got=", ".join(type(one).__name__ for one in given),
        )
    sites = [str(one.site) for one in given]
    if len(set(sites)) != len(sites):
        raise ConfigError("a sweep needs each site once", got=", ".join(sites))
    found: Sequence[Any] = given
    if isinstance(given[0], Live):
        found = share(given)
    else:
        _check_alike(given)
    return list(zip(sites, found, strict=True))


def _check_alike(stores: Sequence[ActivationStore]) -> None:
    """Raise ConfigError where stores differ in more than their site and their size."""
    first = _origin(stores[0])
    for store in stores[1:]:
        for name, value in _origin(store).items():
            if value != first[name]:
                raise ConfigError(
                    f"the stores of a sweep differ in nothing but their site; these have two "
                    f"{name}",
                    got=f"{_short(value)} in {store.path}",
                    expected=f"{_short(first[name])}, as in {stores[0].path}",
                )


def _origin(store: ActivationStore) -> dict[str, str]:
    return {
        "weights": store.identity.get("weights", ""),
        "tokenizers": store.identity.get("tokenizer", ""),
        "corpora": store.manifest.corpus_fingerprint,
    }


def _short(value: str) -> str:
    """A hash by its beginning."""
    return f"{value[:12]}…" if len(value) > 12 else value
