"""Where each named site lives in each family of transformer.

A family is one row of attribute paths. A named site becomes a Port: a module and the side of it
on which the activation passes. Every row is tested against the model's own hidden states.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from monoscope.errors import SiteError, nearest
from monoscope.sites import Site

# The kinds of site within a block, in the order in which a forward pass comes by them.
FORWARD_ORDER = (
    "resid_pre",
    "attn_out",
    "resid_mid",
    "mlp_in",
    "mlp_post",
    "mlp_out",
    "resid_post",
)


@dataclass(frozen=True)
class Port:
    """One side of one module, where an activation is read and edits are written.

    module: dotted path from the causal LM.  io: "in", its first input, or "out", its first output.
    rejoin: a module whose output must carry an edit on. The residual stream passes the MLP's norm
    on a by-pass, so replacing the norm's input alone would not edit the stream.
    """

    module: str
    io: Literal["in", "out"]
    rejoin: str | None = None


@dataclass(frozen=True)
class Family:
    """Attribute paths of one architecture; all but `blocks` are relative to a block.

    attn_out, mlp_out: the module whose output is added to the residual stream.
    mid_norm: the norm that reads the stream after attention.  mlp_down: the last linear map of
    the MLP, whose input is the neurons' activations.
    """

    blocks: str
    attn_out: str
    mid_norm: str
    mlp: str
    mlp_down: str
    mlp_out: str


_LLAMA = Family(
    blocks="model.layers",
    attn_out="self_attn",
    mid_norm="post_attention_layernorm",
    mlp="mlp",
    mlp_down="mlp.down_proj",
    mlp_out="mlp",
)
_GEMMA_2 = Family(
    blocks="model.layers",
    attn_out="post_attention_layernorm",
    mid_norm="pre_feedforward_layernorm",
    mlp="mlp",
    mlp_down="mlp.down_proj",
    mlp_out="post_feedforward_layernorm",
)
# Gemma 3 that reads images too (all but its smallest sizes): the text model in a nest of its own.
_GEMMA_3_NEST = replace(_GEMMA_2, blocks="model.language_model.layers")
_GPT2 = Family(
    blocks="transformer.h",
    attn_out="attn",
    mid_norm="ln_2",
    mlp="mlp",
    mlp_down="mlp.c_proj",
    mlp_out="mlp",
)
_GPT_NEOX = Family(
    blocks="gpt_neox.layers",
    attn_out="attention",
    mid_norm="post_attention_layernorm",
    mlp="mlp",
    mlp_down="mlp.dense_4h_to_h",
    mlp_out="mlp",
)

# Keyed by the `model_type` of a Hugging Face configuration.
FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _GEMMA_2,
    "gemma3_text": _GEMMA_2,
    "gemma3": _GEMMA_3_NEST,
    "gpt2": _GPT2,
    "gpt_neox": _GPT_NEOX,
}


def base_of(model: Any) -> Any:
    """The part of a causal LM that ends with the last hidden state, without the unembedding.

    The model itself where there is no such part.
    """
    # Some versions of some families name the part wrongly, and so give the whole model here.
    return model.base_model if model.base_model is not model else model.get_decoder()


def family_of(model: Any) -> Family | None:
    """The row for a model, or None where the family is not known."""
    return FAMILIES.get(str(getattr(model.config, "model_type", "")))


def site_names(model: Any) -> list[str]:
    """Every named site of a model, in the order of the forward pass; `module:…` is not listed."""
    family = family_of(model)
    if family is None:
        return ["embed"]
    kinds = _kinds(model)
    layers = len(_blocks(model, family))
    return ["embed", *(f"{kind}.{layer}" for layer in range(layers) for kind in kinds)]


def port_of(model: Any, site: Site) -> Port:
    """The module and side at which a site lives.

    Raises SiteError for a layer, a module or a kind of site that the model lacks.
    """
    if site.kind == "module":
        return _module_port(model, site)
    family = family_of(model)
    if family is None:
        return _unknown_family_port(model, site)
    if site.kind == "embed":
        return Port(f"{family.blocks}.0", "in")
    _check_site(model, family, site)
    block = f"{family.blocks}.{site.layer}"
    ports = {
        "resid_pre": Port(block, "in"),
        "resid_mid": Port(f"{block}.{family.mid_norm}", "in", rejoin=block),
        "resid_post": Port(block, "out"),
        "attn_out": Port(f"{block}.{family.attn_out}", "out"),
        "mlp_in": Port(f"{block}.{family.mlp}", "in"),
        "mlp_post": Port(f"{block}.{family.mlp_down}", "in"),
        "mlp_out": Port(f"{block}.{family.mlp_out}", "out"),
    }
    return ports[site.kind]


def _blocks(model: Any, family: Family) -> nn.ModuleList:
    blocks = model.get_submodule(family.blocks)
    assert isinstance(blocks, nn.ModuleList)
    return blocks


def _parallel(model: Any) -> bool:
    """Attention and MLP both read the block's input: no residual stream between them."""
    return bool(getattr(model.config, "use_parallel_residual", False))


def _kinds(model: Any) -> list[str]:
    return [kind for kind in FORWARD_ORDER if not (kind == "resid_mid" and _parallel(model))]


def _check_site(model: Any, family: Family, site: Site) -> None:
    kinds, last = _kinds(model), len(_blocks(model, family)) - 1
    if site.kind not in kinds:
        raise SiteError(
            "this model has no residual stream between attention and MLP, which run in parallel",
            got=site,
            expected=f"embed, {'.L, '.join(kinds)}.L with L in 0…{last}",
        )
    if site.layer is None or site.layer > last:
        raise SiteError(
            f"the model has no layer {site.layer}",
            got=site,
            expected=f"embed, {'.L, '.join(kinds)}.L with L in 0…{last}, or module:dotted.path",
        )


def _module_port(model: Any, site: Site) -> Port:
    assert site.path is not None
    names = dict(model.named_modules())
    if site.path in names:
        return Port(site.path, site.io)
    close = nearest(site.path, names)
    raise SiteError(
        "the model has no such module",
        got=site.path,
        expected=f"one of its {len(names) - 1} modules, such as {', '.join(_some(names))}",
        hint=f"Did you mean module:{close}?" if close else None,
    )


def _unknown_family_port(model: Any, site: Site) -> Port:
    kind = getattr(model.config, "model_type", type(model).__name__)
    if site.kind == "embed":
        for name, module in model.named_modules():
            if module is model.get_input_embeddings():
                return Port(name, "out")
    names = dict(model.named_modules())
    raise SiteError(
        f"the family {kind!r} has no named sites in monoscope besides embed",
        got=site,
        expected=f"module:dotted.path, such as {', '.join('module:' + n for n in _some(names))}",
        hint=f"Named sites are known for {', '.join(FAMILIES)}.",
    )


def _some(names: dict[str, nn.Module]) -> list[str]:
    """A few module paths worth showing: the repeated blocks of the model."""
    blocks = [
        f"{name}.{index}"
        for name, module in names.items()
        if isinstance(module, nn.ModuleList)
        for index in (0, len(module) - 1)
        if len(module)
    ]
    return list(dict.fromkeys(blocks))[:4] or [name for name in names if name][:4]
