"""On an NVIDIA GPU: our training step and its parts beside the bf16 product and the peers.

    make bench-peers && .venv-peers/bin/pip install triton     # sparsify with its own kernels
    .venv/bin/pip install '.[gpu]' && .venv/bin/python benchmarks/gpu.py --out gpu.csv

One process, interleaved rounds, CUDA events; each round warms up once. The peers, if .venv-peers
has them, run in processes of their own in the same rounds. Not yet run on a GPU by us: what it
prints is the first measurement there is.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.contenders import batches, monoscope
from benchmarks.harness import ROOT, Contender, arguments, quantile, write_rows


def parts(sizes: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """What a step is made of, each alone, on the first batch."""
    from monoscope.ops import cuda
    from monoscope.ops.adam import AdamStep
    from monoscope.ops.rowgrads import Factor

    x = batches(sizes)[0].cuda()
    shape = (sizes["d_sae"], sizes["d_in"])
    w = torch.nn.functional.normalize(torch.randn(shape, device="cuda"), dim=1)
    m, v, b = torch.zeros_like(w), torch.zeros_like(w), torch.zeros(shape[0], device="cuda")
    x16, w16 = x.bfloat16(), w.bfloat16()
    encoder = cuda.CudaEncoder(w, b)
    codes = encoder.topk(x, sizes["k"])
    factor, step = Factor(codes, codes.values, x), AdamStep(1e-4, 0.9, 0.999, 1e-8, 1)
    return {
        "encoder_bf16": lambda: x16 @ w16.T,
        "encoder_fp32": lambda: x @ w.T,
        "bf16 copy and margins": lambda: cuda.CudaEncoder(w, b),
        "product and selection": lambda: encoder.topk(x, sizes["k"]),
        "decode": lambda: cuda.decode(codes, w),
        "entry_dots": lambda: cuda.entry_dots(x, codes, w),
        "row_sums": lambda: cuda.row_sums(codes, codes.values, x),
        "adam_rows": lambda: cuda.adam_rows(w, [factor], None, m, v, step, unit=True),
    }


def milliseconds(run: Callable[[], object], steps: int) -> float:
    """Mean time of a run on the device, after one run that is not counted."""
    run()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(steps):
        run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / steps


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], steps=10, rounds=7)
    parser.set_defaults(d_in=2304, d_sae=65_536, k=64, batch_size=8192)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here: nothing is measured")
    sizes = {name: getattr(args, name) for name in ("d_in", "d_sae", "k", "batch_size")}
    ours = monoscope({**sizes, "device": "cuda"})
    runs = {"monoscope step": lambda: ours(1), **parts(sizes)}
    theirs = ROOT / ".venv-peers" / "bin" / "python"
    peers = []
    if theirs.exists():
        module, on_gpu = ROOT / "benchmarks" / "contenders.py", {**sizes, "device": "cuda"}
        peers = [
            Contender(n, theirs, module, on_gpu, args.threads) for n in ("saelens", "sparsify")
        ]
    times: dict[str, list[float]] = {name: [] for name in runs}
    for r in range(args.rounds + 1):
        for name, run in runs.items():
            times[name].append(milliseconds(run, args.steps))
        for peer in peers:
            peer.turn(args.steps, keep=r > 0)
    for peer in peers:
        peer.close()
        times[peer.name] = [0.0, *(1e3 * s for s in peer.seconds)]
    floor = statistics.median(times["encoder_bf16"][1:])
    rows = []
    for name, taken in times.items():
        kept = taken[1:]
        rows.append(
            {
                "contender": name, **sizes,
                "ms_p50": round(statistics.median(kept), 3),
                "ms_p10": round(quantile(kept, 0.1), 3),
                "ms_p90": round(quantile(kept, 0.9), 3),
                "times_encoder_bf16": round(statistics.median(kept) / floor, 3),
                "peak_mib": round(torch.cuda.max_memory_allocated() / 2**20),
                "device": torch.cuda.get_device_name(),
            }
        )  # fmt: skip
    write_rows(rows, args.out)


if __name__ == "__main__":
    main()
