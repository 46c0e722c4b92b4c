"""Whether an SAE, a store and a language model belong together, and which SAE it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from monoscope.errors import MismatchError
from monoscope.sites import Site

_HASH_LENGTH = 40  # shorter revisions, such as "main", mean nothing without the model's name


def check_together(sae: Any, store: Any, lm: Any) -> None:
    """Raise MismatchError, naming both sides, where width, site or model differ.

    What the SAE's provenance does not say is not checked.
    """
    if sae.config.d_in != store.d_in:
        raise MismatchError(
            "the SAE and the store have different widths",
            got=f"an SAE with d_in {sae.config.d_in}",
            expected=f"d_in {store.d_in}, as in the store",
            hint="Index a store harvested from the SAE's own model and site.",
        )
    provenance = getattr(sae, "provenance", None) or {}
    site = provenance.get("site")
    if site and Site.parse(site) != Site.parse(store.site):
        raise MismatchError(
            "the SAE and the store are from different sites",
            got=f"an SAE trained at {site}",
            expected=f"{store.site}, as in the store",
            hint=f"Harvest a store with --site {site}.",
        )
    _same_model(provenance.get("model") or {}, "an SAE trained on", store.identity)
    if lm is not None:
        _same_model(lm.identity, "the model", store.identity)


def weights_hash(sae: Any) -> str:
    """SHA-256 over an SAE's weights (W_enc, b_enc, W_dec, b_dec, threshold) as float32."""
    digest = hashlib.sha256()
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"):
        tensor = getattr(sae, name)
        if tensor is not None:
            digest.update(name.encode())
            digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy())
    return digest.hexdigest()


def _same_model(mine: Mapping[str, str], what: str, store: Mapping[str, str]) -> None:
    both = [key for key in ("model", "weights", "tokenizer") if mine.get(key) and store.get(key)]
    same_weights = "weights" in both and mine["weights"] == store["weights"]
    if same_weights and len(mine["weights"]) >= _HASH_LENGTH and "model" in both:
        both.remove("model")  # the same file may have been opened under another name
    differ = [key for key in both if mine[key] != store[key]]
    if differ:
        raise MismatchError(
            f"another {' and '.join(differ)} than the store's",
            got=f"{what} {_described(mine, differ)}",
            expected=f"{_described(store, differ)}, as in the store",
            hint="Use the model that the store was harvested from, or harvest again.",
        )


def _described(identity: Mapping[str, str], differ: list[str]) -> str:
    details = [f"[{key} {identity[key][:16]}]" for key in differ if key != "model"]
    return " ".join([identity.get("model", "(unnamed)"), *details])
