"""What is asked of the demo beside what a finished run got: exit code 1 if anything was missed.

    .venv/bin/python benchmarks/demo.py runs/demo

Two cores without a GPU, installation not counted. Runs nothing: it reads the run's own summary.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TOKENS, SECONDS, FVU, L0, L0_SLACK, DEAD = 400_000, 600.0, 0.18, 32.0, 1.0, 0.05
BASELINES = ("random", "pca", "neurons")

Row = tuple[str, str, str, bool | None]


def rows(summary: Mapping[str, Any]) -> list[Row]:
    """What, asked, got, and whether that is enough; None for rows of which nothing is asked."""
    got = summary["eval"]
    spent: Mapping[str, float | None] = summary["seconds"]
    known = [seconds for seconds in spent.values() if seconds is not None]
    in_time = len(known) == len(spent) and sum(known) <= SECONDS
    untimed = "" if len(known) == len(spent) else " and what was not timed"
    n = summary["collect"]["n_tokens"]
    return [
        ("tokens harvested", f"≥ {TOKENS:,}", f"{n:,}", n >= TOKENS),
        *((f"seconds, {k}", "", "–" if v is None else f"{v:.1f}", None) for k, v in spent.items()),
        ("seconds, in all", f"≤ {SECONDS:.0f}", f"{sum(known):.1f}{untimed}", in_time),
        ("FVU, held out", f"≤ {FVU}", f"{got['fvu']:.4f}", got["fvu"] <= FVU),
        ("L0, held out", f"{L0:g} ± {L0_SLACK:g}", f"{got['l0']:.2f}",
         abs(got["l0"] - L0) <= L0_SLACK),
        (f"dead in {got['dead_window_tokens']:,} tokens", f"≤ {DEAD:.0%}",
         f"{got['dead_fraction']:.3%}", got["dead_fraction"] <= DEAD),
        *(_beside(name, got) for name in BASELINES),
    ]  # fmt: skip


def _beside(name: str, got: Mapping[str, Any]) -> Row:
    """The SAE against a baseline at its L0; a baseline that was not measured is a miss."""
    other = got["baselines"].get(name)
    if other is None:
        return (f"FVU of {name}", "above the SAE's", "not measured", False)
    shown = f"{other['fvu']:.4f}, ΔCE {_figure(other)} (SAE {_figure(got)})"
    return (f"FVU of {name}", "above the SAE's", shown, other["fvu"] > got["fvu"])


def _figure(row: Mapping[str, Any]) -> str:
    return "–" if row.get("delta_ce") is None else f"{row['delta_ce']:+.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/demo"))
    summary = parser.parse_args().run / "summary.json"
    if not summary.is_file():
        parser.error(f"{summary} is not there: name the folder of a finished `monoscope demo`")
    found = rows(json.loads(summary.read_text(encoding="utf-8")))
    for what, asked, got, ok in [("", "asked", "got", None), *found]:
        print(f"{what:<26}{asked:<18}{got:<44}{'' if ok is None else 'ok' if ok else 'MISSED'}")
    sys.exit(any(ok is False for *_, ok in found))


if __name__ == "__main__":
    main()
