"""Watch: what a run's figures show, in plain words, while it runs."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from monoscope.train import start
from monoscope.train.config import TrainConfig
from monoscope.train.state import TrainState

WINDOW = 8  # looks that a judgement rests on
DIVERGED = 3.0  # an fvu this many times the best one …
HOPELESS = 1.5  # … and above this, where 1 is what the mean alone would reach, is lost
ROUGH = 0.15  # typical jump of log fvu from look to look; noise of large batches is a fifth of it
NOISY = 2.0  # as much, times √tokens, is the noise of a small batch: twice what was seen
WORSE = 1.25  # the window's median fvu over the best one of an earlier window
AUXK_SHARE = 0.5  # of the objective
ALIKE = 4.0  # a batch worth a fourth of its tokens
WAITING = 0.5  # share of the time
STILL = 1e-6  # relative movement of thresholds below which they do not move


@dataclass(frozen=True)
class Look:
    """The figures of one step, as they are logged."""

    step: int
    n_tokens: int
    loss: float
    fvu: float
    l0: float
    dead_fraction: float
    lr: float
    terms: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Surroundings:
    """What a pass knows of its data.

    waiting: share of the time spent waiting for them.  alike: as Mixing.alike has it.
    """

    waiting: float | None = None
    alike: float | None = None


@dataclass(frozen=True)
class Note:
    """A finding: its kind, for programs, and its message, for people."""

    kind: str
    message: str


def _clustered(around: Surroundings) -> bool:
    return around.alike is not None and around.alike > ALIKE


class Watch:
    """Judges the last looks of one run; each finding is told once, and again if it comes back."""

    def __init__(self, data: str = "reading the data") -> None:
        self._data = data
        self._looks: deque[Look] = deque(maxlen=WINDOW)
        self._best = math.inf  # the lowest median fvu of a whole window
        self._standing: set[str] = set()
        self._thresholds: deque[Tensor] = deque(maxlen=WINDOW)

    def recall(self, figures: Sequence[dict[str, Any]]) -> None:
        """Take up a resumed run where its log ends."""
        for figure in figures:
            self._take(Look(**figure))

    def see(
        self, look: Look, state: TrainState, config: TrainConfig, around: Surroundings
    ) -> list[Note]:
        """What is new at this look."""
        before = self._best
        self._take(look)
        threshold = state.sae.threshold
        if isinstance(threshold, torch.nn.Parameter):
            self._thresholds.append(threshold.detach().cpu().clone())
        if len(self._looks) < WINDOW:
            return []
        found = [
            None if _clustered(around) else self._rate(before, config),
            self._auxk(), self._threshold(look),
            self._shuffling(around.alike, config), self._waiting(around.waiting),
        ]  # fmt: skip
        notes = {note.kind: note for note in found if note is not None}
        new = [note for kind, note in notes.items() if kind not in self._standing]
        self._standing = set(notes)
        return new

    def diverged(self, config: TrainConfig, around: Surroundings) -> str | None:
        """Why the run is lost, if it is: its error is far above what it was, and above the mean's.

        One bad batch is not enough: all of the last half window must be. Where batches differ as a
        whole, or it is not known yet, an fvu, which is relative to its batch, shows nothing.
        """
        if around.alike is None or _clustered(around):
            return None
        recent = [look.fvu for look in self._looks][-WINDOW // 2 :]
        low = min(self._best, *(look.fvu for look in self._looks)) if self._looks else math.inf
        if len(recent) < WINDOW // 2 or not min(recent) > max(HOPELESS, DIVERGED * low):
            return None
        last = self._looks[-1]
        assert config.lr is not None
        return (
            f"the run has diverged: its fvu rose from {low:.3g} to {last.fvu:.3g} at step "
            f"{last.step:,}, and 1 is what the mean alone reaches. The learning rate is too high: "
            f"start again with --lr {config.lr / 4:.2g} (now {config.lr:g})."
        )

    def _take(self, look: Look) -> None:
        self._looks.append(look)
        if len(self._looks) == WINDOW:
            self._best = min(self._best, self._median())

    def _median(self) -> float:
        return statistics.median(look.fvu for look in self._looks)

    def _rate(self, best: float, config: TrainConfig) -> Note | None:
        """The error jumps about, or is getting worse, while the rate is near its highest."""
        assert config.lr is not None
        if self._looks[-1].lr < 0.5 * config.lr:
            return None
        logs = [math.log(max(look.fvu, 1e-12)) for look in self._looks]
        jumps = [abs(b - a) for a, b in pairwise(logs)]
        fell = logs[0] - logs[-1]
        limit = max(ROUGH, NOISY / math.sqrt(config.batch_size))
        rough = statistics.median(jumps) > limit and fell < sum(jumps) / 2
        # a penalty that is being raised costs error too, up to that of the mean alone
        penalised = "sparsity" in self._looks[-1].terms
        worse = not penalised and self._median() > WORSE * best
        lost = min(look.fvu for look in self._looks) > (1.2 if penalised else 1.0)
        if not (rough or worse or lost):
            return None
        how = f"fvu jumps by {math.expm1(statistics.median(jumps)):.0%} from look to look"
        if worse:
            how = f"fvu is up from {best:.3g} to {self._median():.3g}"
        elif lost:
            how = f"fvu is {self._median():.3g}, and 1 is what the mean alone reaches,"
        return Note(
            "learning_rate",
            f"learning rate too high: {how} at lr {config.lr:g}; try --lr {config.lr / 3:.1g}",
        )

    def _auxk(self) -> Note | None:
        shares = [
            look.terms["auxk"] / look.loss
            for look in self._looks
            if "auxk" in look.terms and look.loss > 0
        ]
        if len(shares) < WINDOW or statistics.median(shares) <= AUXK_SHARE:
            return None
        return Note(
            "auxk",
            f"AuxK dominates: it is {statistics.median(shares):.0%} of the objective, so living "
            "latents learn little; lower --set auxk_coefficient",
        )

    def _threshold(self, look: Look) -> Note | None:
        """Thresholds that are learnt stay as they are while the rate is not zero."""
        if len(self._thresholds) < WINDOW or look.lr == 0:
            return None
        first, last = self._thresholds[0], self._thresholds[-1]
        size = float(last.abs().mean())
        if float((last - first).abs().max()) > STILL * max(size, 1e-12):
            return None
        return Note(
            "threshold",
            f"threshold not moving: no latent's has changed in {WINDOW} looks (they are about "
            f"{size:.3g}); no pre-activation comes within the bandwidth: raise --set bandwidth",
        )

    def _shuffling(self, alike: float | None, config: TrainConfig) -> Note | None:
        if alike is None or alike <= ALIKE:
            return None
        worth = max(1, round(config.batch_size / alike))
        return Note(
            "shuffling",
            "buffer too small to shuffle: the tokens of a batch resemble each other, so that one "
            f"of {config.batch_size:,} is worth {worth:,} independent ones; enlarge the buffer, or "
            "shuffle the data before",
        )

    def _waiting(self, share: float | None) -> Note | None:
        if share is None or share <= WAITING:
            return None
        return Note("waiting", f"{self._data} is the bottleneck ({share:.0%} of the time)")

    def not_finite(
        self, state: TrainState, config: TrainConfig, x: Tensor | None, loss: float
    ) -> str:
        """Why a loss or weight is no longer a number."""
        where = f"at step {state.step:,} ({state.n_tokens:,} tokens)"
        fault = None if x is None else _fault(x, state)
        if fault is not None:
            return f"the activations {fault} in the batch {where}."
        what = f"the loss is not finite: it became {loss}"
        if x is None:
            what = "the weights are not finite: a step has spoilt them, as was seen"
        before = [look.fvu for look in self._looks if math.isfinite(look.fvu)]
        came = f", after an fvu of {before[-1]:.3g}" if before else ""
        assert config.lr is not None
        return (
            f"{what} {where}{came}. Most likely the learning rate is too high: start again with "
            f"--lr {config.lr / 4:.2g} (now {config.lr:g})."
        )


def _fault(x: Tensor, state: TrainState) -> str | None:
    """What is wrong with a batch of raw x [N, D] that gave a loss that is no number; None: nothing.

    They were looked at when the run began (start.py), but a stream may change.
    """
    if not torch.isfinite(x).all():
        return "hold NaN or Inf"
    size, spread = start.size_and_spread(state.inputs(x.to(state.sae.W_enc.device)))
    if size > start.LARGEST_SEEN:
        return (
            f"are too large for float32, with a norm of {size:.3g} once normalised (expected: up "
            f"to {start.LARGEST_SEEN:g}),"
        )
    if spread <= start.ALIKE * size:
        return (
            f"are all alike, with a spread of {spread:.2g} around a mean of norm {size:.3g}, so "
            "that there is nothing to learn (shuffle them, or check the site and the mask),"
        )
    return None
