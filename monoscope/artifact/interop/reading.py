"""How an SAE's model read its training texts, in SAELens's words, as far as it is recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from monoscope.assets import DEMO

_ASKED = ("prepend_bos", "context_size", "exclude_special_tokens", "dataset_path")


@dataclass(frozen=True)
class Reading:
    """What SAELens's activation store wants to know; None is what was not recorded.

    prepend_bos: whether every window began with the tokenizer's prefix. context_size: tokens of a
    window, prefix included. exclude_special_tokens: ids that the SAE never saw. dataset_path: the
    hub's name of the texts.
    """

    prepend_bos: bool | None = None
    context_size: int | None = None
    exclude_special_tokens: list[int] | bool | None = None
    dataset_path: str | None = None

    def unknown(self) -> list[str]:
        """The names of what was not recorded."""
        return [name for name in _ASKED if getattr(self, name) is None]


def recorded_reading(provenance: Mapping[str, Any]) -> Reading:
    """What a provenance says of it: monoscope's own records, else the SAELens file it came from."""
    theirs = _their_metadata(provenance)
    prefix, policy = provenance.get("prefix_ids"), provenance.get("mask_policy")
    corpus, length = provenance.get("corpus") or {}, provenance.get("context_length")
    hub = corpus.get("name") if corpus.get("kind") == "hub" else None
    return Reading(
        prepend_bos=theirs.get("prepend_bos") if prefix is None else bool(prefix),
        context_size=theirs.get("context_size") if length is None else int(length),
        exclude_special_tokens=(
            list(policy["special_ids"]) if policy else theirs.get("exclude_special_tokens")
        ),
        dataset_path=hub or (None if corpus else theirs.get("dataset_path") or None),
    )


def not_said(provenance: Mapping[str, Any], reading: Reading) -> list[str]:
    """A line for each thing that SAELens's metadata have no word for, or that was not recorded."""
    lines: list[str] = []
    missing = reading.unknown()
    corpus = provenance.get("corpus") or {}
    if corpus and "dataset_path" in missing:
        missing.remove("dataset_path")
        name = corpus.get("name") or corpus.get("path") or "unnamed texts"
        lines.append(f"dataset_path: {name} is no dataset of the hub; it is None there")
    if missing:
        lines.append(
            f"{', '.join(missing)}: not recorded with this SAE, None there; SAELens's activation "
            "store asks for prepend_bos and context_size (--store tells them)"
        )
    prefix = provenance.get("prefix_ids") or []
    if len(prefix) > 1:
        lines.append(f"prefix of {len(prefix)} tokens: SAELens puts its one BOS there")
    limit = (provenance.get("mask_policy") or {}).get("max_norm")
    if limit is not None:
        lines.append(
            f"mask policy: SAELens leaves out special tokens alone, and this SAE never saw tokens "
            f"longer than {limit:.4g} either"
        )
    model = str((provenance.get("model") or {}).get("model") or "")
    if model and _only_here(model):
        lines.append(
            f"model_name {model}: a name known here alone; to have SAELens load the model, put the "
            "hub's name into the metadata of cfg.json"
        )
    return lines


def _their_metadata(provenance: Mapping[str, Any]) -> Mapping[str, Any]:
    config = (provenance.get("imported") or {}).get("config") or {}
    found = config.get("metadata")
    return found if isinstance(found, Mapping) else {}


def _only_here(model: str) -> bool:
    """Whether a model's name is the embedded one's, or a path on this machine."""
    return model == DEMO or model.endswith(".gguf") or model.startswith(("/", ".", "~", "\\"))
