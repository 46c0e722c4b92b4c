"""The peers' names for places in a model, and ours: TransformerLens, Hugging Face paths, OpenAI."""

from __future__ import annotations

import re

from monoscope.sites import Site

# TransformerLens's hook within a block, and our kind of site; the first name of a kind is written.
_BLOCK = (
    ("hook_resid_pre", "resid_pre"),
    ("hook_resid_mid", "resid_mid"),
    ("hook_resid_post", "resid_post"),
    ("hook_attn_out", "attn_out"),
    ("hook_mlp_out", "mlp_out"),
    ("mlp.hook_post", "mlp_post"),
    ("hook_in", "resid_pre"),
    ("hook_out", "resid_post"),
    ("attn.hook_out", "attn_out"),
    ("mlp.hook_out", "mlp_out"),
)
_MODULES = {
    "": "resid_post",
    "mlp": "mlp_out",
    "attn": "attn_out",
    "self_attn": "attn_out",
    "attention": "attn_out",
}
_OPENAI = {
    "mlp_post_act": "mlp_post",
    "resid_delta_mlp": "mlp_out",
    "resid_delta_attn": "attn_out",
    "resid_post_mlp": "resid_post",
    "resid_post_attn": "resid_mid",
}
_MODELS = (
    (r"gpt2(?:-small)?", "gpt2"),
    (r"(gpt2-(?:medium|large|xl))", r"\1"),
    (r"(pythia-.+)", r"EleutherAI/\1"),
    (r"(gemma-.+)", r"google/\1"),
)


def site_of_hook(name: object) -> str | None:
    """Our site for a TransformerLens hook name; None where we have no such place."""
    text = str(name or "")
    if text in ("hook_embed", "embed.hook_out"):
        return "embed"
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", text)
    kind = dict(_BLOCK).get(match[2]) if match else None
    return f"{kind}.{match[1]}" if match and kind else None


def hook_of_site(site: object) -> str | None:
    """The TransformerLens hook name of one of our sites; None where it has none."""
    if not site:
        return None
    place = Site.parse(str(site))
    if place.kind == "embed":
        return "hook_embed"
    hook = next((hook for hook, kind in _BLOCK if kind == place.kind), None)
    return f"blocks.{place.layer}.{hook}" if hook else None


def site_of_module(path: object) -> str | None:
    """Our site for the output of a Hugging Face module: layers.3, transformer.h.3.mlp, …"""
    text = str(path or "")
    if re.fullmatch(r"(?:.*\.)?(?:embed_tokens|wte|embed_in)", text):
        return "embed"
    match = re.fullmatch(r"(?:.*\.)?(?:layers|h|blocks)\.(\d+)(?:\.(\w+))?", text)
    kind = _MODULES.get(match[2] or "") if match else None
    return f"{kind}.{match[1]}" if match and kind else None


def module_of_site(site: object) -> str | None:
    """The name that sparsify gives the place: layers.3, layers.3.mlp, embed_tokens."""
    if not site:
        return None
    place = Site.parse(str(site))
    names = {"resid_post": "", "mlp_out": ".mlp", "attn_out": ".self_attn"}
    if place.kind == "embed":
        return "embed_tokens"
    return f"layers.{place.layer}{names[place.kind]}" if place.kind in names else None


def site_of_openai(location: str, layer: str) -> str | None:
    """Our site for OpenAI's folder name (resid_post_mlp_v5_32k) and file stem (8)."""
    bare = re.sub(r"_v\d+(?:_\w+)?$", "", location)
    kind = _OPENAI.get(bare)
    return f"{kind}.{int(layer)}" if kind and layer.isdigit() else None


def site_of_layer(submodule: object, layer: object) -> str | None:
    """Our site for dictionary_learning's submodule_name (resid_post_layer_8) and layer."""
    match = re.fullmatch(r"(resid_pre|resid_post|mlp_out|attn_out)_layer_(\d+)", str(submodule))
    if match:
        return f"{match[1]}.{match[2]}"
    return site_of_module(submodule)


def model_name(name: object) -> str | None:
    """The hub's name of a model for the short names that TransformerLens gives some."""
    text = str(name or "")
    if not text or "/" in text:
        return text or None
    for pattern, full in _MODELS:
        if re.fullmatch(pattern, text):
            return re.sub(f"^{pattern}$", full, text)
    return text
