"""OpenAI's sparse_autoencoder files: one {layer}.pt per SAE, read only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from monoscope.artifact.interop.hooks import site_of_openai
from monoscope.artifact.interop.parts import Parts, whole
from monoscope.artifact.interop.weights import Leaves, read_torch, widths
from monoscope.errors import FormatError

NAME = "openai"


def read(file: Path, scale: float | None = None) -> Parts:
    """Read a ReLU (v1, v4) or TopK (v5) file as data alone; its path says layer and site.

    TopK files normalise each token to mean 0 and spread 1 first, and undo it last.
    Raises FormatError for pickled code, tied decoders and activations that are no SAE of ours.
    """
    stored = dict(read_torch(file))
    activation = stored.pop("activation", "ReLU")
    settings = stored.pop("activation_state_dict", {})
    leaves = Leaves(file, stored)
    leaves.drop("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
    leaves.drop("decoder.linear.weight")  # a tied decoder names the encoder a second time
    d_in, d_sae = widths(
        leaves, "encoder.weight", d_in=leaves.length("pre_bias"),
        d_sae=leaves.length("latent_bias"), rows="latents", by="its biases",
    )  # fmt: skip
    w_enc = leaves.take("encoder.weight", [d_sae, d_in], "(latents, inputs)")
    if leaves.has("decoder.weight"):
        w_dec = leaves.take("decoder.weight", [d_in, d_sae], "(inputs, latents)").T.contiguous()
    else:
        w_dec = w_enc.clone()
    parts = Parts(
        format=NAME,
        w_enc=w_enc,
        b_enc=leaves.take("latent_bias", [d_sae]),
        w_dec=w_dec,
        b_dec=leaves.take("pre_bias", [d_in]),
        activation="relu",
        provenance=_provenance(file, activation),
    )
    leaves.finish()
    parts.dtype = leaves.dtype
    _activate(parts, activation, settings, file)
    return parts


def _activate(parts: Parts, activation: object, settings: object, file: Path) -> None:
    if activation == "ReLU":
        return
    after = settings.get("postact_fn") if isinstance(settings, dict) else None
    if activation != "TopK" or not isinstance(settings, dict) or after != "ReLU":
        raise FormatError(
            f"{file} has an activation that monoscope does not have",
            got=f"{activation} then {after}" if after else activation,
            expected="ReLU, or TopK then ReLU",
        )
    k = settings.get("k")
    parts.k = whole(k.item() if isinstance(k, torch.Tensor) else k)
    parts.activation, parts.per_token = "topk", "layer_norm"


def _provenance(file: Path, activation: object) -> dict[str, Any]:
    """From …/gpt2-small/{location}/autoencoders/{layer}.pt, as far as the path goes that way."""
    out: dict[str, Any] = {"imported": {"config": {"activation": str(activation)}}}
    if file.parent.name == "autoencoders":
        site = site_of_openai(file.parents[1].name, file.stem)
        if site:
            out["site"] = site
        if file.parents[2].name == "gpt2-small":
            out["model"] = {"model": "gpt2"}
    return out
