"""Indexing against encoding, at two sizes: the one pass that gathers an atlas beside sae.encode.

    .venv/bin/python benchmarks/index.py --store runs/demo/store
    .venv/bin/python benchmarks/index.py --store runs/demo/store --sae runs/small/sae runs/large/sae

Both read the same rows of the train split. Without --sae the SAEs are made up: each latent's row is
a data point less the mean, with noise. One process, rounds in turn. Prints rows and the ratio of
medians; the goal is that indexing is no slower than encoding, that is, near 1. times_smallest:
seconds of an SAE against those of the smallest. Encoding and the search for neighbours of decoder
rows grow with d_sae; gathering and counting pairs are to stay near 1.
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
from monoscope.features.neighbours import coactivation_neighbours, decoder_neighbours
from monoscope.sae import SAEConfig


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


def made_up(store: ActivationStore, d_sae: int) -> ms.SAE:
    """A top-32 SAE whose rows are data points less their mean, with noise of a third their size."""
    x = next(store.batches("train", 8192)).acts.float()
    draw = torch.Generator().manual_seed(0)
    mean = x.mean(0)
    rows = (x - mean)[torch.randint(len(x), (d_sae,), generator=draw)]
    rows += rows.std() / 3 * torch.randn(rows.shape, generator=draw)
    rows = torch.nn.functional.normalize(rows, dim=1)
    sae = ms.SAE(SAEConfig(d_in=x.shape[1], d_sae=d_sae, activation="topk", k=32))
    with torch.no_grad():
        sae.W_enc.copy_(rows)
        sae.W_dec.copy_(rows)
        sae.b_dec.copy_(mean)
    return sae


def timed(sae: ms.SAE, store: ActivationStore, n_tokens: int) -> dict[str, float]:
    """Seconds a token of one round, by what was done."""
    begun = time.perf_counter()
    n = encode_alone(sae, store, n_tokens)
    encoded = time.perf_counter()
    done = collect_statistics(sae, store, n_tokens=n_tokens)
    gathered = time.perf_counter()
    coactivation_neighbours(sae.W_dec, done.statistics.pairs)
    paired = time.perf_counter()
    decoder_neighbours(sae.W_dec, done.statistics.pairs)
    m = done.statistics.n_tokens
    return {
        "encode alone": (encoded - begun) / n,
        "gather and pairs": (done.gather_seconds + paired - gathered) / m,
        "decoder neighbours": (time.perf_counter() - paired) / m,
        "index": (done.seconds + time.perf_counter() - gathered) / m,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=Path("runs/demo/store"))
    parser.add_argument("--sae", type=Path, nargs="+", default=[])
    parser.add_argument("--d-sae", type=int, nargs="+", default=[4096, 16_384])
    parser.add_argument("--n-tokens", type=int, default=65_536)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    numba.set_num_threads(min(args.threads, numba.config.NUMBA_NUM_THREADS))
    store = ActivationStore.open(args.store)
    saes = [ms.load_sae(path) for path in args.sae] or [made_up(store, n) for n in args.d_sae]
    saes.sort(key=lambda sae: sae.d_sae)
    seconds: list[dict[str, list[float]]] = [{} for _ in saes]
    for r in range(args.rounds + 1):
        for sae, kept in zip(saes, seconds, strict=True):
            for name, value in timed(sae, store, args.n_tokens).items():
                kept.setdefault(name, []).extend([value] if r else [])
    medians = [{name: statistics.median(v) for name, v in kept.items()} for kept in seconds]
    common = {
        "n_tokens": args.n_tokens, "rounds": args.rounds, "threads": args.threads,
        "peak_rss_mib": round(peak_rss_mib()), "device": device_name(),
    }  # fmt: skip
    out = [
        {
            "contender": name, "d_sae": sae.d_sae, "tokens_per_s": round(1 / middle[name]),
            "min": round(1 / max(v)), "max": round(1 / min(v)),
            "times_encode": round(middle[name] / middle["encode alone"], 3),
            "times_smallest": round(middle[name] / medians[0][name], 3),
        } | common
        for sae, kept, middle in zip(saes, seconds, medians, strict=True)
        for name, v in kept.items()
    ]  # fmt: skip
    write_rows(out, args.out)


if __name__ == "__main__":
    main()
