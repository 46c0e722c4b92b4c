"""Interleaved timing of contenders, each in a process of its own, and the CSV rows it prints.

A contender is a function `make(sizes) -> run(n)`; a worker process holds one of them and times
`run(n)` when told to. Rounds go through all contenders in turn, so that whatever else the machine
does falls on all of them alike, and figures are ratios of medians within one invocation.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
Run = Callable[[int], None]


def peak_rss_mib() -> float:
    """Peak resident memory of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**10 if sys.platform != "darwin" else peak / 2**20


def device_name() -> str:
    """The processor, as the operating system calls it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def quantile(values: list[float], share: float) -> float:
    """The value below which `share` of them lie, linearly interpolated."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


@dataclass
class Contender:
    """A worker process that times one contender; peak_mib: of the memory it computes in."""

    name: str
    python: Path
    module: Path
    sizes: Mapping[str, Any]
    threads: int
    seconds: list[float] = field(default_factory=list)
    peak_mib: float = 0.0

    def __post_init__(self) -> None:
        env = dict(os.environ)
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
            env[name] = str(self.threads)
        env["PYTHONPATH"] = str(ROOT)
        command = [str(self.python), str(self.module), "--worker", self.name]
        command.append(json.dumps(dict(self.sizes)))
        self._process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def turn(self, n: int, *, keep: bool) -> None:
        """Run n steps; their mean time is kept unless this is the warm-up."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(f"{n}\n")
            self._process.stdin.flush()
            seconds, self.peak_mib = json.loads(self._process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            raise SystemExit(f"the contender {self.name} failed; see above") from None
        if keep:
            self.seconds.append(seconds / n)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve(contenders: Mapping[str, Callable[[dict[str, Any]], Run]]) -> None:
    """Be the worker that the command line names: time `run(n)` for each n read from stdin."""
    name, sizes = sys.argv[2], json.loads(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the contender prints goes to stderr
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    run = contenders[name](sizes)
    for line in sys.stdin:
        begun = time.perf_counter()
        run(int(line))
        seconds = time.perf_counter() - begun
        on_gpu = sizes.get("device", "cpu") != "cpu"
        peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else peak_rss_mib()
        answers.write(json.dumps([seconds, peak]) + "\n")
        answers.flush()


def interleave(contenders: Iterable[Contender], steps: int, rounds: int) -> None:
    """One warm-up round, then `rounds` rounds of `steps` steps each."""
    contenders = list(contenders)
    for r in range(rounds + 1):
        for contender in contenders:
            contender.turn(steps, keep=r > 0)
    for contender in contenders:
        contender.close()


def arguments(about: str, *, steps: int, rounds: int) -> argparse.ArgumentParser:
    """The options every step benchmark has."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--d-in", type=int, default=576)
    parser.add_argument("--d-sae", type=int, default=8192)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=2048, help="tokens a step")
    parser.add_argument("--steps", type=int, default=steps, help="steps timed together")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="also write the rows to this CSV file")
    return parser


def rows_of(contenders: Iterable[Contender], floor: str) -> list[dict[str, Any]]:
    """One row a contender: milliseconds a step (percentiles), tokens/s, × the floor's speed."""
    contenders = list(contenders)
    base = statistics.median(next(c for c in contenders if c.name == floor).seconds)
    rows = []
    for c in contenders:
        middle = statistics.median(c.seconds)
        rows.append(
            {
                "contender": c.name,
                **c.sizes,
                "tokens_per_s": round(c.sizes["batch_size"] / middle),
                "ms_p50": round(1e3 * middle, 2),
                "ms_p10": round(1e3 * quantile(c.seconds, 0.1), 2),
                "ms_p90": round(1e3 * quantile(c.seconds, 0.9), 2),
                f"times_{floor}": round(base / middle, 3),
                "peak_rss_mib": round(c.peak_mib),
                "rounds": len(c.seconds),
                "threads": c.threads,
                "device": device_name(),
            }
        )
    return rows


def write_rows(rows: list[dict[str, Any]], out: Path | None) -> None:
    """Print the rows as CSV, and write them to a file if one is named."""
    targets = [sys.stdout]
    if out is not None:
        targets.append(out.open("w", encoding="utf-8", newline=""))
    for target in targets:
        writer = csv.DictWriter(target, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for target in targets[1:]:
        target.close()
