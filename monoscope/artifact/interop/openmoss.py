"""OpenMOSS folders: Llama Scope (hyperparams.json) and Llamascopium (config.json), read only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monoscope.artifact.interop.hooks import model_name, site_of_hook
from monoscope.artifact.interop.parts import Parts, whole
from monoscope.artifact.interop.weights import (
    Leaves,
    read_json,
    read_safetensors,
    read_torch,
    widths,
)
from monoscope.errors import FormatError

NAME = "openmoss"
LEGACY, CONFIG = "hyperparams.json", "config.json"
# Where the weights may lie, in the order in which OpenMOSS's own loader looks.
WEIGHTS = tuple(
    f"{stem}{suffix}"
    for stem in ("sae_weights", "checkpoints/pruned", "checkpoints/final")
    for suffix in (".safetensors", ".pt")
)
_NORM = "dataset_average_activation_norm"
_ACTIVATIONS = ("relu", "jumprelu", "topk")


def read(folder: Path, scale: float | None = None) -> Parts:
    """Read a folder of either generation; activations of mean norm √D are folded into raw ones.

    f_i = z_i·1[z_i ‖W_dec[i]‖ > θ_i] with z = s x W_enc + b_enc where the decoder norm is included.
    Raises FormatError for transcoders, GLU encoders and rules that depend on the batch.
    """
    legacy = not (folder / CONFIG).is_file()
    cfg = read_json(folder / (LEGACY if legacy else CONFIG))
    _check(cfg, folder)
    leaves = _leaves(folder)
    parts = _matrices(cfg, leaves)
    d_sae, d_in = parts.w_enc.shape
    parts.activation = "jumprelu" if legacy else str(cfg.get("act_fn", "relu")).lower()
    include = bool(cfg.get("sparsity_include_decoder_norm", not legacy))
    factor = _factor(cfg, leaves, d_in, scale)
    if parts.activation == "jumprelu":
        parts.threshold = _threshold(cfg, leaves, d_sae, factor if legacy else 1.0)
        if include:
            parts.threshold = parts.threshold / parts.w_dec.norm(dim=1).clamp_min(1e-8)
    if parts.activation == "topk":
        parts.k = whole(cfg.get("top_k"))
        if include:
            parts.unit_rows()
            parts.lost.append(
                "sparsity_include_decoder_norm: TopK chooses by z·‖W_dec‖, so codes here are "
                "theirs times the decoder norm; the reconstruction is the same"
            )
    leaves.finish()
    parts.dtype = leaves.dtype
    if cfg.get("norm_activation") == "token-wise":
        parts.per_token = "rms"
    elif factor != 1.0:
        parts.scaled_input(factor)
    if not cfg.get("apply_decoder_bias_to_pre_encoder", False):
        parts.uncentred()
    return parts


def _check(cfg: dict[str, Any], folder: Path) -> None:
    """Raise FormatError for what is no plain SAE of ours."""
    into, out = cfg.get("hook_point_in"), cfg.get("hook_point_out")
    refused = {
        "a transcoder": into != out,
        f"a {cfg.get('sae_type')}": cfg.get("sae_type", "sae") != "sae",
        "an SAE with a GLU encoder": bool(cfg.get("use_glu_encoder")),
        "normalised by batch": cfg.get("norm_activation") == "batch-wise",
    }
    for what, found in refused.items():
        if found:
            raise FormatError(f"{folder} is {what}, which monoscope does not have")
    activation = str(cfg.get("act_fn", "relu")).lower()
    if activation not in _ACTIVATIONS:
        raise FormatError(
            f"{folder} has an activation that monoscope does not have",
            got=activation,
            expected=f"one of {', '.join(_ACTIVATIONS)}",
            hint="It depends on the batch; convert it to jumprelu with OpenMOSS's own tool.",
        )


def _leaves(folder: Path) -> Leaves:
    for name in WEIGHTS:
        path = folder / name
        if path.suffix == ".safetensors" and path.is_file():
            return Leaves(path, read_safetensors(path))
        if path.is_file():
            stored = read_torch(path).get("sae")
            if not isinstance(stored, dict):
                raise FormatError(f"{path} is not as it should be", expected="weights under sae")
            return Leaves(path, stored)
    raise FormatError(f"{folder} has no weights", expected=f"one of {', '.join(WEIGHTS)}")


def _matrices(cfg: dict[str, Any], leaves: Leaves) -> Parts:
    """Weights under either generation's names: W_E [D,L] or encoder.weight [L,D]."""
    d_in, d_sae = cfg.get("d_model"), cfg.get("d_sae")
    if d_sae is None and isinstance(d_in, int) and "expansion_factor" in cfg:
        d_sae = int(d_in * cfg["expansion_factor"])
    old = leaves.has("encoder.weight")
    name = "encoder.weight" if old else "W_E"
    d_in, d_sae = widths(leaves, name, d_in=d_in, d_sae=d_sae, rows="latents" if old else "inputs")
    if old:
        w_enc = leaves.take("encoder.weight", [d_sae, d_in], "(latents, inputs)")
        w_dec = leaves.take("decoder.weight", [d_in, d_sae], "(inputs, latents)").T.contiguous()
    else:
        w_enc = leaves.take("W_E", [d_in, d_sae], "(inputs, latents)").T.contiguous()
        w_dec = leaves.take("W_D", [d_sae, d_in], "(latents, inputs)")
    bias = cfg.get("use_decoder_bias", True)
    return Parts(
        format=NAME,
        w_enc=w_enc,
        b_enc=leaves.take("encoder.bias" if old else "b_E", [d_sae]),
        w_dec=w_dec,
        b_dec=leaves.take("decoder.bias" if old else "b_D", [d_in]) if bias else torch.zeros(d_in),
        activation="",
        provenance=_provenance(cfg),
    )


def _factor(cfg: dict[str, Any], leaves: Leaves, d_in: int, scale: float | None) -> float:
    """s = √D / (mean norm of the activations), which the SAE's input was multiplied by."""
    hook = cfg.get("hook_point_in")
    said = (cfg.get(_NORM) or {}).get("in")
    stored = leaves.number(f"{_NORM}.{hook}")
    leaves.drop(f"{_NORM}.{cfg.get('hook_point_out')}")
    if cfg.get("norm_activation", "dataset-wise") != "dataset-wise":
        return 1.0
    if scale is not None:
        return scale
    norm = said if said is not None else stored
    if norm is None or not float(norm) > 0:
        raise FormatError(
            f"{leaves.path} does not say the mean norm of the activations it was trained on",
            expected=f"{_NORM}.{hook}",
            hint="Give the factor √d_in / (mean norm) as --scale.",
        )
    return float(d_in**0.5 / float(norm))


def _threshold(cfg: dict[str, Any], leaves: Leaves, d_sae: int, factor: float) -> Tensor:
    """θ of every latent. Llama Scope's one number is in raw units: it is multiplied by s."""
    for name in ("activation_function.log_jumprelu_threshold", "log_jumprelu_threshold"):
        if leaves.has(name):
            return leaves.take(name, [d_sae]).exp()
    theta = cfg.get("jump_relu_threshold")
    if not isinstance(theta, int | float):
        raise FormatError(f"{leaves.path} has no thresholds", expected="log_jumprelu_threshold")
    return torch.full((d_sae,), float(theta) * factor)


def _provenance(cfg: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {"imported": {"config": cfg}}
    site, name = site_of_hook(cfg.get("hook_point_in")), model_name(cfg.get("model_name"))
    if site:
        out["site"] = site
    if name:
        out["model"] = {"model": name}
    return out
