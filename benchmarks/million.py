"""Peak memory of training an SAE of a million latents: d_sae 1,048,576, d_in 576, on one machine.

    .venv/bin/python benchmarks/million.py                  # the whole size: minutes, some 18 GiB
    .venv/bin/python benchmarks/million.py --divide 16      # 65,536 latents, to see how it scales

Weights, Adam's two moments (all fp32, nothing lossy) and the encoder's bf16 copy are what there is
to hold: 2·(3·4)·L·D + 2·L·D bytes, and 512·L for a tile of the product. The row printed sets the
peak of the process beside that sum, and says what it comes to at the whole size.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.contenders import monoscope
from benchmarks.harness import device_name, peak_rss_mib, write_rows

FULL = 1_048_576
D_IN = 576
LIMIT_MIB = 20 * 1024
PRODUCT = 256 * 2 / 2**20  # MiB a latent takes in the tile of bf16 pre-activations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--divide", type=int, default=1, help="d_sae is 1,048,576 / this")
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--recipe", default="topk")
    parser.add_argument("--dead-share", type=float, default=0.0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    sizes = {
        "d_in": D_IN, "d_sae": FULL // args.divide, "k": args.k, "batch_size": args.batch_size,
        "recipe": args.recipe, "dead_share": args.dead_share,
    }  # fmt: skip
    before = peak_rss_mib()
    run = monoscope(sizes)
    begun = peak_rss_mib()
    seconds = []
    for _ in range(args.steps):
        at = time.perf_counter()
        run(1)
        seconds.append(time.perf_counter() - at)
    planned = 26 * sizes["d_sae"] * D_IN / 2**20
    peak = peak_rss_mib()
    row = {
        **sizes,
        "peak_rss_mib": round(peak),
        "peak_at_start_mib": round(begun),
        "imports_mib": round(before),
        "weights_moments_copy_mib": round(planned),
        "rest_mib": round(peak - before - planned),
        "whole_size_mib": round(peak + (args.divide - 1) * (planned + PRODUCT * sizes["d_sae"])),
        "limit_mib": LIMIT_MIB,
        "s_per_step": round(min(seconds), 3),
        "threads": torch.get_num_threads(),
        "device": device_name(),
    }
    write_rows([row], args.out)
    if args.divide == 1 and peak > LIMIT_MIB:
        raise SystemExit(f"peak of {peak:.0f} MiB is over the limit of {LIMIT_MIB} MiB")


if __name__ == "__main__":
    main()
