"""The scaling law L(n, k, T) of SAE losses: fitted, with intervals, and used to spend a budget.

    L = exp(α + β_k ln k + β_n ln n + γ ln k ln n) + exp(τ − β_T ln T) + E

n: latents; k: L0; T: training tokens. The first term is the law of Gao et al. 2024 (arXiv
2406.04093, section 3.1.2); the second, what too few tokens cost, has the additive form of Hoffmann
et al. 2022 (arXiv 2203.15556, equation 2) and is left out where all runs had the same tokens. E,
which no size takes away, is constant here and there only where the runs can tell it from nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares, minimize_scalar
from scipy.stats import f as f_distribution

from monoscope.errors import ConfigError, DataError

LEVEL = 0.95
NAMES = ("alpha", "beta_k", "beta_n", "gamma", "tau", "beta_t")
IRREDUCIBLE = "irreducible"
LEAST_SIZES = 3  # with two, any bend of the loss over sizes is unseen
FURTHEST = 8.0  # how far beyond the sizes of the sweep a recommendation may lie
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Law:
    """The fitted parameters by name, their intervals, and how well they fit.

    residual: root mean square of ln L − ln L̂.  draws [replicates, parameters]: the bootstrap.
    sizes, tokens: the ranges of n and T that it was fitted on.  irreducible_up_to: where it has no
    irreducible term, the largest one that fits the runs as well, None if they cannot say; why it
    has none stands in no_irreducible.
    """

    parameters: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    residual: float
    n_points: int
    sizes: tuple[float, float]
    tokens: tuple[float, float]
    draws: _Floats
    no_irreducible: str | None = None
    irreducible_up_to: float | None = None

    @property
    def has_tokens(self) -> bool:
        """Whether the law says what tokens are worth."""
        return "beta_t" in self.parameters

    def predict(self, n: ArrayLike, k: ArrayLike, tokens: ArrayLike = 1.0) -> _Floats:
        """L for n latents, L0 k and training tokens, of any shapes that go together."""
        return _predict(np.array(list(self.parameters.values())), *_logs(n, k, tokens))

    def predictions(self, n: ArrayLike, k: ArrayLike, tokens: ArrayLike = 1.0) -> _Floats:
        """The same by each replicate of the bootstrap, along a first axis."""
        logs = _logs(n, k, tokens)
        shape = np.broadcast_shapes(*(log.shape for log in logs))
        made = [_predict(draw, *logs) for draw in self.draws]
        return np.array(made).reshape(len(made), *shape)

    def to_json(self) -> dict[str, Any]:
        """The law as plain JSON values, without its draws."""
        return {
            "formula": "exp(alpha + beta_k ln k + beta_n ln n + gamma ln k ln n)"
            + (" + exp(tau - beta_t ln T)" if self.has_tokens else "")
            + (f" + {IRREDUCIBLE}" if IRREDUCIBLE in self.parameters else ""),
            "parameters": self.parameters,
            "intervals": {name: list(pair) for name, pair in self.intervals.items()},
            "level": LEVEL,
            "residual": self.residual,
            "n_points": self.n_points,
            "no_irreducible": self.no_irreducible,
            "irreducible_up_to": self.irreducible_up_to,
        }


@dataclass(frozen=True)
class Advice:
    """What to train with a budget at an L0: d_sae, tokens, the fvu the law expects, and intervals.

    extrapolates: the sizes or tokens lie outside those of the sweep.  at_bound: said where d_sae
    is the smallest or largest that was looked at, so that the best may lie beyond; None elsewhere.
    """

    budget: float
    k: float
    d_sae: int
    n_tokens: int
    fvu: float
    d_sae_interval: tuple[int, int]
    extrapolates: bool
    at_bound: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The advice as plain JSON values."""
        return {**self.__dict__, "d_sae_interval": list(self.d_sae_interval)}


def flop_per_token(d_in: int, n: ArrayLike, k: ArrayLike) -> _Floats:
    """2·D·n for the encoder product and 8·D·k for all that is sparse, for each training token."""
    return 2.0 * d_in * np.asarray(n, float) + 8.0 * d_in * np.asarray(k, float)


def fit_law(
    n: ArrayLike, k: ArrayLike, tokens: ArrayLike, loss: ArrayLike,
    *, bootstrap: int = 200, seed: int = 0,
) -> Law:  # fmt: skip
    """Fit the law to runs with n latents, L0 k, training tokens and loss, all [R].

    Least squares on ln L. Intervals: percentiles over refits to the fitted values times residuals
    drawn anew (residual bootstrap), inflated for the parameters that were fitted. The irreducible
    term is kept where the F test of its profile likelihood refuses E = 0.

    Raises DataError for losses that are not positive, and for runs too few or too alike to tell
    the parameters apart.
    """
    logs, y = _logs(n, k, tokens), np.asarray(loss, float)
    if not (np.isfinite(y).all() and (y > 0).all()):
        raise DataError("a scaling law needs positive losses", got=list(y))
    with_tokens = len(np.unique(logs[2])) > 1
    _check_runs(*logs, 6 if with_tokens else 4)
    best, no_irreducible, up_to = _with_irreducible(logs, np.log(y), with_tokens)
    n_parameters = len(best)
    fitted = np.log(_predict(best, *logs))
    residuals = np.log(y) - fitted
    residuals -= residuals.mean()
    inflated = residuals * np.sqrt(len(y) / max(1, len(y) - n_parameters))
    draw = np.random.default_rng(seed)
    draws = np.array([
        _fit(*logs, fitted + draw.choice(inflated, len(y)), n_parameters, best)
        for _ in range(bootstrap)
    ]).reshape(bootstrap, n_parameters)  # fmt: skip
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    bounds = np.quantile(draws, tails, axis=0).T if bootstrap else np.full((n_parameters, 2), None)
    names = [*NAMES[: n_parameters // 2 * 2], *([IRREDUCIBLE] if n_parameters % 2 else [])]
    return Law(
        parameters=dict(zip(names, map(float, best), strict=True)),
        intervals={name: (float(a), float(b)) for name, (a, b) in zip(names, bounds, strict=True)}
        if bootstrap
        else {},
        residual=float(np.sqrt(np.mean((np.log(y) - fitted) ** 2))),
        n_points=len(y),
        sizes=(float(np.min(n)), float(np.max(n))),
        tokens=(float(np.min(tokens)), float(np.max(tokens))),
        draws=draws,
        no_irreducible=no_irreducible,
        irreducible_up_to=up_to,
    )


def _with_irreducible(
    logs: tuple[_Floats, _Floats, _Floats], log_loss: _Floats, with_tokens: bool
) -> tuple[_Floats, str | None, float | None]:
    """The best parameters, with E where the runs carry it; else why not, and how large it may be.

    The profile of E is the least Σ (ln L − ln L̂)² at each value of it; values whose sum is above
    the least one by more than F allows are refused.
    """
    n_parameters = 6 if with_tokens else 4
    plain = _fit(*logs, log_loss, n_parameters, None)
    sizes, spare = len(np.unique(logs[0])), len(log_loss) - n_parameters - 1
    if sizes < LEAST_SIZES or spare < 1:
        least = f"at least {LEAST_SIZES} sizes and {n_parameters + 2} runs are needed"
        return plain, f"{least}; there are {sizes} sizes and {len(log_loss)} runs", None
    full = _fit(*logs, log_loss, n_parameters + 1, None)

    def misses(parameters: _Floats) -> float:
        return float(np.sum((np.log(_predict(parameters, *logs)) - log_loss) ** 2))

    noise = 1e-12 * len(log_loss)  # losses without any are told to this
    limit = max(misses(full), noise) * (1 + float(f_distribution.ppf(LEVEL, 1, spare)) / spare)
    if misses(plain) > limit:
        return full, None, None
    low, high = full[-1], float(np.exp(log_loss.min()))
    for _ in range(12):
        middle = (low + high) / 2
        fixed = _fit(*logs, log_loss, n_parameters + 1, None, fixed=middle)
        low, high = (middle, high) if misses(fixed) <= limit else (low, middle)
    said = f"the runs ({sizes} sizes) do not tell it from 0: up to {low:.3g} fits them as well"
    return plain, f"{said} ({LEVEL:.0%}, profile likelihood)", low


def recommend(law: Law, budget: float, k: float, d_in: int) -> Advice:
    """The d_sae and tokens that make L smallest for `budget` FLOP at an L0 of k.

    Sizes are looked for from an eighth of the sweep's smallest to eight times its largest.

    Raises ConfigError if the sweep had one number of tokens only (it cannot say what they are
    worth), or if the budget does not pay for a run within reach.
    """
    if not law.has_tokens:
        raise ConfigError(
            "a sweep with one number of tokens cannot say how to spend a budget",
            hint="Sweep over several, such as --tokens 250000,500000,1000000.",
        )
    low, high = law.sizes[0] / FURTHEST, law.sizes[1] * FURTHEST
    low = max(low, k)
    if budget / float(flop_per_token(d_in, low, k)) < law.tokens[0] / FURTHEST:
        raise ConfigError(
            "the budget is too small for what this sweep can tell",
            got=f"{budget:.3g} FLOP",
            expected=f"at least {law.tokens[0] / FURTHEST * flop_per_token(d_in, low, k):.3g}",
        )
    best = np.array(list(law.parameters.values()))
    size = _cheapest(best, budget, k, d_in, low, high)
    tokens = budget / float(flop_per_token(d_in, size, k))
    others = [_cheapest(draw, budget, k, d_in, low, high) for draw in law.draws] or [size]
    bounds = np.quantile(others, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    inside = law.sizes[0] <= size <= law.sizes[1] and law.tokens[0] <= tokens <= law.tokens[1]
    return Advice(
        budget=budget, k=k, d_sae=round(size), n_tokens=round(tokens),
        fvu=float(law.predict(size, k, tokens)),
        d_sae_interval=(round(bounds[0]), round(bounds[1])), extrapolates=not inside,
        at_bound=_at_bound(size, low, high, k),
    )  # fmt: skip


def _at_bound(size: float, low: float, high: float, k: float) -> str | None:
    """What is to be said of a best size that is an end of the search."""
    if size > high * 0.99:
        return (
            f"d_sae {size:,.0f} is the largest that was looked at, {FURTHEST:g} times the largest "
            "of the sweep: a larger one may be better. Sweep over larger sizes."
        )
    if size < low * 1.01:
        why = "L0 itself" if low <= k else f"an {FURTHEST:g}th of the smallest of the sweep"
        return (
            f"d_sae {size:,.0f} is the smallest that was looked at, {why}: a smaller one may be "
            "better. Sweep over smaller sizes, or more tokens."
        )
    return None


def _cheapest(
    parameters: _Floats, budget: float, k: float, d_in: int, low: float, high: float
) -> float:
    """The n with the smallest L whose tokens use up the budget."""

    def loss(log_n: float) -> float:
        n = np.exp(log_n)
        tokens = budget / flop_per_token(d_in, n, k)
        return float(_predict(parameters, *_logs(n, k, tokens)))

    grid = np.linspace(np.log(low), np.log(high), 65)
    start = int(np.argmin([loss(at) for at in grid]))
    around = grid[max(0, start - 1)], grid[min(len(grid) - 1, start + 1)]
    found = minimize_scalar(loss, bounds=around, method="bounded")
    return float(np.exp(found.x))


def _logs(n: ArrayLike, k: ArrayLike, tokens: ArrayLike) -> tuple[_Floats, _Floats, _Floats]:
    def log(value: ArrayLike) -> _Floats:
        out: _Floats = np.log(np.asarray(value, np.float64))
        return out

    return log(n), log(k), log(tokens)


def _design(log_n: _Floats, log_k: _Floats) -> _Floats:
    return np.stack([np.ones_like(log_n), log_k, log_n, log_k * log_n], axis=-1)


def _predict(parameters: _Floats, log_n: _Floats, log_k: _Floats, log_t: _Floats) -> _Floats:
    """L by the law with 4 parameters, 6 with those of tokens, and one more if E is the last."""
    log_n, log_k, log_t = np.broadcast_arrays(log_n, log_k, log_t)
    loss: _Floats = np.exp(_design(log_n, log_k) @ parameters[:4])
    if len(parameters) >= 6:
        loss = loss + np.exp(parameters[4] - parameters[5] * log_t)
    return loss + parameters[-1] if len(parameters) % 2 else loss


def _check_runs(log_n: _Floats, log_k: _Floats, log_t: _Floats, n_parameters: int) -> None:
    """Raise DataError unless the runs can tell the parameters apart."""
    rank = np.linalg.matrix_rank(_design(log_n, log_k)) if len(log_n) else 0
    if len(log_n) < n_parameters or rank < 4:
        raise DataError(
            "too few runs for a scaling law",
            got=f"{len(log_n)} runs with {len(np.unique(log_n))} sizes and "
            f"{len(np.unique(log_k.round(2)))} values of L0",
            expected=f"at least {n_parameters} runs, with two sizes and two values of L0",
        )


def _fit(
    log_n: _Floats, log_k: _Floats, log_t: _Floats, log_loss: _Floats, n_parameters: int,
    start: _Floats | None, fixed: float | None = None,
) -> _Floats:  # fmt: skip
    """Parameters with the smallest Σ (ln L − ln L̂)²; from `start`, else from several places.

    fixed: the value of E, if it is not to be fitted.
    """
    design, least = _design(log_n, log_k), float(np.exp(log_loss.min()))
    if n_parameters == 4:
        return np.asarray(np.linalg.lstsq(design, log_loss, rcond=None)[0], np.float64)
    low, high = [-60.0, -10, -10, -3], [60.0, 10, 10, 3]
    if n_parameters >= 6:
        low, high = [*low, -60, 0], [*high, 60, 5]
    free = n_parameters if fixed is None else n_parameters - 1
    if n_parameters % 2 and fixed is None:
        low, high = [*low, 0], [*high, least]

    def whole(parameters: _Floats) -> _Floats:
        return parameters if fixed is None else np.append(parameters, fixed)

    def misses(parameters: _Floats) -> _Floats:
        return np.log(_predict(whole(parameters), log_n, log_k, log_t)) - log_loss

    starts = [start] if start is not None else _starts(design, log_loss, log_t, n_parameters, fixed)
    fits = [
        least_squares(
            misses, np.clip(at[:free], low, high), bounds=(low, high), x_scale="jac", max_nfev=2000
        )
        for at in starts
    ]
    return whole(min(fits, key=lambda fit: fit.cost).x)


def _starts(
    design: _Floats, log_loss: _Floats, log_t: _Floats, n_parameters: int, fixed: float | None
) -> list[_Floats]:
    """Where a search begins: shares of the loss given to tokens and to E, the rest to sizes."""
    least = float(np.exp(log_loss.min()))
    constants = [0.0] if n_parameters % 2 == 0 else [0.1, 0.6] if fixed is None else [fixed / least]
    places: list[_Floats] = []
    for constant in constants:
        rest = np.log(np.maximum(np.exp(log_loss) - constant * least, 1e-3 * least))
        linear = np.asarray(np.linalg.lstsq(design, rest, rcond=None)[0], np.float64)
        tokens = [(share, slope) for share in (0.05, 0.2, 0.5) for slope in (0.3, 1.0)]
        for share, slope in tokens if n_parameters >= 6 else [(0.0, 0.0)]:
            at = [linear[0] + np.log(1 - share), *linear[1:]]
            if n_parameters >= 6:
                at += [np.log(share) + rest.mean() + slope * log_t.mean(), slope]
            places.append(np.array([*at, constant * least] if n_parameters % 2 else at))
    return places
