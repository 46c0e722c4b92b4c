"""The control that asks what comes from the architecture: an SAE on a model with random weights.

The model's weights are drawn anew, its activations on the same texts are harvested, an SAE is
trained by the same recipe and evaluated alike. A figure it shares with the real SAE is no evidence
that the real one found what the model learned (Heap et al. 2025, arXiv 2501.17727).
"""

from __future__ import annotations

import tempfile
from itertools import islice
from pathlib import Path

from monoscope.data.corpus import Corpus
from monoscope.data.harvest import collect
from monoscope.evals import density, geometry
from monoscope.evals.cache import Cache, Figures
from monoscope.evals.material import Material
from monoscope.evals.run import evaluate
from monoscope.lm.random import with_random_weights

VERSION = 1
_PASSES = 5
# The texts are the store's own train documents: by the same hash none of them is in the lowest
# share that was held out there, so a larger share has to be held out here.
_HELD_OUT = 0.3
_CHARS_PER_TOKEN = 8


def run(material: Material) -> Figures:
    """core, density and geometry of the control SAE, on its own held-out documents."""
    recipe = material.sae.provenance.get("recipe")
    if material.lm is None or material.train is None or recipe is None:
        return {"skipped": "needs the language model, a trainer and an SAE that says its recipe"}
    model = getattr(material.lm, "model", None)
    if model is None:
        return {"skipped": "needs a model whose weights can be drawn anew"}
    lm = with_random_weights(material.lm, material.seed)  # type: ignore[arg-type]
    n_tokens, sae = material.sizes.random_model_tokens, material.sae
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
        settings = {} if sae.config.k is None else {"k": sae.config.k}
        trained = material.train(
            store, d_sae=sae.config.d_sae, recipe=recipe, n_tokens=_PASSES * n_tokens,
            seed=material.seed, **settings,
        ).sae  # fmt: skip
        material.tell("random weights: evaluate", 2, 3)
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
        }
