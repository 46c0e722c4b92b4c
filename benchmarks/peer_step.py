"""Time of a training step: monoscope, SAELens, sparsify, the dense step, the fp32 product alone.

    make bench-peers                       # once: the peers, in .venv-peers
    .venv/bin/python benchmarks/peer_step.py --threads 2 --out step.csv

One invocation, interleaved rounds, one process a contender. Without .venv-peers the peers are left
out, and the script says so. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.harness import ROOT, Contender, arguments, interleave, rows_of, write_rows

OURS, PEERS = ("monoscope", "dense", "encoder_fp32"), ("saelens", "sparsify")


def main() -> None:
    args = arguments(__doc__.splitlines()[0], steps=4, rounds=7).parse_args()
    sizes = {name: getattr(args, name) for name in ("d_in", "d_sae", "k", "batch_size")}
    python = {name: Path(sys.executable) for name in OURS}
    theirs = ROOT / ".venv-peers" / "bin" / "python"
    if theirs.exists():
        python |= {name: theirs for name in PEERS}
    else:
        print("no .venv-peers: run `make bench-peers` to time the peers too", file=sys.stderr)
    module = ROOT / "benchmarks" / "contenders.py"
    contenders = [Contender(n, p, module, sizes, args.threads) for n, p in python.items()]
    interleave(contenders, args.steps, args.rounds)
    write_rows(rows_of(contenders, "encoder_fp32"), args.out)


if __name__ == "__main__":
    main()
