"""RowAdam: torch's Adam over weight rows whose gradients come as sparse factors."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from monoscope.ops import fast_path, fixed
from monoscope.ops.adam import AdamStep, adam_rows, project_rows
from monoscope.ops.rowgrads import RowGrads


class RowAdam(torch.optim.Adam):
    """Adam with the state of torch.optim.Adam, whose step also does what belongs to rows.

    A parameter's gradient is its .grad plus its factors in a RowGrads. float32 parameters on a CPU
    take the fused walk of ops/cpu_adam.py, matrices on a GPU that of ops/cuda.py, all others the
    reference of ops/adam.py.
    """

    @torch.no_grad()
    def descend(
        self, grads: RowGrads, *, unit: Collection[Tensor] = (), max_norm: float | None = None
    ) -> None:
        """One step. unit: matrices whose rows are kept at norm 1 (Bricken 2023).

        max_norm: clip the gradient of all parameters together, after the projection of the unit
        rows. Parameters that got no gradient stay as they are.
        """
        ids = {id(parameter) for parameter in unit}
        scale = 1.0 if max_norm is None else self._clip(grads, ids, max_norm)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None and not grads.of(parameter):
                    continue
                state = self._state_of(parameter)
                state["step"] += 1
                beta1, beta2 = group["betas"]
                t = int(state["step"].item())
                step = AdamStep(group["lr"], beta1, beta2, group["eps"], t, scale)
                self._walk(parameter, grads, state, step, unit=id(parameter) in ids)

    def numbers(self) -> list[tuple[float, ...]]:
        """What fixed.constants_of says of each group for the step to come."""
        told = []
        for group in self.param_groups:
            counts = [int(self._state_of(p)["step"]) for p in group["params"] if p in self.state]
            t = 1 + max(counts, default=0)
            beta1, beta2 = group["betas"]
            step = AdamStep(group["lr"], beta1, beta2, group["eps"], t)
            told.append(fixed.constants_of(step))
        return told

    def count(self, by: int) -> None:
        """Note that descend_fixed was run, or (−1) that a run of it changed nothing."""
        for state in self.state.values():
            state["step"] += by

    @torch.no_grad()
    def descend_fixed(
        self, grads: RowGrads, constants: Sequence[Tensor], *, unit: Collection[Tensor] = ()
    ) -> None:
        """As descend, without clipping, by `numbers` that are tensors [8]; nothing is read back.

        What it queues can be captured and run again with other numbers; `count` counts the runs.
        """
        ids = {id(parameter) for parameter in unit}
        for group, values in zip(self.param_groups, constants, strict=True):
            for p in group["params"]:
                factors = grads.of(p)
                if p.grad is None and not factors:
                    continue
                state = self._state_of(p)
                m, v = state["exp_avg"], state["exp_avg_sq"]
                walk = fixed.adam_rows
                if p.ndim == 2 and p.is_contiguous() and fast_path(p) == "cuda":
                    from monoscope.ops import cuda

                    walk = cuda.fixed_adam_rows
                walk(p.detach(), factors, p.grad, m, v, values, unit=id(p) in ids)

    def _state_of(self, parameter: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state

    def _walk(
        self, p: Tensor, grads: RowGrads, state: dict[str, Any], step: AdamStep, *, unit: bool
    ) -> None:
        m, v = state["exp_avg"], state["exp_avg_sq"]
        if _has_walk(p):
            from monoscope.ops import cpu_adam  # numba compiles on import: only when it is used

            dense = None if p.grad is None else _rows(p.grad.contiguous())
            cpu_adam.adam_rows(_rows(p), grads.of(p), dense, _rows(m), _rows(v), step, unit=unit)
            return
        if p.ndim == 2 and p.is_contiguous() and fast_path(p) == "cuda":
            from monoscope.ops import cuda

            cuda.adam_rows(p.detach(), grads.of(p), p.grad, m, v, step, unit=unit)
            return
        adam_rows(p, grads.dense(p), m, v, step, unit=unit)

    def _clip(self, grads: RowGrads, unit: set[int], max_norm: float) -> float:
        """What to multiply the gradient by so that its norm is at most max_norm."""
        parts = [
            _squared_norm(parameter, grads, unit=id(parameter) in unit)
            for group in self.param_groups
            for parameter in group["params"]
        ]
        return min(1.0, max_norm / (math.sqrt(math.fsum(parts)) + 1e-6))


def _squared_norm(p: Tensor, grads: RowGrads, *, unit: bool) -> float:
    if _has_walk(p):
        from monoscope.ops import cpu_adam

        dense = None if p.grad is None else _rows(p.grad.contiguous())
        return cpu_adam.squared_norm(_rows(p), grads.of(p), dense, unit=unit)
    grad = grads.dense(p)
    if grad is None:
        return 0.0
    return float((project_rows(grad, p) if unit else grad).double().square().sum())


def _has_walk(p: Tensor) -> bool:
    return fast_path(p) == "cpu" and p.is_contiguous()


def _rows(p: Tensor) -> Tensor:
    """A matrix as it is; anything else as one row."""
    return p.detach() if p.ndim == 2 else p.detach().view(1, -1)
