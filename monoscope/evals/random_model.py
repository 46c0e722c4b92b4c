"""The control that asks what comes from the architecture: an SAE on a model with random weights.

The model's weights are drawn anew, its activations on the same texts are harvested, and an SAE is
trained by the recorded configuration, brought to the real SAE's L0 and evaluated alike. A figure it
shares with the real SAE is no evidence that the real one found what the model learned (Heap et al.
2025, arXiv 2501.17727).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from monoscope.data.corpus import Corpus
from monoscope.data.harvest import collect
from monoscope.evals import density, geometry, tokens
from monoscope.evals.cache import Cache, Figures
from monoscope.evals.material import NEVER_OFF, Material, mean_l0
from monoscope.evals.run import evaluate
from monoscope.lm.random import with_random_weights

if TYPE_CHECKING:
    from monoscope.sae import SAE

VERSION = 2
_PASSES = 5
# The texts are the store's own train documents: by the same hash none of them is in the lowest
# share that was held out there, so a larger share has to be held out here.
_HELD_OUT = 0.3
_CHARS_PER_TOKEN = 8
_TILE = 512


def run(material: Material) -> Figures:
    """core, density and geometry of the control SAE, on its own held-out documents."""
    if material.untrainable is not None:
        return {"skipped": material.untrainable}
    if material.lm is None:
        return {"skipped": "needs the language model"}
    model = getattr(material.lm, "model", None)
    if model is None:
        return {"skipped": "needs a model whose weights can be drawn anew"}
    lm = with_random_weights(material.lm, material.seed)  # type: ignore[arg-type]
    n_tokens = material.sizes.random_model_tokens
    with tempfile.TemporaryDirectory(prefix="monoscope-random-") as folder:
        material.tell("random weights: harvest", 0, 3)
        texts = (doc.text for doc in material.store.documents("train"))
        corpus = Corpus.from_texts(
            list(islice(texts, n_tokens // _CHARS_PER_TOKEN)), "stored texts"
        )
        store = collect(
            lm, corpus, material.site, n_tokens, Path(folder, "store"), held_out=_HELD_OUT,
            resume=False,
        )  # fmt: skip
        material.tell("random weights: train", 1, 3)
        steer = material.sae.config.activation not in NEVER_OFF
        trained = material.train_alike(
            store, n_tokens=_PASSES * n_tokens, seed=material.seed,
            target_l0=(material.l0 or None) if steer else None,
        )  # fmt: skip
        material.tell("random weights: evaluate", 2, 3)
        docs = tokens.choose_documents(tokens.held_out_lengths(store), None, material.seed)
        tiles = [x for x, _ in tokens.held_out_tiles(store, docs)]
        as_trained = mean_l0(trained, tiles)
        bring_to_l0(trained, tiles, material.l0)
        own = Material(
            sae=trained, store=store, sizes=material.sizes, seed=material.seed,
            bootstrap=material.bootstrap, cache=Cache(None),
        )  # fmt: skip
        core = evaluate(trained, store, bootstrap=material.bootstrap, seed=material.seed).to_json()
        return {
            "core": core,
            "density": density.run(own),
            "geometry": geometry.run(own),
            "trained_on_tokens": _PASSES * n_tokens,
            "l0_wanted": material.l0,
            "l0_as_trained": as_trained,
        }


@torch.no_grad()
def bring_to_l0(sae: SAE, tiles: Sequence[Tensor], l0: float) -> None:
    """Shift an SAE's threshold, all latents' by one amount, so that mean L0 on x [n,D] is l0.

    The values that fire are held to the l0·n that lie farthest above their latent's threshold, in
    pre-activations. Where fewer are positive at all, every positive one fires. Nothing is done
    where no threshold decides: topk, whose L0 is k, and activations that are never off.
    """
    if sae.config.activation not in ("batchtopk", "jumprelu", "relu", "gated") or sae.config.hidden:
        return
    own = sae.threshold.detach().clone()
    wanted = round(l0 * sum(len(x) for x in tiles))
    for low in (own, torch.zeros_like(own)):
        sae.threshold.copy_(low)
        above = torch.cat([_above(sae, part, own) for x in tiles for part in x.split(_TILE)])
        if above.numel() > wanted:
            top = above.topk(wanted + 1).values
            sae.threshold.copy_((own + top[-2:].mean()).clamp_min(0))  # between the two
            return


def _above(sae: SAE, x: Tensor, threshold: Tensor) -> Tensor:
    """How far each code of x [n,D] that is not zero lies above `threshold`, one value or [L]."""
    codes = sae.choose(x.to(sae.W_dec.device))
    fires = sae.rule.finish(sae, codes, codes.values) > 0
    at = threshold if threshold.ndim == 0 else threshold[codes.indices.long()]
    return (codes.values - at)[fires].cpu()
