"""Steps of fixed shape, which an NVIDIA GPU runs as a captured CUDA graph, the host not waiting.

A plain step asks the device how many entries there are, which latents are dead, how large the least
kept value was. Here all of that stays on the device (ops/fixed.py), and so does the proof that the
right latents were chosen: without it a step changes nothing, and its batch is taken again by a
plain step once the host, LAG steps later, hears of it. Figures are read when they are looked at.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from monoscope.ops import fast_path
from monoscope.ops.fixed import N_CONSTANTS
from monoscope.ops.rowgrads import RowGrads
from monoscope.sae.recipes import Recipe
from monoscope.train.config import TrainConfig
from monoscope.train.objective import Objective, objective
from monoscope.train.state import TrainState
from monoscope.train.step import StepResult, k_now, set_lr, step

WARM = 3  # plain steps first, for batchtopk's guess; then as many fixed ones before the capture
LAG = 4  # steps until the host hears whether a step was proved; a fixed number, so runs are alike


def obstacle(state: TrainState, config: TrainConfig) -> str | None:
    """Why the steps of a run cannot be of fixed shape, if they cannot."""
    if not state.sae.rule.fixed:
        return f"recipe {config.recipe} keeps as many latents as there happen to be"
    if config.grad_clip is not None:
        return "grad_clip needs the norm of the gradient before the step"
    return None


@dataclass(frozen=True)
class _Pending:
    """A step whose proof the host has not seen: its batch, and the flag that is under way."""

    raw: Tensor
    proved: Tensor
    arrived: torch.cuda.Event | None


class Stepper:
    """Takes the steps of one run: fixed ones on a GPU where it can, else those of step.py.

    fixed: whether to; default on a GPU with Triton.  capture: whether as a CUDA graph.
    plain: why not, where that is so on a GPU.  redone: steps that were not proved and done again.
    """

    def __init__(
        self, state: TrainState, recipe: Recipe, config: TrainConfig, *,
        fixed: bool | None = None, capture: bool = True,
    ) -> None:  # fmt: skip
        self.state, self.recipe, self.config = state, recipe, config
        on_gpu = state.sae.W_enc.device.type == "cuda"
        why = obstacle(state, config)
        if why is None and on_gpu and fast_path(state.sae.W_enc) != "cuda":
            why = "Triton is not installed, or the weights are not float32"
        if fixed is None:
            fixed = on_gpu
        self.plain = why if on_gpu and fixed else None
        self.redone = 0
        self._steps = _Steps(state, recipe, config, capture) if fixed and why is None else None
        self._pending: deque[_Pending] = deque()

    @property
    def captured(self) -> bool:
        """Whether steps run as a CUDA graph now."""
        return self._steps is not None and self._steps.graph is not None

    def take(self, raw: Tensor) -> StepResult:
        """One step on raw x [N, D], as step.step does it."""
        steps, state = self._steps, self.state
        if steps is None or state.step < WARM or raw.shape[0] != self.config.batch_size:
            self.settle()
            done = step(state, self.recipe, self.config, raw)
            if steps is not None:
                steps.guess.fill_(state.guess)
            return done
        while len(self._pending) >= LAG:
            self._review(self._pending.popleft())
        raw = raw.to(state.sae.W_enc.device)
        done = steps.run(raw)
        self.plain = steps.trouble
        assert done.objective.proved is not None
        self._pending.append(_announced(raw, done.objective.proved))
        return done

    def settle(self) -> None:
        """Wait for all steps, take those again that were not proved, and bring the state home."""
        while self._pending:
            self._review(self._pending.popleft())
        if self._steps is not None and self.state.step > WARM:
            self.state.guess = float(self._steps.guess)

    def _review(self, pending: _Pending) -> None:
        if pending.arrived is not None:
            pending.arrived.synchronize()
        if bool(pending.proved):
            return
        assert self._steps is not None
        state = self.state
        self.redone += 1
        state.optimizer.count(-1)  # the step that changed nothing was counted
        state.step -= 1
        state.n_tokens -= pending.raw.shape[0]
        state.guess = float(self._steps.guess)
        step(state, self.recipe, self.config, pending.raw)
        self._steps.guess.fill_(state.guess)


def _announced(raw: Tensor, proved: Tensor) -> _Pending:
    """The flag on its way to the host, which does not wait for it."""
    if proved.device.type != "cuda":
        return _Pending(raw, proved.clone(), None)
    flag = torch.empty((), dtype=torch.bool, pin_memory=True)
    flag.copy_(proved, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return _Pending(raw, flag, arrived)


class _Steps:
    """The fixed steps of a run, their buffers, and the graph they are captured in."""

    def __init__(
        self, state: TrainState, recipe: Recipe, config: TrainConfig, capture: bool
    ) -> None:
        self.state, self.recipe, self.config = state, recipe, config
        device = state.sae.W_enc.device
        self.raw = torch.empty(config.batch_size, state.sae.d_in, device=device)
        self.guess = torch.full((), state.guess, device=device)
        self.clock = torch.zeros((), dtype=torch.int64, device=device)  # n_tokens before the step
        groups = state.optimizer.param_groups
        self.constants = [torch.zeros(N_CONSTANTS, device=device) for _ in groups]
        self.graph: torch.cuda.CUDAGraph | None = None
        self.trouble: str | None = None
        self._stream = torch.cuda.Stream() if capture and device.type == "cuda" else None
        self._k, self._alike = 0, 0  # latents a token, and steps in a row with so many
        self._last: tuple[Objective, Tensor] | None = None

    def run(self, raw: Tensor) -> StepResult:
        """Queue one step; its results are tensors that the next step overwrites."""
        state, config = self.state, self.config
        self.raw.copy_(raw)
        done = state.share(state.n_tokens, config.n_tokens)
        after = state.share(state.n_tokens + len(raw), config.n_tokens)
        lr = set_lr(state, config, after)
        self._tell()
        k = k_now(state.sae, config, done)
        assert k is not None
        self._alike = self._alike + 1 if k == self._k else 1
        if k != self._k:
            self._k, self.graph, self._last = k, None, None
        self._queue()
        assert self._last is not None
        state.step += 1
        state.n_tokens += len(raw)
        state.optimizer.count(1)
        return StepResult(self._last[0], self._last[1], lr, 0.0)

    def _tell(self) -> None:
        """Numbers of this step, by kernels that fill: no memory of the host is read later."""
        self.clock.fill_(self.state.n_tokens)
        for constants, values in zip(self.constants, self.state.optimizer.numbers(), strict=True):
            for at, value in enumerate(values):
                constants[at].fill_(value)

    def _queue(self) -> None:
        if self._stream is None or self.trouble is not None:
            self._last = self.body()
            return
        if self.graph is None and self._alike > WARM:
            self._capture()
        if self.graph is not None:
            self.graph.replay()
            return
        # what warms up runs where it will be captured, so that autograd keeps to that stream
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._last = self.body()
        torch.cuda.current_stream().wait_stream(self._stream)

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            # other threads may go on allocating: that is what moves batches ahead
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._last = self.body()
        except RuntimeError as error:
            self.trouble = f"capturing a step as a CUDA graph failed: {error}"
            return
        self.graph = graph

    def body(self) -> tuple[Objective, Tensor]:
        """Queue a step on the buffers; returns its objective, detached, and its L0."""
        state, sae, config = self.state, self.state.sae, self.config
        assert config.dead_after_tokens is not None
        x = state.inputs(self.raw)
        dead = self.clock - state.last_fired >= config.dead_after_tokens
        state.optimizer.zero_grad(set_to_none=True)
        with RowGrads() as grads:
            active = sae.rule.train_fixed(sae, x, self._k, self.guess)
            terms = objective(sae, self.recipe, config, x, active, dead, 0.0)
            terms.total.backward()
        proved = terms.proved
        assert proved is not None
        for constants in self.constants:
            constants[-1].copy_(proved)
        unit = (sae.W_dec,) if self.recipe.decoder == "unit" else ()
        state.optimizer.descend_fixed(grads, self.constants, unit=unit)
        state.optimizer.zero_grad(set_to_none=True)
        self._remember(active.fired, active.smallest, proved)
        detached = {name: term.detach() for name, term in terms.terms.items()}
        assert isinstance(active.l0, Tensor)
        return replace(terms, terms=detached, proved=proved), active.l0

    def _remember(self, fired: Tensor, smallest: float | Tensor, proved: Tensor) -> None:
        """Which latents fired, and where the next batchtopk selection starts looking."""
        last_fired = self.state.last_fired
        hit = torch.zeros(len(last_fired) + 1, dtype=torch.bool, device=fired.device)
        hit = hit.scatter_(0, fired, True)[:-1] & proved
        last_fired.copy_(torch.where(hit, self.clock + len(self.raw), last_fired))
        if isinstance(smallest, Tensor):
            lower = torch.where(self.guess > 1e-6, 0.7 * self.guess, 0.0)
            self.guess.copy_(torch.where(proved, 0.9 * smallest, lower))


__all__ = ["LAG", "WARM", "Stepper", "obstacle"]
