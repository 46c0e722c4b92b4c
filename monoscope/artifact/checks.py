"""Whether an SAE, a store, a language model and an atlas belong together, and which SAE it is."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from monoscope.errors import MismatchError
from monoscope.sites import Site

LEAVES = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
"""The weights that every SAE has, in the order that `weights_hash` takes them."""

_HASH_LENGTH = 40  # a commit or file hash; shorter revisions ("main") mean nothing without the name


class NameWarning(UserWarning):
    """Two models taken for the same by name, where nothing firmer is known of both."""


class StoreLike(Protocol):
    """What is asked of an activation store; this room may not know the one there is."""

    @property
    def d_in(self) -> int: ...
    @property
    def site(self) -> str: ...
    @property
    def identity(self) -> dict[str, str]: ...


class ModelLike(Protocol):
    """What is asked of a language model."""

    @property
    def identity(self) -> dict[str, str]: ...
    def width(self, site: Site) -> int: ...


def check_together(sae: Any, store: StoreLike, lm: ModelLike | None) -> None:
    """Raise MismatchError, naming both sides, where width, site or model differ.

    What an SAE's provenance does not say (an imported one may be silent) is not checked.
    """
    if sae.config.d_in != store.d_in:
        raise MismatchError(
            "the SAE and the store have different widths",
            got=f"an SAE with d_in {sae.config.d_in}",
            expected=f"d_in {store.d_in}, as in the store",
            hint="Use a store harvested from the SAE's own model and site.",
        )
    origin = getattr(sae, "provenance", None) or {}
    site = origin.get("site")
    if site and Site.parse(site) != Site.parse(store.site):
        raise MismatchError(
            "the SAE and the store are from different sites",
            got=f"an SAE trained at {site}",
            expected=f"{store.site}, as in the store",
            hint=f"Harvest a store with --site {site}.",
        )
    same_model(origin.get("model") or {}, "an SAE trained on", store.identity, "the store")
    if lm is not None:
        same_model(lm.identity, "the model", store.identity, "the store")
        width = lm.width(Site.parse(store.site))
        if width != store.d_in:
            raise MismatchError(
                f"the model and the store have different widths at {store.site}",
                got=width,
                expected=store.d_in,
            )


def check_model(sae: Any, lm: ModelLike) -> Site:
    """The SAE's own site in `lm`; MismatchError where the two do not belong together.

    Raises MismatchError too for an SAE that does not say where it was trained.
    """
    origin = getattr(sae, "provenance", None) or {}
    if not origin.get("site"):
        raise MismatchError(
            "the SAE does not say at which site it was trained",
            hint="Write it into its provenance, or evaluate it on a store.",
        )
    site = Site.parse(origin["site"])
    same_model(lm.identity, "the model", origin.get("model") or {}, "the SAE")
    width = lm.width(site)
    if width != sae.config.d_in:
        raise MismatchError(
            f"the model and the SAE have different widths at {site}",
            got=width,
            expected=sae.config.d_in,
        )
    return site


def check_atlas(sae: Any, manifest: Mapping[str, Any]) -> None:
    """Raise MismatchError unless the atlas with this manifest was made of this very SAE."""
    same_weights(weights_hash(sae), str(manifest["sae"]["hash"]))


def same_weights(weights: str, indexed: str) -> None:
    """Raise MismatchError unless an SAE's hash is the one that its atlas holds."""
    if weights != indexed:
        raise MismatchError(
            "the atlas was made with another SAE",
            got=f"weights {weights[:12]}",
            expected=f"{indexed[:12]}, as in the atlas",
            hint="Give the atlas of this SAE, or index it first.",
        )


def same_model(
    mine: Mapping[str, str], what: str, theirs: Mapping[str, str], whose: str = "the store"
) -> None:
    """Compare LM identities over what both of them say; equal weight hashes outweigh the name.

    Where the names alone differ, and end alike (google/gemma-2-2b, /models/gemma-2-2b), the two
    are taken for the same model with a NameWarning. Raises MismatchError that names both.
    """
    both = {key for key in ("model", "weights", "tokenizer") if mine.get(key) and theirs.get(key)}
    if "weights" in both and mine["weights"] == theirs["weights"] and _is_hash(mine["weights"]):
        both.discard("model")  # the same file may have been opened under another name
    differ = sorted(key for key in both if mine[key] != theirs[key])
    if differ == ["model"] and _last(mine["model"]) == _last(theirs["model"]):
        warnings.warn(
            f"{mine['model']} and {theirs['model']} are taken for the same model by name; "
            "unverified, as nothing firmer is known of both",
            NameWarning,
            stacklevel=3,
        )
    elif differ:
        raise MismatchError(
            f"another {' and '.join(differ)} than {whose}'s",
            got=f"{what} {_describe(mine, differ)}",
            expected=f"{_describe(theirs, differ)}, as in {whose}",
            hint="Use the model that they come from, or harvest again.",
        )


def weights_hash(sae: Any) -> str:
    """SHA-256 over all of an SAE's weights as float32, each after its name.

    First LEAVES, then what an activation or hidden layers add, in the order of the names.
    """
    held = {name: getattr(sae, name) for name in LEAVES}
    state = sae.state_dict() if hasattr(sae, "state_dict") else {}
    held |= {name: state[name] for name in sorted(state.keys() - held.keys())}
    digest = hashlib.sha256()
    for name, tensor in held.items():
        if tensor is not None:
            digest.update(name.encode())
            digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy())
    return digest.hexdigest()


def _last(name: str) -> str:
    """The last part of a path or of a hub's name."""
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()


def _is_hash(revision: str) -> bool:
    return len(revision) >= _HASH_LENGTH


def _describe(identity: Mapping[str, str], differ: list[str]) -> str:
    details = [f"[{key} {identity[key][:16]}]" for key in differ if key != "model"]
    return " ".join([identity.get("model", "(unnamed)"), *details])
