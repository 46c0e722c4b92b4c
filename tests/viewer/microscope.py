"""A small real slide: a store, two SAEs and their tied atlases, made once from SmolLM2 and kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import shelf

import monoscope

SITE, N_TOKENS, SEED = "resid_post.15", 8_000, 0
SIZES = {"sae": 512, "sae-small": 256}  # folder of the SAE: its d_sae
ATLASES = {"sae": "atlas", "sae-small": "atlas-small"}
K, TRAIN_TOKENS, BATCH = 16, 48_000, 512
_ROOMS = ("artifact", "data", "evals", "features", "lm", "ops", "sae", "train")


def fingerprint() -> str:
    """Changes with the code that makes the slide, and with what is asked of it."""
    package = Path(monoscope.__file__).parent
    files = sorted(p for room in _ROOMS for p in (package / room).rglob("*.py"))
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in files:
        digest.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def kept(cache: Path) -> Path:
    """The slide below `cache`, made if it is not there; those of older code that nobody uses go."""
    return shelf.kept(cache, fingerprint(), make)


def make(out: Path) -> None:
    """Harvest, train two sizes, evaluate one, index, label and tie both."""
    import monoscope as ms
    from monoscope.artifact.checks import weights_hash
    from monoscope.features.lineage import keep_splitting

    lm = ms.load_lm("demo")
    corpus = ms.Corpus.demo(SEED)
    store: Any = ms.collect(lm, corpus, site=SITE, n_tokens=N_TOKENS, out=out / "store")
    for name, d_sae in SIZES.items():
        run = ms.train(
            store, d_sae=d_sae, k=K, n_tokens=TRAIN_TOKENS, batch_size=BATCH, out=out / name
        )
        atlas = ms.index(run.sae, store, lm=lm, out=out / ATLASES[name])
        ms.label(atlas, run.sae, store)
    small, large = (ms.load_atlas(out / ATLASES[name]) for name in ("sae-small", "sae"))
    keep_splitting(small, large, ms.load_sae(out / "sae-small"), ms.load_sae(out / "sae"), store)
    result = ms.evaluate(
        ms.load_sae(out / "sae"), store, lm, n_splice_tokens=300, bootstrap=50, dead_tokens=5_000
    )
    # As the demo keeps it, beside the run.
    told = {"asked": {"sae": weights_hash(ms.load_sae(out / "sae"))}, "figures": result.to_json()}
    (out / "eval.json").write_text(json.dumps(told), encoding="utf-8")
