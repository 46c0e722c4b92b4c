"""Sites of one model compared: the same tokens, the same SAE, what it explains and what it costs.

    .venv/bin/python benchmarks/sites.py --out sites.csv
    .venv/bin/python benchmarks/sites.py --sites resid_post.12 mlp_out.12 --n-tokens 60000

At each site: harvest into a temporary store, train batchtopk, evaluate on held-out documents, and
splice the reconstruction into the model. FVU is relative to the variance at the site, so sites are
to be compared by ΔCE and loss recovered too. Seconds are of harvest, training and evaluation.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import monoscope as ms
from benchmarks.harness import device_name, write_rows

SITES = [f"resid_post.{layer}" for layer in (9, 12, 15, 18, 21)]
FIGURES = ("fvu", "l0", "delta_ce", "kl", "loss_recovered_zero", "loss_recovered_mean")


def measure(lm: ms.LM, corpus: ms.Corpus, site: str, args: argparse.Namespace) -> dict[str, Any]:
    """The row of one site; its store is gone afterwards."""
    times = [time.perf_counter()]
    with tempfile.TemporaryDirectory() as folder:
        store = ms.collect(lm, corpus, site, args.n_tokens, Path(folder) / "store", seed=args.seed)
        times.append(time.perf_counter())
        goal = args.passes * store.n_tokens("train")
        run = ms.train(
            store, recipe="batchtopk", d_sae=args.d_sae, k=args.k, n_tokens=goal, seed=args.seed
        )
        times.append(time.perf_counter())
        found = ms.evaluate(
            run.sae, store, lm, n_splice_tokens=args.n_splice_tokens, baselines=False,
            seed=args.seed,
        ).to_json()  # fmt: skip
        times.append(time.perf_counter())
        row: dict[str, Any] = {"site": site, "n_tokens": store.n_tokens(), "trained_on": goal}
    row |= {name: round(found[name], 4) for name in FIGURES}
    for name in ("fvu", "delta_ce"):  # no interval where there is but one document
        for end, value in zip(("low", "high"), found["ci"][name] or (None, None), strict=True):
            row[f"{name}_{end}"] = None if value is None else round(value, 4)
    row |= {"dead": round(found["dead_fraction"], 4), "dead_window": found["dead_window_tokens"]}
    spent = [after - before for before, after in pairwise(times)]
    row |= dict(zip(("s_collect", "s_train", "s_eval"), (round(s, 1) for s in spent), strict=True))
    return row | {
        "d_sae": args.d_sae, "k": args.k, "n_splice_tokens": found["n_splice_tokens"],
        "seed": args.seed, "threads": args.threads, "device": device_name(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--sites", nargs="+", default=SITES)
    parser.add_argument("--n-tokens", type=int, default=120_000)
    parser.add_argument("--d-sae", type=int, default=2048)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--passes", type=int, default=8, help="over the train split")
    parser.add_argument("--n-splice-tokens", type=int, default=8192)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    lm, corpus = ms.load_lm(args.model), ms.Corpus.demo()
    rows = []
    for site in args.sites:
        rows.append(measure(lm, corpus, site, args))
        said = f"FVU {rows[-1]['fvu']:.3f}, ΔCE {rows[-1]['delta_ce']:+.3f}"
        print(f"{site}: {said}", file=sys.stderr, flush=True)
    write_rows(rows, args.out)


if __name__ == "__main__":
    main()
