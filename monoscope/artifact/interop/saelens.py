"""SAELens folders: cfg.json and sae_weights.safetensors, from version 2 to 6, in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from monoscope.artifact.interop.hooks import hook_of_site, model_name, site_of_hook
from monoscope.artifact.interop.parts import Parts, dtype_name, json_text, whole, written_dtype
from monoscope.artifact.interop.reading import not_said, recorded_reading
from monoscope.artifact.interop.weights import Leaves, read_json, read_safetensors, widths
from monoscope.errors import FormatError
from monoscope.files import atomic_path, write_atomic
from monoscope.sae import SAE, SAEConfig

NAME = "saelens"
CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
SCALER = "activation_scaler.json"  # beside the weights of a SAELens training checkpoint
WRITES = ("relu", "topk", "batchtopk", "jumprelu", "gated")
VERSION = "6.0.0"  # the first whose reader takes what `write` writes
_READS = {
    "standard": "relu",
    "topk": "topk",
    "abstopk": "abstopk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "batchtopk": "batchtopk",
    "matryoshka_batchtopk": "batchtopk",
}
_WRITTEN_AS = {"relu": "standard", "batchtopk": "jumprelu"}
_PER_TOKEN: dict[str, Any] = {"layer_norm": "layer_norm", "constant_norm_rescale": "rms"}
_METADATA = ("model_name", "hook_name", "hook_layer", "prepend_bos", "context_size", "dataset_path")


def read(folder: Path, scale: float | None = None) -> Parts:
    """Read a SAELens folder, legacy or present.

    scale: what activations were multiplied by in training, for a file of
    normalize_activations="expected_average_only_in" that does not hold it.
    Raises FormatError for what is damaged, and for architectures that are no plain SAE.
    """
    cfg = _present(read_json(folder / CONFIG), folder)
    architecture = str(cfg["architecture"])
    if architecture not in _READS:
        raise FormatError(
            f"{folder} is a SAELens {architecture}, which monoscope does not have",
            expected=f"one of {', '.join(_READS)}",
        )
    leaves = Leaves(folder / WEIGHTS, read_safetensors(folder / WEIGHTS))
    d_in, d_sae = widths(leaves, "W_enc", d_in=cfg.get("d_in"), d_sae=cfg.get("d_sae"),
                         rows="inputs")  # fmt: skip
    parts = Parts(
        format=NAME,
        w_enc=leaves.take("W_enc", [d_in, d_sae], "(inputs, latents)").T.contiguous(),
        b_enc=torch.zeros(d_sae),
        w_dec=leaves.take("W_dec", [d_sae, d_in], "(latents, inputs)"),
        b_dec=leaves.take("b_dec", [d_in]),
        activation=_READS[architecture],
        k=cfg.get("k"),
        provenance=_provenance(cfg),
    )
    _own_weights(parts, architecture, leaves, d_sae)
    _finetuned(parts, cfg, leaves, d_sae)
    leaves.drop("sparsity", "log_sparsity")
    leaves.finish()
    parts.dtype = leaves.dtype
    _fold(parts, cfg, folder, scale)
    return _restored(parts, cfg)


def write(sae: SAE, folder: Path, lost: list[str]) -> None:
    """Write cfg.json and sae_weights.safetensors as SAELens 6 reads them; `lost` gains what is not.

    A batchtopk SAE goes out as jumprelu with its one threshold on every latent,
    as SAELens writes its own.
    """
    activation = sae.config.activation
    dtype = written_dtype(sae)
    tensors = {"W_enc": sae.W_enc.T, "b_enc": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    if activation == "gated":
        tensors["b_gate"] = tensors.pop("b_enc")
        tensors |= {"b_mag": sae.b_mag, "r_mag": sae.r_mag}
    if activation in ("jumprelu", "batchtopk"):
        tensors["threshold"] = sae.threshold.expand(sae.d_sae)
    cfg: dict[str, Any] = {
        "architecture": _WRITTEN_AS.get(activation, activation),
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": dtype_name(dtype),
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": _metadata(sae, lost),
    }
    if activation == "topk":
        cfg |= {"k": sae.config.k, "rescale_acts_by_decoder_norm": False}
    stored = {n: t.detach().cpu().to(dtype).contiguous() for n, t in tensors.items()}
    with atomic_path(folder / WEIGHTS) as part:
        save_file(stored, part)
    write_atomic(folder / CONFIG, json_text(cfg))


def _present(cfg: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A config of any version in the words of version 6: flat legacy keys, metadata apart."""
    metadata = dict(cfg.get("metadata") or {})
    version = str(cfg.get("sae_lens_version") or metadata.get("sae_lens_version") or "0")
    renamed = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}
    out = {renamed.get(key, key): value for key, value in cfg.items()}
    if not version.split(".")[0].isdigit() or int(version.split(".")[0]) < 6:
        metadata = {k: out.get(k) for k in _METADATA if out.get(k) is not None} | metadata
        out.setdefault("architecture", "standard")
        out.setdefault("apply_b_dec_to_input", True)
        k = (out.get("activation_fn_kwargs") or {}).get("k")
        if out.get("activation_fn") == "topk":
            out |= {"architecture": "topk", "k": k}
        elif out.get("activation_fn", "relu") != "relu":
            raise FormatError(
                f"{folder / CONFIG} names an activation that monoscope does not have",
                got=out["activation_fn"],
                expected="relu or topk",
            )
        flag = out.get("normalize_activations")
        if isinstance(flag, bool) or flag is None:
            out["normalize_activations"] = "expected_average_only_in" if flag else "none"
    if "architecture" not in out:
        raise FormatError(f"architecture is missing in {folder / CONFIG}")
    return out | {"metadata": metadata}


def _own_weights(parts: Parts, architecture: str, leaves: Leaves, d_sae: int) -> None:
    """The weights that only some architectures have."""
    if architecture == "gated":
        parts.b_enc = leaves.take("b_gate", [d_sae])
        parts.extra = {n: leaves.take(n, [d_sae]) for n in ("b_mag", "r_mag")}
        return
    parts.b_enc = leaves.take("b_enc", [d_sae])
    if architecture == "jumprelu":
        logarithm = leaves.has("log_threshold")  # training checkpoints of SAELens before 6
        theta = leaves.take("log_threshold" if logarithm else "threshold", [d_sae])
        parts.threshold = theta.exp() if logarithm else theta
    elif parts.activation == "batchtopk":  # a training checkpoint; the finished SAE is a jumprelu
        number = leaves.number("topk_threshold")
        if number is None:
            raise FormatError(f"topk_threshold is missing in {leaves.path}")
        parts.threshold, parts.k = torch.tensor(number), whole(parts.k)


def _finetuned(parts: Parts, cfg: dict[str, Any], leaves: Leaves, d_sae: int) -> None:
    """A factor on every code before the decoder, of SAELens before 6: it goes into W_dec."""
    name = next((n for n in ("scaling_factor", "finetuning_scaling_factor") if leaves.has(n)), None)
    if name is None:
        return
    factor = leaves.take(name, [d_sae])
    if torch.equal(factor, torch.ones_like(factor)):
        return
    if not cfg.get("finetuning_scaling_factor"):
        raise FormatError(
            f"{leaves.path} holds a {name} that its config says is not used",
            got="finetuning_scaling_factor false",
            expected="true, or a factor of ones",
        )
    parts.w_dec = parts.w_dec * factor[:, None]


def _fold(parts: Parts, cfg: dict[str, Any], folder: Path, scale: float | None) -> None:
    """Put what SAELens does around the two products into the weights, where that is possible."""
    if parts.activation in ("topk", "batchtopk", "abstopk") and cfg.get(
        "rescale_acts_by_decoder_norm"
    ):
        parts.unit_rows()
    if not cfg.get("apply_b_dec_to_input", True):
        parts.uncentred()
    normalisation = str(cfg.get("normalize_activations") or "none")
    if normalisation in _PER_TOKEN:
        parts.per_token = _PER_TOKEN[normalisation]
    elif normalisation == "expected_average_only_in":
        _expected_average(parts, folder, scale)
    elif normalisation != "none":
        raise FormatError(
            f"{folder / CONFIG} normalises activations in a way that monoscope does not have",
            got=normalisation,
            expected="none, expected_average_only_in, layer_norm or constant_norm_rescale",
        )
    if cfg.get("reshape_activations", "none") != "none":
        parts.lost.append(
            f"reshape_activations={cfg['reshape_activations']}: flatten heads before encode"
        )
    if parts.activation == "abstopk":
        parts.split_signs()


def _expected_average(parts: Parts, folder: Path, scale: float | None) -> None:
    if scale is None and (folder / SCALER).is_file():
        scale = read_json(folder / SCALER).get("scaling_factor")
    if scale is not None:
        parts.scaled_input(float(scale))
        return
    parts.lost.append(
        "normalize_activations=expected_average_only_in without its factor: the weights are read "
        "as they are, as SAELens reads them; give the factor as --scale if the FVU is bad"
    )


def _provenance(cfg: dict[str, Any]) -> dict[str, Any]:
    metadata = cfg["metadata"]
    own = metadata.get("monoscope")
    if isinstance(own, dict) and isinstance(own.get("provenance"), dict):
        return dict(own["provenance"])
    out: dict[str, Any] = {}
    name, site = model_name(metadata.get("model_name")), site_of_hook(metadata.get("hook_name"))
    if name:
        out["model"] = {"model": name}
    if site:
        out["site"] = site
    if isinstance(metadata.get("context_size"), int):
        out["context_length"] = metadata["context_size"]
    return out | {"imported": {"config": {k: v for k, v in cfg.items() if k != "device"}}}


def _restored(parts: Parts, cfg: dict[str, Any]) -> Parts:
    """A batchtopk that we once wrote is one again, with its k; SAELens knows it as jumprelu."""
    own = cfg["metadata"].get("monoscope")
    if not (isinstance(own, dict) and isinstance(own.get("config"), dict)):
        return parts
    config = SAEConfig.from_json(own["config"])
    theta = parts.threshold
    if config.activation == "batchtopk" and theta is not None and bool((theta == theta[0]).all()):
        parts.activation, parts.k, parts.threshold = "batchtopk", config.k, theta[0]
    return parts


def _metadata(sae: SAE, lost: list[str]) -> dict[str, Any]:
    origin = sae.provenance
    site, model = origin.get("site"), (origin.get("model") or {}).get("model")
    hook = hook_of_site(site)
    if site and hook is None:
        lost.append(f"site {site}: SAELens has no hook of that name; it stays in the metadata")
    read = recorded_reading(origin)
    lost += not_said(origin, read)
    layer = str(site).rpartition(".")[2]
    return {
        "sae_lens_version": VERSION,
        "sae_lens_training_version": None,
        "model_name": model,
        "hook_name": hook or site,
        "hook_layer": int(layer) if layer.isdigit() else None,
        "hook_head_index": None,
        "context_size": read.context_size,
        "prepend_bos": read.prepend_bos,
        "exclude_special_tokens": read.exclude_special_tokens,
        "dataset_path": read.dataset_path,
        "monoscope": {"config": sae.config.to_json(), "provenance": origin},
    }
