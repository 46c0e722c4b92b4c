"""dictionary_learning folders: ae.pt, a dictionary of tensors, and config.json, in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monoscope.artifact.interop.hooks import site_of_layer
from monoscope.artifact.interop.parts import Parts, json_text, whole
from monoscope.artifact.interop.weights import Leaves, read_json, read_torch, widths
from monoscope.errors import FormatError
from monoscope.files import atomic_path, write_atomic
from monoscope.sae import SAE
from monoscope.sites import Site

NAME = "dictionary_learning"
CONFIG, WEIGHTS = "config.json", "ae.pt"
CLASSES = {
    "AutoEncoder": "relu",
    "AutoEncoderNew": "relu",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "batchtopk",
    "MatryoshkaBatchTopKSAE": "batchtopk",
    "JumpReluAutoEncoder": "jumprelu",
    "GatedAutoEncoder": "gated",
}
_WRITTEN_AS = {
    "relu": "AutoEncoder",
    "topk": "AutoEncoderTopK",
    "batchtopk": "BatchTopKSAE",
    "jumprelu": "JumpReluAutoEncoder",
    "gated": "GatedAutoEncoder",
}
WRITES = tuple(_WRITTEN_AS)


def read(folder: Path, scale: float | None = None) -> Parts:
    """Read ae.pt as data alone, by the class that config.json names.

    Raises FormatError for a class that is no SAE of ours, for pickled code and damaged files.
    """
    trainer = read_json(folder / CONFIG).get("trainer")
    if not isinstance(trainer, dict):
        raise FormatError(f"{folder / CONFIG} is not as it should be", got="no trainer")
    kind = trainer.get("dict_class")
    if kind not in CLASSES:
        raise FormatError(
            f"{folder} is of a class that monoscope does not have",
            got=repr(kind),
            expected=f"one of {', '.join(CLASSES)}",
        )
    leaves = Leaves(folder / WEIGHTS, read_torch(folder / WEIGHTS))
    plain = kind in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE")
    parts = _matrices(leaves, trainer, plain=plain)
    parts.activation = CLASSES[kind]
    parts.provenance = _provenance(trainer)
    _biases(parts, kind, leaves)
    _selection(parts, kind, leaves, trainer)
    leaves.finish()
    parts.dtype = leaves.dtype
    return parts


def write(sae: SAE, folder: Path, lost: list[str]) -> None:
    """Write ae.pt and config.json as dictionary_learning's load_dictionary reads them."""
    kind = _WRITTEN_AS[sae.config.activation]
    site = sae.provenance.get("site")
    place = Site.parse(site) if site else None
    known = place is not None and place.kind in ("resid_pre", "resid_post", "mlp_out", "attn_out")
    if site and not known:
        lost.append(f"site {site}: dictionary_learning has no name for it")
    norms = sae.W_dec.detach().norm(dim=1)
    if kind == "AutoEncoder" and bool((norms - 1).abs().max() > 1e-5):
        lost.append(
            "decoder norms: dictionary_learning's own loader normalises the rows of an "
            "AutoEncoder, so its codes are ours times the norms; the reconstruction is the same"
        )
    trainer: dict[str, Any] = {
        "dict_class": kind,
        "trainer_class": None,
        "activation_dim": sae.d_in,
        "dict_size": sae.d_sae,
        "k": sae.config.k,
        "layer": place.layer if place else None,
        "lm_name": (sae.provenance.get("model") or {}).get("model"),
        "submodule_name": f"{place.kind}_layer_{place.layer}" if place and known else None,
    }
    with atomic_path(folder / WEIGHTS) as part:
        torch.save(_tensors(sae, kind), part)
    about = {"config": sae.config.to_json(), "provenance": sae.provenance}
    write_atomic(folder / CONFIG, json_text({"trainer": trainer, "monoscope": about}))


def _matrices(leaves: Leaves, trainer: dict[str, Any], *, plain: bool) -> Parts:
    """W_enc and W_dec, which two of the classes hold themselves and the others in nn.Linear."""
    names = ("W_enc", "W_dec") if plain else ("encoder.weight", "decoder.weight")
    d_in, d_sae = widths(
        leaves,
        names[0],
        d_in=trainer.get("activation_dim"),
        d_sae=trainer.get("dict_size"),
        rows="inputs" if plain else "latents",
    )
    if plain:
        w_enc = leaves.take(names[0], [d_in, d_sae], "(inputs, latents)").T.contiguous()
        w_dec = leaves.take(names[1], [d_sae, d_in], "(latents, inputs)")
    else:
        w_enc = leaves.take(names[0], [d_sae, d_in], "(latents, inputs)")
        w_dec = leaves.take(names[1], [d_in, d_sae], "(inputs, latents)").T.contiguous()
    zeros = torch.zeros
    return Parts(
        format=NAME, w_enc=w_enc, b_enc=zeros(d_sae), w_dec=w_dec, b_dec=zeros(d_in), activation=""
    )


def _biases(parts: Parts, kind: str, leaves: Leaves) -> None:
    d_sae, d_in = parts.w_enc.shape
    if kind == "GatedAutoEncoder":
        parts.b_dec = leaves.take("decoder_bias", [d_in])
        parts.b_enc = leaves.take("gate_bias", [d_sae])
        names = {"b_mag": "mag_bias", "r_mag": "r_mag"}
        parts.extra = {ours: leaves.take(theirs, [d_sae]) for ours, theirs in names.items()}
        return
    plain = kind in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE")
    parts.b_enc = leaves.take("b_enc" if plain else "encoder.bias", [d_sae])
    name = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias"}.get(kind, "b_dec")
    parts.b_dec = leaves.take(name, [d_in])
    if kind in ("AutoEncoderNew", "JumpReluAutoEncoder"):
        parts.uncentred()


def _selection(parts: Parts, kind: str, leaves: Leaves, trainer: dict[str, Any]) -> None:
    if parts.activation == "jumprelu":
        parts.threshold = leaves.take("threshold", [len(parts.b_enc)])
        return
    if parts.activation not in ("topk", "batchtopk"):
        return
    stored, said = leaves.number("k"), trainer.get("k")
    if stored is not None and said is not None and stored != said:
        raise FormatError(
            f"{leaves.path} and its config disagree on k", got=f"{stored:g} and {said}"
        )
    parts.k = whole(stored if stored is not None else said)
    theta = leaves.number("threshold")
    if parts.activation == "batchtopk":
        if theta is None or theta < 0:
            parts.lost.append(
                "threshold: it was never set in training (-1), so every positive latent fires, "
                "here as in dictionary_learning"
            )
        parts.threshold = torch.tensor(max(theta or 0.0, 0.0))
    if leaves.has("group_sizes"):
        sizes = leaves.left["group_sizes"]
        parts.provenance["imported"]["group_sizes"] = [int(n) for n in sizes]
        leaves.drop("group_sizes")


def _tensors(sae: SAE, kind: str) -> dict[str, Tensor]:
    """The state dictionary of the class `kind`."""
    t = {n: v.detach().cpu().contiguous().clone() for n, v in sae.state_dict().items()}
    if kind == "JumpReluAutoEncoder":  # its encoder sees x itself
        shift = t["W_enc"].double() @ t["b_dec"].double()
        return {
            "W_enc": t["W_enc"].T.contiguous(),
            "b_enc": (t["b_enc"].double() - shift).float(),
            "W_dec": t["W_dec"],
            "b_dec": t["b_dec"],
            "threshold": t["threshold"],
        }
    out = {"encoder.weight": t["W_enc"], "decoder.weight": t["W_dec"].T.contiguous()}
    if kind == "AutoEncoder":
        return out | {"encoder.bias": t["b_enc"], "bias": t["b_dec"]}
    if kind == "GatedAutoEncoder":
        return out | {
            "decoder_bias": t["b_dec"],
            "gate_bias": t["b_enc"],
            "mag_bias": t["b_mag"],
            "r_mag": t["r_mag"],
        }
    assert sae.config.k is not None
    theta = t["threshold"] if kind == "BatchTopKSAE" else torch.tensor(-1.0)
    k = torch.tensor(sae.config.k, dtype=torch.int)
    return out | {
        "encoder.bias": t["b_enc"], "b_dec": t["b_dec"], "k": k, "threshold": theta,
    }  # fmt: skip


def _provenance(trainer: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {"imported": {"config": {"trainer": trainer}}}
    site = site_of_layer(trainer.get("submodule_name"), trainer.get("layer"))
    if site:
        out["site"] = site
    if isinstance(trainer.get("lm_name"), str):
        out["model"] = {"model": trainer["lm_name"]}
    return out
