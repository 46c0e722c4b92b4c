"""On an NVIDIA GPU: our training step and its parts beside the bf16 product and the peers.

    make bench-peers && .venv-peers/bin/pip install triton     # sparsify with its own kernels
    .venv/bin/pip install '.[gpu]' && .venv/bin/python benchmarks/gpu.py --out gpu.csv

At d 2304, 65,536 latents, k 64, 8,192 tokens unless told otherwise. Each contender is a process of
its own, in interleaved rounds; a row has medians, the ratio to the bf16 product, and the peak of
the device's memory. Peers that are not installed are left out, which is said. Not yet run on a GPU
by us: what it prints is the first measurement there is. `--device cpu --tiny` tries the program
itself where there is no GPU; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.contenders import batches
from benchmarks.harness import (
    ROOT,
    Contender,
    arguments,
    device_name,
    interleave,
    quantile,
    write_rows,
)

FLOOR = "encoder_bf16"
OURS = ("monoscope_plain", "monoscope_fixed", "monoscope_graph")
PEERS = {"sparsify": "sparsify", "saelens": "sae_lens"}  # contender: its package
CONTENDERS = ROOT / "benchmarks" / "contenders.py"
TINY = {"d_in": 16, "d_sae": 64, "k": 4, "batch_size": 32, "steps": 2, "rounds": 2}


def parts(sizes: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """What a step is made of, each alone, on the first batch."""
    from monoscope.ops import cuda
    from monoscope.ops.adam import AdamStep
    from monoscope.ops.rowgrads import Factor

    x = batches(sizes)[0].cuda()
    shape = (sizes["d_sae"], sizes["d_in"])
    w = torch.nn.functional.normalize(torch.randn(shape, device="cuda"), dim=1)
    m, v, b = torch.zeros_like(w), torch.zeros_like(w), torch.zeros(shape[0], device="cuda")
    encoder = cuda.CudaEncoder(w, b)
    codes = encoder.topk(x, sizes["k"])
    factor, step = Factor(codes, codes.values, x), AdamStep(1e-4, 0.9, 0.999, 1e-8, 1)
    return {
        "encoder_fp32": lambda: x @ w.T,
        "bf16 copy and margins": lambda: cuda.CudaEncoder(w, b),
        "product and selection": lambda: encoder.fixed_topk(x, sizes["k"]),
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


def peers_here(python: Path) -> list[str]:
    """The peers that this Python has; what is missing is said."""
    found = []
    for name, package in PEERS.items():
        code = f"import importlib.util as u, sys; sys.exit(u.find_spec({package!r}) is None)"
        if python.exists() and subprocess.run([python, "-c", code]).returncode == 0:
            found.append(name)
        else:
            where = python.parent.parent
            print(f"{name} is left out: {package} is not in {where}", file=sys.stderr)
    return found


def row(
    name: str, taken: list[float], floor: float, peak: float, about: dict[str, Any]
) -> dict[str, Any]:
    """A row of the table from milliseconds a step."""
    middle = statistics.median(taken)
    return {
        "contender": name, **about,
        "ms_p50": round(middle, 3),
        "ms_p10": round(quantile(taken, 0.1), 3),
        "ms_p90": round(quantile(taken, 0.9), 3),
        "tokens_per_s": round(1e3 * about["batch_size"] / middle),
        f"times_{FLOOR}": round(middle / floor, 3),
        "peak_mib": round(peak),
    }  # fmt: skip


def parsed() -> argparse.Namespace:
    parser = arguments(__doc__.splitlines()[0], steps=10, rounds=7)
    parser.set_defaults(d_in=2304, d_sae=65_536, k=64, batch_size=8192)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that try the program itself")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--recipe", default="topk", help="of our step")
    args = parser.parse_args()
    if args.tiny:
        vars(args).update(TINY)
    return args


def main() -> None:
    args = parsed()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here: nothing is measured")
    on_gpu = args.device == "cuda"
    shape = {name: getattr(args, name) for name in ("d_in", "d_sae", "k", "batch_size")}
    sizes = {**shape, "device": args.device, "recipe": args.recipe}
    theirs = ROOT / ".venv-peers" / "bin" / "python"
    names = {name: Path(sys.executable) for name in (FLOOR, *OURS)}
    names |= {name: theirs for name in (peers_here(theirs) if args.peers else [])}
    contenders = [
        Contender(name, python, CONTENDERS, sizes, args.threads) for name, python in names.items()
    ]
    interleave(contenders, args.steps, args.rounds)
    about = {**shape, "recipe": args.recipe,
             "device": torch.cuda.get_device_name() if on_gpu else device_name()}  # fmt: skip
    floor = 1e3 * statistics.median(contenders[0].seconds)
    rows = [row(c.name, [1e3 * s for s in c.seconds], floor, c.peak_mib, about) for c in contenders]
    if on_gpu:  # where the time of a step goes
        for name, run in parts(shape).items():
            torch.cuda.reset_peak_memory_stats()
            times = [milliseconds(run, args.steps) for _ in range(args.rounds)]
            peak = torch.cuda.max_memory_allocated() / 2**20
            rows.append(row(f"part: {name}", times, floor, peak, about))
    write_rows(rows, args.out)


if __name__ == "__main__":
    main()
