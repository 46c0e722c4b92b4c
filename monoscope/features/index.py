"""index: from an SAE and a store to an atlas on disk, in one pass over the store."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from monoscope import __version__
from monoscope.artifact.checks import check_together, weights_hash
from monoscope.errors import ConfigError
from monoscope.features import schema
from monoscope.features.atlas import Atlas, load_atlas
from monoscope.features.collect import Pass, Progress, collect_statistics
from monoscope.features.labels import SUMMARY_FILE
from monoscope.features.logits import logit_lens, no_lens
from monoscope.features.map import map_table
from monoscope.features.neighbours import (
    LEAST_BOTH,
    coactivation_neighbours,
    decoder_neighbours,
)
from monoscope.features.sample_kernels import N_TOP, REACH
from monoscope.features.samples import N_BANDS, PER_BAND
from monoscope.features.statistics import Statistics
from monoscope.features.tables import (
    contexts_table,
    examples_table,
    features_table,
    neighbours_table,
)
from monoscope.files import remove_partials, require_folder
from monoscope.locks import folder_lock
from monoscope.ops.moments import histogram_edges
from monoscope.sae.model import require_directions


def index(
    sae: Any,
    store: Any,
    lm: Any = None,
    out: str | os.PathLike[str] = "atlas",
    *,
    n_tokens: int | None = None,
    seed: int = 0,
    batch_size: int = 4096,
    progress: Progress | None = None,
) -> Atlas:
    """Stream the train split of `store` through the SAE once and write the atlas of its latents.

    lm: gives the logit lens; without it those columns are null. out: the atlas's folder; an
    existing atlas there is replaced, its annotations are kept. n_tokens: tokens to look at
    (default and at most: all there are; atlas.json records both). seed: draws the samples.
    batch_size: tokens encoded at once. progress: called with (tokens done, tokens in all).

    Raises MismatchError if SAE, store and model do not belong together; DataError for a store
    without train tokens or with NaN; OutputError if `out` holds something else or cannot be
    written; ConfigError for a number out of range.
    """
    for name, value in (("n_tokens", n_tokens), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} is out of range", got=value, expected="at least 1")
    check_together(sae, store, lm)
    require_directions(sae, "an index")
    with folder_lock(_claim(out), "index"):
        return _index(sae, store, lm, Path(out), n_tokens, seed, batch_size, progress)


def _index(
    sae: Any, store: Any, lm: Any, folder: Path, n_tokens: int | None, seed: int, batch_size: int,
    progress: Progress | None,
) -> Atlas:  # fmt: skip
    remove_partials(folder)  # now that nobody else can be writing them
    run = collect_statistics(
        sae, store, n_tokens=n_tokens, seed=seed, batch_size=batch_size, progress=progress
    )  # fmt: skip
    begun = time.perf_counter()
    tables = _tables(run.statistics, sae, store, lm)
    manifest = _manifest(run, sae, store, lm, n_tokens)
    build = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]
    manifest |= {
        "build": build,
        "tokens_per_s": run.statistics.n_tokens / run.seconds,
        "seconds": {
            "encode": run.encode_seconds,
            "gather": run.gather_seconds,
            "pass": run.seconds,
            "finish": time.perf_counter() - begun,
        },
    }
    schema.write_atlas(folder, tables, manifest)
    (folder / SUMMARY_FILE).unlink(missing_ok=True)  # it spoke of labels that are gone now
    return load_atlas(folder)


def _claim(out: str | os.PathLike[str]) -> Path:
    """The output folder, checked before any work is done."""
    tables = [schema.table_file(name) for name in (*schema.SCHEMAS, *schema.OPTIONAL)]
    told = [SUMMARY_FILE, schema.EXPLAINED, *schema.SUMMARIES.values()]
    ours = [*tables, *told, schema.ANNOTATIONS + "*"]
    return require_folder(Path(out), schema.MANIFEST, also=ours)


def _tables(statistics: Statistics, sae: Any, store: Any, lm: Any) -> dict[str, pa.Table]:
    samples, moments = statistics.samples, statistics.moments
    chosen = [samples.top(), samples.bands(moments.peak)]
    numbers = np.unique(np.concatenate([c.doc for c in chosen]))
    documents = store.get_documents(numbers.tolist())
    lens = None if no_lens(lm, sae.config.d_in) else logit_lens(lm, sae.W_dec)
    neighbours = neighbours_table(
        decoder_neighbours(sae.W_dec, statistics.pairs),
        coactivation_neighbours(sae.W_dec, statistics.pairs),
    )
    tables = {
        "features": features_table(statistics, lens),
        "examples": examples_table(chosen, documents),
        "contexts": contexts_table(documents),
        "neighbours": neighbours,
    }
    if statistics.n_latents > 1:
        tables["map"] = map_table(neighbours, statistics.n_latents, seed=statistics.seed)
    return tables


def _manifest(run: Pass, sae: Any, store: Any, lm: Any, asked: int | None) -> dict[str, Any]:
    """What atlas.json says, but for the build's name and its timing."""
    statistics = run.statistics
    provenance = getattr(sae, "provenance", None) or {}
    norms = store.norm_stats
    reason = no_lens(lm, sae.config.d_in)
    return {
        "format": schema.FORMAT,
        "schema_version": schema.SCHEMA_VERSION,
        "monoscope": __version__,
        "d_sae": statistics.n_latents,
        "n_alive": int((statistics.moments.count > 0).sum()),
        "n_tokens": statistics.n_tokens,
        "n_tokens_asked": asked,
        "n_documents": statistics.n_documents,
        "l0": statistics.n_entries / statistics.n_tokens,
        "seed": statistics.seed,
        "model": dict(store.identity),
        "site": str(store.site),
        "sae": {
            "hash": weights_hash(sae),
            "config": sae.config.to_json(),
            "recipe": provenance.get("recipe"),
            "n_tokens": provenance.get("n_tokens"),
        },
        "mask_policy": store.mask_policy.to_dict(),
        "norm_stats": {"mean_norm": norms.mean_norm, "median_norm": norms.median_norm},
        "corpus": store.manifest.corpus,
        "corpus_fingerprint": store.manifest.corpus_fingerprint,
        "attribution": list(store.manifest.attribution),
        "histogram_edges": histogram_edges().tolist(),
        "examples": {"top": N_TOP, "bands": N_BANDS, "per_band": PER_BAND, "reach": REACH},
        "coactivation": {
            "exact": statistics.pairs.exact,
            "n_tokens": statistics.pairs.n_tokens,
            "least": LEAST_BOTH,
        },
        "lens": {"available": reason is None, "reason": reason},
        "meta_share": _meta_share(statistics),
        "definitions": DEFINITIONS,
    }


def _meta_share(statistics: Statistics) -> dict[str, float]:
    """The share of all tokens with each metadata value: what meta_mass is to be held against."""
    names = statistics.meta.names(statistics.n_documents)
    return {name: int(statistics.meta.tokens[i]) / statistics.n_tokens for name, i in names}


DEFINITIONS = {
    "n_active": "tokens on which the latent's activation is above zero",
    "density": "n_active / n_tokens",
    "mean, std, max, hist": "over the tokens on which the latent is active, raw units",
    "meta_mass": "share of the latent's summed activation on documents with that metadata value",
    "meta_share": "share of all tokens that are in documents with that metadata value",
    "values": "activation on each token from `start`; 0 where silent or where the token was masked",
    "jaccard": "n_both / (n_active + n_active of the other - n_both), over coactivation.n_tokens",
    "pmi": "log(n_both * coactivation.n_tokens / (n_active * n_active of the other)), nats",
    "tokens_per_s": "n_tokens over the seconds of the streaming pass (seconds.pass)",
}
