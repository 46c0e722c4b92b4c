"""The target-L0 controller: moves the sparsity coefficient until L0 is where it was asked to be.

A proportional-integral controller on logarithms, so that one setting serves every penalty, width
and scale; it looks LEAD ahead, since weights follow the coefficient only after a while:
    e = log(L0 / target) + LEAD·d log L0, clipped to ±LIMIT, L0 an average over the last steps
    I ← I + e·Δ,  log factor = GAIN·e + RATE·I,  Δ the share of the run a step takes
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from monoscope.train.config import TrainConfig
from monoscope.train.state import TrainState

TOLERANCE = 0.1  # share of the target within which it counts as reached
LIMIT = 0.7  # e is clipped to this: far from the target, speed matters and size does not
GAIN = 0.4
RATE = 15.0
LEAD = 0.05  # share of the run
REMEMBER = 0.03  # share of the run that L0 is averaged over, at least 3 steps
FURTHEST = math.log(1e6)  # the coefficient stays within this factor of its default
MEMORY = "target_l0"  # its name in TrainState.memory


@dataclass(frozen=True)
class Control:
    """What the controller remembers between steps: I, the averaged log L0, and the last factor."""

    integral: float = 0.0
    log_l0: float | None = None
    factor: float = 1.0

    def after(self, l0: float, target: float, share: float) -> Control:
        """The next state, for the L0 of a step that took `share` of the run."""
        now = math.log(max(l0, 1e-3))
        weight = min(1 / 3, share / REMEMBER)
        log_l0 = now if self.log_l0 is None else self.log_l0 + weight * (now - self.log_l0)
        slope = 0.0 if self.log_l0 is None else (log_l0 - self.log_l0) / share
        error = min(LIMIT, max(-LIMIT, log_l0 - math.log(target) + LEAD * slope))
        integral = self.integral + error * share
        integral = min(FURTHEST / RATE, max(-FURTHEST / RATE, integral))
        return Control(integral, log_l0, math.exp(GAIN * error + RATE * integral))


def factor(state: TrainState) -> float:
    """What the sparsity coefficient is multiplied by now."""
    return Control(**state.memory.get(MEMORY, {})).factor


def steer(state: TrainState, target: float, l0: float, share: float) -> None:
    """Let the controller see the L0 of the step that was done."""
    control = Control(**state.memory.get(MEMORY, {})).after(l0, target, share)
    state.memory[MEMORY] = asdict(control)


def outcome(state: TrainState, config: TrainConfig, l0: float) -> dict[str, Any]:
    """How it ended: target, l0, the coefficient used, and whether L0 is within TOLERANCE.

    Where it is not, `advice` says so in words. For sigmoid, whose units are never off, L0 is Σ f of
    the last steps.
    """
    target = config.target_l0
    assert target is not None
    if config.rho is not None:
        l0 = math.exp(Control(**state.memory[MEMORY]).log_l0 or 0.0)
    coefficient = factor(state) * (config.sparsity_coefficient or 0.0)
    told: dict[str, Any] = {"l0": target, "coefficient": coefficient}
    told["reached"] = abs(l0 - target) <= TOLERANCE * target
    if not told["reached"]:
        told["advice"] = (
            f"target_l0 {target:g} was not reached: l0 is {l0:.4g} at a sparsity coefficient of "
            f"{coefficient:.3g}; train on more tokens, or start nearer with "
            "--set sparsity_coefficient=…"
        )
    return told
