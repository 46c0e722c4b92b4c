"""Gemma Scope archives: params.npz with a JumpReLU SAE, read only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from monoscope.artifact.interop.parts import Parts
from monoscope.artifact.interop.weights import Leaves, read_npz, widths

NAME = "gemma_scope"
WEIGHTS = "params.npz"
_SITES = {"res": "resid_post", "mlp": "mlp_out"}


def read(file: Path, scale: float | None = None) -> Parts:
    """Read params.npz: f = z·1[z > θ] with z = x W_enc + b_enc; x itself, not x − b_dec.

    The layer and the model come from the path, google/gemma-scope-2b-pt-res/layer_20/….
    """
    arrays = {("W_" + n[2:] if n.startswith("w_") else n): t for n, t in read_npz(file).items()}
    leaves = Leaves(file, arrays)
    d_in, d_sae = widths(
        leaves, "W_enc", d_in=leaves.length("b_dec"), d_sae=leaves.length("b_enc"), rows="inputs",
        by="its biases",
    )  # fmt: skip
    parts = Parts(
        format=NAME,
        w_enc=leaves.take("W_enc", [d_in, d_sae], "(inputs, latents)").T.contiguous(),
        b_enc=leaves.take("b_enc", [d_sae]),
        w_dec=leaves.take("W_dec", [d_sae, d_in], "(latents, inputs)"),
        b_dec=leaves.take("b_dec", [d_in]),
        activation="jumprelu",
        threshold=leaves.take("threshold", [d_sae]),
        provenance=_provenance(file),
    )
    leaves.finish()
    parts.dtype = leaves.dtype
    parts.uncentred()
    if any(part == "embedding" for part in file.parts):  # trained on embeddings times √D
        parts.w_enc = parts.w_enc / d_in**0.5
        parts.w_dec = parts.w_dec * d_in**0.5
    return parts


def _provenance(file: Path) -> dict[str, Any]:
    out: dict[str, Any] = {"imported": {"config": {}}}
    path = "/".join(file.parts)
    repo = re.search(r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att)", path)
    layer = re.search(r"layer_(\d+)", path)
    if repo:
        out["model"] = {"model": f"google/gemma-2-{repo[1]}{'-it' if repo[2] == 'it' else ''}"}
    if repo and layer and repo[3] in _SITES:
        out["site"] = f"{_SITES[repo[3]]}.{layer[1]}"
    elif repo and repo[3] == "res" and "embedding" in file.parts:
        out["site"] = "embed"
    return out
