"""A sweep over two sites of a model that reads, killed by itself in a process forked from this one.

Arguments: a folder, and for each sweep the step, counted over all SAEs, in the middle of which it
dies by SIGKILL. The sweeps go to the folder's subfolders named after the step; prints the exit
status of each. `sweep(out)` is the same sweep with nothing happening to it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from monoscope.data.live import Live
from monoscope.sweep import Sweep
from monoscope.sweep import sweep as run
from monoscope.train import grid
from monoscope.train.job import Job
from tests.unit.data.fake_lm import SitedLM, make_corpus

BATCH = 16
SITES = ("resid_post.1", "resid_post.0")


def sweep(out: Path, resume: bool = False) -> Sweep:
    """Two sites, two sizes, two lengths; with checkpoints so often that the sites' never agree."""
    grid.CALIBRATION_TOKENS = grid.SAMPLE_TOKENS = 64
    torch.set_num_threads(1)
    lm, corpus = SitedLM(), make_corpus(40)
    sources = [Live(lm, corpus, site, context_length=9, buffer_tokens=60) for site in SITES]
    return run(
        sources, out=out, d_sae=[8, 12], k=2, n_tokens=[10 * BATCH, 24 * BATCH], batch_size=BATCH,
        settings={"checkpoint_every_tokens": 3 * BATCH}, resume=resume,
    )  # fmt: skip


def dying(out: Path, at: int) -> None:
    before, done = Job.take, [0]

    def take(job: Job, *args: Any) -> Any:
        done[0] += 1
        result = before(job, *args)
        if done[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    Job.take = take  # type: ignore[method-assign]
    sweep(out)


def main() -> None:
    statuses = []
    for at in sys.argv[2:]:
        child = os.fork()
        if child == 0:
            dying(Path(sys.argv[1]) / at, int(at))
            os._exit(0)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps(statuses))


if __name__ == "__main__":
    main()
