"""Indexing against encoding: the one pass that gathers an atlas beside sae.encode alone.

    .venv/bin/python benchmarks/index.py --store runs/demo/store --sae runs/demo/sae

Both read the same rows of the train split. One process, rounds in turn. Prints rows and the ratio
of medians; the goal is that indexing is no slower than encoding, that is, near 1.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numba
import torch

import monoscope as ms
from benchmarks.harness import device_name, peak_rss_mib, write_rows
from monoscope.data.store import ActivationStore
from monoscope.features.collect import collect_statistics


def encode_alone(sae: ms.SAE, store: ActivationStore, n_tokens: int) -> int:
    """Read and encode the first n_tokens of the train split in batches; how many there were."""
    done = 0
    for batch in store.batches("train", 4096):
        with torch.inference_mode():
            sae.encode(batch.acts)
        done += len(batch.acts)
        if done >= n_tokens:
            break
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=Path("runs/demo/store"))
    parser.add_argument("--sae", type=Path, default=Path("runs/demo/sae"))
    parser.add_argument("--n-tokens", type=int, default=65_536)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    numba.set_num_threads(min(args.threads, numba.config.NUMBA_NUM_THREADS))
    store, sae = ActivationStore.open(args.store), ms.load_sae(args.sae)
    rates: dict[str, list[float]] = {"encode alone": [], "index (gather)": [], "index": []}
    for r in range(args.rounds + 1):
        begun = time.perf_counter()
        n = encode_alone(sae, store, args.n_tokens)
        encoded = time.perf_counter() - begun
        done = collect_statistics(sae, store, n_tokens=args.n_tokens)
        if r:
            rates["encode alone"].append(n / encoded)
            rates["index (gather)"].append(done.statistics.n_tokens / done.gather_seconds)
            rates["index"].append(done.statistics.n_tokens / done.seconds)
    floor = statistics.median(rates["encode alone"])
    out = [
        {
            "contender": name, "d_sae": sae.d_sae, "n_tokens": args.n_tokens,
            "tokens_per_s": round(statistics.median(v)), "min": round(min(v)),
            "max": round(max(v)), "times_encode": round(statistics.median(v) / floor, 3),
            "rounds": args.rounds, "threads": args.threads,
            "peak_rss_mib": round(peak_rss_mib()), "device": device_name(),
        }
        for name, v in rates.items()
    ]  # fmt: skip
    write_rows(out, args.out)


if __name__ == "__main__":
    main()
