"""Quality for the same tokens: monoscope, SAELens and sparsify on one store, by one evaluator.

    $ make bench-peers
    $ .venv/bin/python benchmarks/quality.py compare --store runs/demo/store
    $ .venv/bin/python benchmarks/quality.py try --tokens 500000 recipe=batchtopk lr=4e-3
    $ .venv/bin/python benchmarks/quality.py table

All contenders train on the same batches in the same order (benchmarks/quality_train.py). The
settings tried for a peer are in PEERS; the best of them at the first budget goes on to the other
seeds and budgets. A run that is finished is a row of the JSON file and is not run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks import quality_rows as kept  # noqa: E402
from benchmarks.quality_rows import Row  # noqa: E402
from benchmarks.quality_train import CONTENDERS  # noqa: E402
from monoscope.artifact import load_sae  # noqa: E402
from monoscope.data.store import ActivationStore, load_store  # noqa: E402
from monoscope.evals.run import evaluate  # noqa: E402
from monoscope.sae import SAE, SAEConfig  # noqa: E402
from monoscope.sae.recipes import get_recipe  # noqa: E402
from monoscope.train.calibrate import calibrate_threshold  # noqa: E402

RESULTS = ROOT / "docs" / "design" / "quality.json"
DEAD_TOKENS = 500_000  # held-out tokens and then train tokens, the same for all
CALIBRATION_TOKENS = 65_536
OURS: tuple[dict[str, Any], ...] = ({"recipe": "batchtopk"}, {"recipe": "topk"})
# SAELens: its guide's schedule (lr falls over the last fifth) at its default lr and above; a latent
# is dead after a tenth of the run, since its default of 1,000 steps is longer than these runs.
# sparsify: both of its optimisers at their default lr for this width, and beside it; its default
# warm-up of 1,000 steps is longer than these runs; with and without AuxK.
_LENS = {"decay": 0.2, "dead_share": 0.1}
_ADAM = {"optimizer": "adam", "warmup": 0.05}
PEERS: dict[str, list[dict[str, Any]]] = {
    "saelens": [
        *({"architecture": "batchtopk", "lr": lr, **_LENS} for lr in (3e-4, 1e-3, 3e-3, 6e-3)),
        *({"architecture": "topk", "lr": lr, **_LENS} for lr in (1e-3, 3e-3)),
    ],
    "sparsify": [
        {},
        {"lr": 3e-3},
        _ADAM,
        *({**_ADAM, "lr": lr} for lr in (1e-3, 3e-3, 6e-3, 1.2e-2)),
        {**_ADAM, "lr": 6e-3, "auxk_alpha": 1 / 32, "dead_share": 0.1},
    ],
}


def main() -> None:
    args = _arguments()
    if args.what == "table":
        print(kept.table(kept.read(args.out)))
        return
    store = load_store(args.store)
    specs = _compared(args) if args.what == "compare" else _tried(args)
    for spec in specs:
        spec["store"] = store.manifest.corpus_fingerprint
        if kept.key(spec) not in {kept.key(row) for row in kept.read(args.out)}:
            kept.add(args.out, run(spec, store, args))
    print(kept.table(kept.read(args.out)))


def run(spec: Row, store: ActivationStore, args: argparse.Namespace) -> Row:
    """Train one contender in a process and environment of its own, and measure what it saved."""
    print(f"{kept.label(spec)} · {spec['n_tokens']:,} tokens · seed {spec['seed']}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="quality-", dir=args.work))
    try:
        peer = spec["contender"] != "monoscope"
        python = ROOT / (".venv-peers" if peer else ".venv") / "bin" / "python"
        told = json.dumps({**spec, "store": str(args.store.resolve())})
        worker = [str(python), str(ROOT / "benchmarks" / "quality_train.py"), told]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), str(args.threads))
        subprocess.run(
            [*worker, str(folder / "sae")], check=True, capture_output=True, text=True,
            env=os.environ | threads | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        return spec | measured(folder / "sae", spec["k"], store)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"the run failed:\n{error.stderr[-2000:]}") from None
    finally:
        shutil.rmtree(folder)


def measured(folder: Path, k: int, store: ActivationStore) -> Row:
    """FVU, L0, cosine and dead share of a saved SAE at an L0 of k, and who made it."""
    nested = folder / "site"  # sparsify has a folder for each module
    sae = at_l0(load_sae(nested if nested.exists() else folder), k, store)
    result = evaluate(sae, store, baselines=False, bootstrap=0, dead_tokens=DEAD_TOKENS)
    return {
        "fvu": round(float(result.fvu), 5),
        "l0": round(float(result.l0), 3),
        "cosine": round(float(result.cosine), 5),
        "dead": round(float(result.dead_fraction), 5),
        "versions": json.loads((folder / "versions.json").read_text()),
    }


@torch.no_grad()
def at_l0(sae: SAE, k: int, store: ActivationStore) -> SAE:
    """The SAE with one threshold at which k latents a token fire, where it has thresholds.

    The threshold is set on the same 65,536 train tokens for all: one that was averaged since the
    start of a short run lets too many through, and FVU can only be compared at one L0.
    """
    if sae.config.activation == "topk":
        return sae
    same = SAE(SAEConfig(d_in=sae.d_in, d_sae=sae.d_sae, activation="batchtopk", k=k))
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        getattr(same, name).copy_(getattr(sae, name))
    if sae.threshold.max() - sae.threshold.min() > 1e-3 * sae.threshold.max():
        raise SystemExit("the thresholds of an SAE to compare are not one threshold")
    same.provenance = sae.provenance
    stream = store.stream(2048, 0)
    tiles = [next(stream) for _ in range(CALIBRATION_TOKENS // 2048)]
    calibrate_threshold(same, tiles, start=0.5 * float(sae.threshold.max()))
    return same


def _compared(args: argparse.Namespace) -> Iterator[Row]:
    """Peers' tries at the first budget; then the best of each kind, and ours, everywhere."""
    first = args.tokens[0]
    for contender, tries in PEERS.items():
        if contender in args.only:
            for settings in tries:
                yield _spec(args, contender, settings, first, 0)
    if "monoscope" in args.only:
        for n_tokens in args.tokens:
            for settings in OURS:
                for seed in args.seeds:
                    yield _spec(args, "monoscope", settings, n_tokens, seed)
    for n_tokens in args.tokens:
        for contender, tries in PEERS.items():
            kinds = {kept.kind(_spec(args, contender, s, first, 0)): None for s in tries}
            for which in kinds if contender in args.only else ():
                rows = kept.read(args.out)
                tuned = [r for r in rows if r["n_tokens"] == first and r["seed"] == 0]
                best = kept.best(tuned, which)
                for seed in args.peer_seeds if best is not None else ():
                    yield _spec(args, contender, best["settings"], n_tokens, seed)


def _tried(args: argparse.Namespace) -> Iterator[Row]:
    settings = {}
    for setting in args.settings:
        name, _, value = setting.partition("=")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    for n_tokens in args.tokens:
        for seed in args.seeds:
            yield _spec(args, args.contender, settings, n_tokens, seed)


def _spec(args: argparse.Namespace, contender: str, settings: Row, n_tokens: int, seed: int) -> Row:
    return {
        "contender": contender, "settings": settings, "made_by": _made_by(contender, settings),
        "n_tokens": n_tokens, "seed": seed, "batch_size": args.batch_size, "d_sae": args.d_sae,
        "k": args.k,
    }  # fmt: skip


def _made_by(contender: str, settings: Row) -> str:
    """A peer's pinned version; for us a hash of the recipe, so that a change of it shows."""
    if contender == "monoscope":
        return hashlib.sha256(repr(get_recipe(settings["recipe"])).encode()).hexdigest()[:12]
    package = CONTENDERS[contender][1]
    pins = (ROOT / "benchmarks" / "peers.txt").read_text().splitlines()
    return next(pin for pin in pins if pin.startswith(f"{package}=="))


def _whole_numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Quality of SAEs for the same tokens.")
    parser.add_argument("what", choices=("compare", "try", "table"))
    parser.add_argument("settings", nargs="*", help="try: name=value, such as recipe=topk lr=3e-3")
    parser.add_argument("--store", type=Path, default=ROOT / "runs" / "demo" / "store")
    parser.add_argument("--tokens", type=_whole_numbers, default=[500_000, 2_000_000])
    parser.add_argument("--seeds", type=_whole_numbers, default=[0, 1, 2])
    parser.add_argument("--peer-seeds", type=_whole_numbers, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=["monoscope", *PEERS])
    parser.add_argument("--contender", default="monoscope", help="try: whose settings")
    parser.add_argument("--batch-size", type=int, default=kept.BATCH_SIZE)
    parser.add_argument("--d-sae", type=int, default=kept.D_SAE)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, help="where SAEs lie until they are measured")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the JSON file of the rows")
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    main()
