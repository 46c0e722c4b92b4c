"""Whether an SAE, a store and a language model belong together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from monoscope.errors import MismatchError
from monoscope.sites import Site

if TYPE_CHECKING:
    from monoscope.data.store import ActivationStore
    from monoscope.lm.protocol import LM
    from monoscope.sae import SAE

_HASH_LENGTH = 40  # a commit or file hash; shorter revisions ("main") mean nothing without the name


def check_together(sae: SAE, store: ActivationStore, lm: LM | None) -> None:
    """Raise MismatchError, naming both sides, where width, site or model differ.

    What an SAE's provenance does not say (an imported one may be silent) is not checked.
    """
    if sae.config.d_in != store.d_in:
        raise MismatchError(
            "the SAE and the store have different widths",
            got=f"an SAE with d_in {sae.config.d_in}",
            expected=f"d_in {store.d_in}, as in the store",
            hint="Evaluate on a store harvested from the SAE's own model and site.",
        )
    origin = getattr(sae, "provenance", None) or {}
    site = origin.get("site")
    if site is not None and Site.parse(site) != Site.parse(store.site):
        raise MismatchError(
            "the SAE and the store are from different sites",
            got=f"an SAE trained at {site}",
            expected=f"{store.site}, as in the store",
            hint=f"Harvest a store with --site {site}.",
        )
    if origin.get("model"):
        _same_model(origin["model"], "an SAE trained on", store.identity)
    if lm is not None:
        _same_model(lm.identity, "the model", store.identity)
        width = lm.width(Site.parse(store.site))
        if width != store.d_in:
            raise MismatchError(
                f"the model and the store have different widths at {store.site}",
                got=width,
                expected=store.d_in,
            )


def _same_model(mine: Mapping[str, str], what: str, store: Mapping[str, str]) -> None:
    """Compare LM identities over what both of them say; equal weight hashes outweigh the name."""
    both = {key for key in ("model", "weights", "tokenizer") if mine.get(key) and store.get(key)}
    if "weights" in both and mine["weights"] == store["weights"] and _is_hash(mine["weights"]):
        both.discard("model")
    differ = sorted(key for key in both if mine[key] != store[key])
    if differ:
        raise MismatchError(
            f"another {' and '.join(differ)} than the store's",
            got=f"{what} {_describe(mine, differ)}",
            expected=f"{_describe(store, differ)}, as in the store",
            hint="Use the model that the store was harvested from, or harvest again.",
        )


def _is_hash(revision: str) -> bool:
    return len(revision) >= _HASH_LENGTH


def _describe(identity: Mapping[str, str], differ: list[str]) -> str:
    details = [f"{key} {identity[key][:16]}" for key in differ if key != "model"]
    return " ".join([identity.get("model", "(unnamed)"), *(f"[{d}]" for d in details)])
