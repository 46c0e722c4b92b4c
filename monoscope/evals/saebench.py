"""The result of an evaluation as SAEBench's own output: its keys exactly, ours under the free one.

`eval_result_metrics` and `eval_result_details` are those of SAEBench 0.6's core evaluation, filled
with our definitions (docs/evaluation.md names each difference); `eval_result_unstructured` holds
everything else. What was not measured, or is not defined, is null. SAEBench's own classes demand a
number there and refuse the file; the blocks it concerns are named under "not_saebench", which is
empty for a file that they take.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from monoscope import __version__
from monoscope.evals import density, geometry, tokens
from monoscope.evals.cache import Figures
from monoscope.evals.material import Material

VERSION = 1
EVAL_TYPE = "core"
KEYS = (
    "eval_type_id",
    "eval_config",
    "eval_id",
    "datetime_epoch_millis",
    "eval_result_metrics",
    "eval_result_details",
    "sae_bench_commit_hash",
    "sae_lens_id",
    "sae_lens_release_id",
    "sae_lens_version",
    "sae_cfg_dict",
    "eval_result_unstructured",
)


def run(material: Material) -> Figures:
    """What SAEBench's block needs beyond our figures, over all held-out tokens.

    mse = Σ‖x−x̂‖²/N · relative_reconstruction_bias = Σ‖x̂‖²/Σ⟨x,x̂⟩ (arXiv 2404.16014, eq. 10) ·
    explained_variance_legacy = mean over tokens of 1 − ‖x−x̂‖²/‖x−μ‖², a mean of ratios, which no
    figure of ours is; l2 norms are means over tokens. "latents": one row for each that fired.
    """
    docs = material.held_out_docs(material.sizes.held_out_tokens)
    mean = material.mean.double()
    names = ("n", "error", "legacy", "norm", "norm_hat", "square_hat", "dot")
    sums = dict.fromkeys(names, 0.0)
    for x32, _ in tokens.held_out_tiles(material.store, docs):
        x = x32.double()
        codes = material.sae.encode(x32.to(material.sae.W_dec.device))
        x_hat = material.sae.decode(codes).double().cpu()
        error, variance = (x - x_hat).square().sum(1), (x - mean).square().sum(1)
        sums["n"] += len(x)
        sums["error"] += float(error.sum())
        sums["legacy"] += float((1 - error / variance.clamp_min(1e-30)).sum())
        sums["norm"] += float(x.norm(dim=1).sum())
        sums["norm_hat"] += float(x_hat.norm(dim=1).sum())
        sums["square_hat"] += float(x_hat.square().sum())
        sums["dot"] += float((x * x_hat).sum())
    n = sums["n"]
    bias = sums["square_hat"] / sums["dot"] if sums["dot"] else None
    return {
        "mse": sums["error"] / n,
        "explained_variance_legacy": sums["legacy"] / n,
        "l2_norm_in": sums["norm"] / n,
        "l2_norm_out": sums["norm_hat"] / n,
        "relative_reconstruction_bias": bias,
        "n_tokens": int(n),
        "latents": _latents(material),
    }


def output(
    material: Material, suite: str, families: Mapping[str, Figures], *, at_millis: int
) -> dict[str, Any]:
    """The whole result, with SAEBench's keys in SAEBench's order.

    families: figures by family; "core", "density", "geometry" and "saebench" are needed.
    eval_id follows from what was evaluated, so the same evaluation has the same id.
    """
    key = material.key(suite, VERSION)
    extra = {name: figures for name, figures in families.items() if name != "saebench"}
    metrics = _metrics(families)
    return {
        "eval_type_id": EVAL_TYPE,
        "eval_config": _config(material),
        "eval_id": str(uuid.uuid5(uuid.NAMESPACE_OID, repr(sorted(key.items())))),
        "datetime_epoch_millis": at_millis,
        "eval_result_metrics": metrics,
        "eval_result_details": families["saebench"]["latents"],
        "sae_bench_commit_hash": f"monoscope {__version__}",
        "sae_lens_id": None,
        "sae_lens_release_id": None,
        "sae_lens_version": None,
        "sae_cfg_dict": _sae(material),
        "eval_result_unstructured": {
            "monoscope": {
                "schema_version": 1,
                "version": __version__,
                "suite": suite,
                "key": key,
                "not_saebench": _refused(metrics, families["saebench"]["latents"]),
                "families": extra,
            }
        },
    }


def _refused(metrics: Mapping[str, Mapping[str, Any]], latents: list[Figures]) -> list[str]:
    """The blocks that hold a null, where SAEBench's classes demand a number."""
    named = [name for name, block in metrics.items() if None in block.values()]
    return named + ["eval_result_details"] * any(None in row.values() for row in latents)


def _latents(material: Material) -> list[Figures]:
    """SAEBench's row of each latent that fired; their heuristic is a mean over its documents.

    Largest cosines are null for an SAE of more latents than can all be compared.
    """
    sae = material.sae
    counts = density.count(material)
    encoder, decoder = sae.W_enc.detach().float(), sae.W_dec.detach().float()
    most_decoder, most_encoder = geometry.max_cosine(decoder), geometry.max_cosine(encoder)
    own = F.cosine_similarity(encoder, decoder, dim=1).cpu()
    norms, bias = encoder.norm(dim=1).cpu(), sae.b_enc.detach().float().cpu()
    rows = []
    for i in counts.hits.nonzero().flatten().tolist():
        rows.append(
            {
                "index": i,
                "feature_density": int(counts.hits[i]) / counts.n_tokens,
                "consistent_activation_heuristic": int(counts.hits[i]) / int(counts.docs[i]),
                "encoder_bias": float(bias[i]),
                "encoder_norm": float(norms[i]),
                "encoder_decoder_cosine_sim": float(own[i]),
                "max_decoder_cosine_sim": None if most_decoder is None else float(most_decoder[i]),
                "max_encoder_cosine_sim": None if most_encoder is None else float(most_encoder[i]),
            }
        )
    return rows


def _metrics(families: Mapping[str, Figures]) -> dict[str, dict[str, float | int | None]]:
    core, more = families["core"], families["saebench"]
    fires, shape = families["density"], families["geometry"]
    return {
        "model_behavior_preservation": {
            "kl_div_score": _recovered(core["kl_zero"], core["kl"]),
            "kl_div_with_ablation": core["kl_zero"],
            "kl_div_with_sae": core["kl"],
        },
        "model_performance_preservation": {
            "ce_loss_score": core["loss_recovered_zero"],
            "ce_loss_with_ablation": core["ce_zero"],
            "ce_loss_with_sae": core["ce_sae"],
            "ce_loss_without_sae": core["ce_clean"],
        },
        "reconstruction_quality": {
            "explained_variance": 1 - core["fvu"],
            "explained_variance_legacy": more["explained_variance_legacy"],
            "mse": more["mse"],
            "cossim": core["cosine"],
        },
        "shrinkage": {
            "l2_norm_in": more["l2_norm_in"],
            "l2_norm_out": more["l2_norm_out"],
            "l2_ratio": core["shrinkage"],
            "relative_reconstruction_bias": more["relative_reconstruction_bias"],
        },
        "sparsity": {"l0": core["l0"], "l1": fires["l1"]},
        "token_stats": {
            "total_tokens_eval_reconstruction": core["n_splice_tokens"],
            "total_tokens_eval_sparsity_variance": core["n_tokens"],
        },
        "misc_metrics": {
            "freq_over_1_percent": fires["share_over_1_percent"],
            "freq_over_10_percent": fires["share_over_10_percent"],
            "normalized_freq_over_1_percent": fires["mass_over_1_percent"],
            "normalized_freq_over_10_percent": fires["mass_over_10_percent"],
            "average_max_encoder_cosine_sim": _mean(shape["encoder"]["max_cosine"]),
            "average_max_decoder_cosine_sim": _mean(shape["decoder"]["max_cosine"]),
            "frac_alive": 1 - fires["share_silent"],
        },
    }


def _mean(quantiles: Mapping[str, float] | None) -> float | None:
    return None if quantiles is None else quantiles["mean"]


def _recovered(ablated: float | None, kl: float | None) -> float | None:
    """(KL_zero − KL_sae) / KL_zero: what loss recovered is for cross-entropy."""
    if ablated is None or kl is None or not ablated > 0:
        return None
    return (ablated - kl) / ablated


def _config(material: Material) -> dict[str, Any]:
    """The fields of SAEBench's CoreEvalConfig; tokens are counted in windows of the store's."""
    context = int(material.store.manifest.arguments.context_length)
    measured = material.lm is not None
    n_splice = material.sizes.splice_tokens if measured else 0
    n_tokens = material.store.n_tokens("held_out")
    return {
        "model_name": material.store.identity.get("model", ""),
        "llm_dtype": str(getattr(material.lm, "dtype", torch.float32)).removeprefix("torch."),
        "batch_size_prompts": 1,
        "n_eval_reconstruction_batches": math.ceil(n_splice / context),
        "n_eval_sparsity_variance_batches": math.ceil(n_tokens / context),
        "dataset": str(material.store.manifest.corpus.get("name", "")),
        "context_size": context,
        "compute_kl": measured,
        "compute_ce_loss": measured,
        "compute_l2_norms": True,
        "compute_sparsity_metrics": True,
        "compute_variance_metrics": True,
        "compute_featurewise_density_statistics": True,
        "compute_featurewise_weight_based_metrics": True,
        "exclude_special_tokens_from_reconstruction": True,
        "verbose": False,
    }


def _sae(material: Material) -> dict[str, Any]:
    origin = material.sae.provenance
    return {
        **material.sae.config.to_json(),
        "architecture": material.sae.config.activation,
        "hook_name": str(material.site),
        "hook_layer": material.site.layer,
        "model_name": (origin.get("model") or {}).get("model"),
        "recipe": origin.get("recipe"),
        "training_tokens": origin.get("n_tokens"),
        "weights_sha256": material.weights,
    }
