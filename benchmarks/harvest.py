"""Harvesting against the bare forward pass: the same batches through Hugging Face layers alone.

    .venv/bin/python benchmarks/harvest.py --n-tokens 20000 --site resid_post.15

The bare pass is the model's own base cut off after the site's layer, given the batches `collect`
makes of the same documents; collect also tokenises, masks, measures and writes. One process, rounds
in turn. Prints rows and the ratio of medians; the goal is 0.95.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import monoscope as ms
from benchmarks.harness import device_name, peak_rss_mib, write_rows
from monoscope.data import windows
from monoscope.sites import Site

CONTEXT, BATCH_TOKENS, SHARD_TOKENS, DOC_TOKENS = 128, 4096, 65_536, 1024  # collect's defaults


def batches(lm: ms.LM, corpus: ms.Corpus, n_tokens: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The ids and masks of the forward passes that collect makes for about n_tokens."""
    docs = windows.token_docs(lm, corpus, 0, DOC_TOKENS)
    out, left = [], n_tokens
    while left > 0 and (group := windows.next_group(docs, min(left, SHARD_TOKENS))):
        lengths = [len(doc.ids) for doc in group]
        ids = torch.tensor(list(chain.from_iterable(doc.ids for doc in group)))
        n_prefix = len(lm.prefix_ids)
        cut = windows.cut_windows(lengths, CONTEXT - n_prefix)
        for batch in windows.batch_windows(cut, n_prefix, BATCH_TOKENS):
            out.append(windows._rows(lm, ids, batch))
        left -= sum(lengths)
    return out


def bare(lm: ms.LM, rows: list[tuple[torch.Tensor, torch.Tensor]], layer: int) -> float:
    """Seconds of the layers up to `layer` on the rows, nothing read and nothing kept."""
    base = lm.model.base_model
    whole = base.layers
    base.layers = whole[: layer + 1]
    try:
        begun = time.perf_counter()
        with torch.inference_mode():
            for ids, mask in rows:
                base(ids, attention_mask=mask.long(), use_cache=False)
        return time.perf_counter() - begun
    finally:
        base.layers = whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--site", default="resid_post.15")
    parser.add_argument("--n-tokens", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    site = Site.parse(args.site)
    lm, corpus = ms.load_lm(args.model), ms.Corpus.demo()
    rows = batches(lm, corpus, args.n_tokens)
    n_bare = sum(int(mask.sum()) for _, mask in rows)
    rates: dict[str, list[float]] = {"bare forward": [], "collect": []}
    for r in range(args.rounds + 1):
        taken = bare(lm, rows, site.layer)
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            store = ms.collect(lm, corpus, args.site, args.n_tokens, Path(folder) / "store")
            n_read = store.manifest.n_tokens_read
        if r:
            rates["bare forward"].append(n_bare / taken)
            rates["collect"].append(n_read / (time.perf_counter() - begun))
    floor = statistics.median(rates["bare forward"])
    out = [
        {
            "contender": name, "site": args.site, "n_tokens": args.n_tokens,
            "tokens_per_s": round(statistics.median(v)), "min": round(min(v)),
            "max": round(max(v)), "times_bare": round(statistics.median(v) / floor, 3),
            "rounds": args.rounds, "threads": args.threads,
            "peak_rss_mib": round(peak_rss_mib()), "device": device_name(),
        }
        for name, v in rates.items()
    ]  # fmt: skip
    write_rows(out, args.out)


if __name__ == "__main__":
    main()
