"""EleutherAI sparsify folders, one per hook point: cfg.json and sae.safetensors, in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from monoscope.artifact.interop.hooks import module_of_site, site_of_module
from monoscope.artifact.interop.parts import Parts, json_text, whole, written_dtype
from monoscope.artifact.interop.weights import Leaves, read_json, read_safetensors, widths
from monoscope.errors import FormatError
from monoscope.files import atomic_path, write_atomic
from monoscope.sae import SAE

NAME = "sparsify"
CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
WRITES = ("topk",)


def read(folder: Path, scale: float | None = None) -> Parts:
    """Read one hook point's folder; its name says the site.

    num_latents 0 means d_in · expansion_factor. Raises FormatError for transcoders, skip
    connections and groupmax, which are no plain TopK SAE.
    """
    cfg = read_json(folder / CONFIG)
    for key, what in (("transcode", "a transcoder"), ("skip_connection", "a skip connection")):
        if cfg.get(key):
            raise FormatError(f"{folder} is {what}, which monoscope does not have", got=f"{key} on")
    if cfg.get("activation", "topk") != "topk":
        raise FormatError(
            f"{folder} has an activation that monoscope does not have",
            got=cfg["activation"],
            expected="topk",
        )
    if cfg.get("signed"):
        raise FormatError(f"{folder} has signed latents, which monoscope does not have")
    leaves = Leaves(folder / WEIGHTS, read_safetensors(folder / WEIGHTS))
    said = cfg.get("num_latents") or _product(cfg.get("d_in"), cfg.get("expansion_factor"))
    d_in, d_sae = widths(leaves, "encoder.weight", d_in=cfg.get("d_in"), d_sae=said, rows="latents")
    parts = Parts(
        format=NAME,
        w_enc=leaves.take("encoder.weight", [d_sae, d_in], "(latents, inputs)"),
        b_enc=leaves.take("encoder.bias", [d_sae]),
        w_dec=leaves.take("W_dec", [d_sae, d_in], "(latents, inputs)"),
        b_dec=leaves.take("b_dec", [d_in]),
        activation="topk",
        k=whole(cfg.get("k")),
        provenance=_provenance(cfg, folder),
    )
    leaves.finish()
    parts.dtype = leaves.dtype
    return parts


def write(sae: SAE, folder: Path, lost: list[str]) -> None:
    """Write cfg.json and sae.safetensors of a TopK SAE; there is no place for metadata."""
    name = module_of_site(sae.provenance.get("site"))
    if name is None or folder.name != name:
        lost.append(
            f"site {sae.provenance.get('site')}: sparsify reads it from the folder's name"
            + (f", which should be {name}" if name else ", and has none for it")
        )
    if sae.provenance:
        lost.append("provenance: sparsify's config has no place for it")
    dtype = written_dtype(sae)
    tensors = {
        "encoder.weight": sae.W_enc,
        "encoder.bias": sae.b_enc,
        "W_dec": sae.W_dec,
        "b_dec": sae.b_dec,
    }
    norms = sae.W_dec.detach().norm(dim=1)
    cfg: dict[str, Any] = {
        "activation": "topk",
        "expansion_factor": max(1, sae.d_sae // sae.d_in),
        "normalize_decoder": bool((norms - 1).abs().max() < 1e-3),
        "num_latents": sae.d_sae,
        "k": sae.config.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": sae.d_in,
    }
    with atomic_path(folder / WEIGHTS) as part:
        stored = {n: t.detach().cpu().to(dtype).contiguous() for n, t in tensors.items()}
        save_file(stored, part)
    write_atomic(folder / CONFIG, json_text(cfg))


def _product(d_in: object, factor: object) -> int | None:
    if isinstance(d_in, int) and isinstance(factor, int | float):
        return int(d_in * factor)
    return None


def _provenance(cfg: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The site by the folder's name; the model and corpus by the run's config.json above it."""
    out: dict[str, Any] = {"imported": {"config": cfg}}
    site = site_of_module(folder.name)
    if site:
        out["site"] = site
    run = folder.parent / "config.json"
    if run.is_file():
        about = read_json(run)
        if isinstance(about.get("model"), str):
            out["model"] = {"model": about["model"]}
    return out
