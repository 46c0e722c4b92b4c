"""SAEDashboard: the batches of features that its Neuronpedia runner writes, as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from monoscope.files import require_folder, write_atomic
from monoscope.interop.neuronpedia import BATCH, bars
from monoscope.interop.shown import Shown, json_line, place, require_atlas, shown, silent

if TYPE_CHECKING:
    from monoscope.features.atlas import Atlas
    from monoscope.sae import SAE

MARK = "batch-0.json"
_ALIGNED = 3  # neurons listed by weight


def write_saedashboard(
    sae: SAE, folder: Path, atlas: Atlas | None, probe: Tensor | None
) -> dict[str, Any]:
    """Write an atlas as batch-N.json, 128 features each, without the latents that never fired.

    The neurons listed are coordinates of the decoder row; the features, co-activation neighbours.
    """
    atlas = require_atlas(sae, atlas, "saedashboard")
    require_folder(folder, MARK, also=("batch-*.json",))
    model, layer, corpus = place(sae, atlas)
    pairs = _neighbours(atlas)
    edges = atlas.manifest["histogram_edges"]
    n_features = n_batches = 0
    for number, features in enumerate(shown(atlas, BATCH)):
        rows = [
            _feature(f, sae, edges, pairs.get(f.latent, []), atlas.manifest, corpus)
            for f in features
        ]
        batch = {
            "model_id": model, "layer": layer, "sae_set": folder.absolute().name,
            "sae_id_suffix": None, "features": rows,
        }  # fmt: skip
        write_atomic(folder / f"batch-{number}.json", json_line(batch))
        n_features, n_batches = n_features + len(rows), n_batches + 1
    lost = [
        "correlated_neurons and logits_hist_data: an atlas does not measure them, empty here",
        "labels and their scores: SAEDashboard has no place for them",
        "correlated_features_pearson: it holds the Jaccard similarity of firing together",
        "correlated_features_l1: it holds the cosine of the decoder rows, not of the activations",
        "bin_contains: an atlas does not count tokens by band, -1 here",
        "decoder_weights_dist: shares of attention heads, which an atlas does not know, empty here",
        *silent(atlas, n_features),
    ]
    if sae.provenance.get("context_length") is None:
        lost.append("n_tokens_in_prompt: not recorded with this SAE, 0 here")
    return {"n_features": n_features, "n_batches": n_batches, "lost": lost}


def _feature(
    feature: Shown,
    sae: SAE,
    edges: list[float],
    pairs: list[dict[str, Any]],
    manifest: dict[str, Any],
    corpus: str | None,
) -> dict[str, Any]:
    row, direction = feature.row, sae.W_dec[feature.latent].detach()
    neurons = direction.abs().topk(min(_ALIGNED, len(direction))).indices
    values, heights = bars(row["hist"], edges)
    share = direction[neurons].abs() / direction.abs().sum().clamp_min(1e-12)
    return {
        "feature_index": feature.latent,
        "neuron_alignment_indices": neurons.tolist(),
        "neuron_alignment_values": _rounded(direction[neurons]),
        "neuron_alignment_l1": _rounded(share),
        "correlated_neurons_indices": [],
        "correlated_neurons_l1": [],
        "correlated_neurons_pearson": [],
        "correlated_features_indices": [p["other"] for p in pairs],
        "correlated_features_l1": [round(float(p["cosine"]), 3) for p in pairs],
        "correlated_features_pearson": [round(float(p["jaccard"]), 3) for p in pairs],
        "neg_str": row["bottom_tokens"] or [],
        "neg_values": [round(float(v), 3) for v in row["bottom_logits"] or []],
        "pos_str": row["top_tokens"] or [],
        "pos_values": [round(float(v), 3) for v in row["top_logits"] or []],
        "frac_nonzero": row["density"],
        "freq_hist_data_bar_values": values,
        "freq_hist_data_bar_heights": heights,
        "logits_hist_data_bar_heights": [],
        "logits_hist_data_bar_values": [],
        "n_prompts_total": manifest["n_documents"],
        "n_tokens_in_prompt": sae.provenance.get("context_length") or 0,
        "dataset": corpus or "",
        "decoder_weights_dist": [],
        "activations": [
            {
                "bin_min": -1 if a.low is None else a.low,
                "bin_max": float(row["max"]) if a.high is None else a.high,
                "bin_contains": -1,
                "tokens": a.tokens,
                "values": a.values,
                "qualifying_token_index": a.peak,
            }
            for a in feature.activations
        ],
        "vector": direction.tolist(),
    }


def _neighbours(atlas: Atlas) -> dict[int, list[dict[str, Any]]]:
    """Co-activation neighbours by latent, best first."""
    cursor = atlas.database.cursor()
    cursor.execute(
        "SELECT latent, other, cosine, jaccard FROM neighbours "
        "WHERE kind = 'coactivation' ORDER BY latent, rank"
    )
    out: dict[int, list[dict[str, Any]]] = {}
    for latent, other, cosine, jaccard in cursor.fetchall():
        pair = {"other": other, "cosine": cosine, "jaccard": jaccard or 0.0}
        out.setdefault(latent, []).append(pair)
    return out


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(float(v), 3) for v in values]
