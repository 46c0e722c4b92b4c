"""Training runs that are killed and resumed, each in a process forked from this one.

Argument: JSON with "out" and "groups", each with its "source" ("tensor", or "store": one with many
shards, of which few fit into memory), its "orders" (keyword arguments of Order without out) and its
"scenarios", each a list of sessions. A session is null (it runs to its end) or the moment at which
it kills itself: "step:N", in the middle of its N-th step; "checkpoint:N:WHERE", while it writes its
N-th checkpoint; "after:S", from outside, S seconds after it began; or "cut", which runs nothing but
shortens the newest checkpoint of the first order by 100 bytes.  A scenario ends in
out/<group>/<its number>, the runs that nothing happens to in out/<group>/whole. Prints, for each
scenario of each group, the exit status of every session and the notes of the last.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from monoscope.data.harvest import collect
from monoscope.data.store import ActivationStore
from monoscope.data.stream import Stream
from monoscope.train import grid, state
from monoscope.train.order import Order
from tests.unit.data.fake_lm import FakeLM, make_corpus

D, ROWS, BATCH, STEPS = 8, 400, 32, 40
WINDOW = 150  # rows of a store that fit into memory


class Store(ActivationStore):
    """A store that is shuffled in windows, as one larger than the memory is."""

    def stream(self, batch_size: int, seed: int, *, max_bytes: int = 0) -> Stream:
        row = self.d_in * self.dtype.itemsize
        return super().stream(batch_size, seed, max_bytes=max_bytes or WINDOW * row)


def data(kind: str, out: Path) -> Any:
    """The source, opened anew: a tensor, or a store in out/store, harvested where it is not yet."""
    if kind == "tensor":
        return torch.randn(ROWS, D, generator=torch.Generator().manual_seed(0)) * 3 + 1
    if not (out / "store").exists():
        collect(FakeLM(), make_corpus(60), "resid_post.0", ROWS, out / "store", context_length=16,
                shard_tokens=60)  # fmt: skip
    return Store.open(out / "store")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(when: str) -> None:
    """Make this process kill itself when the moment comes."""
    kind, _, rest = when.partition(":")
    if kind == "after":
        return
    number, _, where = rest.partition(":")
    left = [int(number)]
    owner, name = {
        "": (torch.optim.Optimizer, "zero_grad"),  # between the loss and the new weights
        "tensors": (state, "save_file"),
        "note": (state, "write_atomic"),
        "move": (Path, "rename"),
        "drop": (state.shutil, "rmtree"),
    }[where]
    before = getattr(owner, name)

    def dying(*args: Any, **kwargs: Any) -> Any:
        counts = where != "drop" or (
            Path(args[0]).name.startswith("checkpoint-") and Path(args[0]).exists()
        )
        left[0] -= counts
        if counts and left[0] < 0:
            if where == "tensors":  # half a file is on the disk
                before(*args, **kwargs)
                os.truncate(args[1], os.path.getsize(args[1]) // 2)
            if where == "drop":  # half a folder is gone
                next(Path(args[0]).iterdir()).unlink()
            die()
        return before(*args, **kwargs)

    setattr(owner, name, dying)


def train(source: Any, out: Path, orders: list[dict[str, Any]], resume: bool) -> list[str]:
    notes: list[str] = []
    grid.train_many(
        source,
        [
            Order(**{"n_tokens": STEPS * BATCH, **order}, out=out / str(number))
            for number, order in enumerate(orders)
        ],
        batch_size=BATCH, data_seed=5, resume=resume, progress=lambda p: notes.extend(p.notes),
    )  # fmt: skip
    return notes


def session(group: dict[str, Any], top: Path, out: Path, resume: bool, when: str | None) -> int:
    """Run in a process of its own; its exit status, negative for the signal that ended it."""
    if when == "cut":
        last = sorted((out / "0").glob("checkpoint-*"))[-1] / "state.safetensors"
        os.truncate(last, last.stat().st_size - 100)
        return 0
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if when is not None:
                arm(when)
            notes = train(data(group["source"], top), out, group["orders"], resume)
            (out / "notes.json").write_text(json.dumps(notes))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if when is not None and when.startswith("after:"):
        time.sleep(float(when.partition(":")[2]))
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(group: dict[str, Any], top: Path) -> list[Any]:
    """All scenarios of a group, below `top`."""
    train(data(group["source"], top), top / "whole", group["orders"], resume=False)
    results = []
    for number, sessions in enumerate(group["scenarios"]):
        place = top / str(number)
        place.mkdir()
        ended = [session(group, top, place, i > 0, when) for i, when in enumerate(sessions)]
        notes = place / "notes.json"
        results.append([ended, json.loads(notes.read_text()) if notes.exists() else None])
    return results


def main() -> None:
    torch.set_num_threads(1)
    os.fsync = lambda handle: None  # type: ignore[assignment]  # a kill loses nothing the system has
    grid.CALIBRATION_TOKENS = ROWS  # 65,536 in batches of 32 would take most of the time
    told = json.loads(sys.argv[1])
    made = [run(g, Path(told["out"]) / str(number)) for number, g in enumerate(told["groups"])]
    print(json.dumps(made))


if __name__ == "__main__":
    main()
