"""Time of our training step against k, against d_sae, and of each recipe against plain TopK.

    .venv/bin/python benchmarks/step.py k|d_sae|recipes --threads 2 --out rows.csv

One invocation, interleaved rounds, one process a row. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.harness import ROOT, Contender, arguments, interleave, rows_of, write_rows

# `dead_share`: the share of latents that AuxK revives; it has nothing to do without dead ones.
RECIPES: dict[str, dict[str, Any]] = {
    "topk": {"recipe": "topk"},
    "topk, 1 % dead": {"recipe": "topk", "dead_share": 0.01},
    "topk, 50 % dead": {"recipe": "topk", "dead_share": 0.5},
    "batchtopk": {"recipe": "batchtopk"},
    "matryoshka": {"recipe": "matryoshka"},
    "jumprelu": {"recipe": "jumprelu"},
    "jumprelu, target L0": {"recipe": "jumprelu", "settings": {"target_l0": 32.0}},
}


def variants(what: str, sizes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Name → sizes of what is compared; the first is what the others are related to."""
    if what == "k":
        return {f"k {k}": {**sizes, "k": k} for k in (16, 32, 64, 128)}
    if what == "d_sae":
        return {f"d_sae {n}": {**sizes, "d_sae": n} for n in (2048, 4096, 8192, 16_384, 32_768)}
    return {name: {**sizes, **more} for name, more in RECIPES.items()}


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], steps=4, rounds=7)
    parser.add_argument("what", choices=("k", "d_sae", "recipes"))
    args = parser.parse_args()
    sizes = {name: getattr(args, name) for name in ("d_in", "d_sae", "k", "batch_size")}
    chosen = variants(args.what, sizes)
    module = ROOT / "benchmarks" / "contenders.py"
    contenders = []
    for name, own in chosen.items():
        contender = Contender("monoscope", Path(sys.executable), module, own, args.threads)
        contender.name = name
        contenders.append(contender)
    interleave(contenders, args.steps, args.rounds)
    rows = rows_of(contenders, contenders[0].name)
    keys = {key: None for row in rows for key in row}
    write_rows([{key: row.get(key, "") for key in keys} for row in rows], args.out)


if __name__ == "__main__":
    main()
