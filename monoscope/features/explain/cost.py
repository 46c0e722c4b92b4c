"""What asking costs: an estimate before, the bill after, and a limit between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from monoscope.errors import ConfigError, EndpointError
from monoscope.features.explain.endpoint import Usage

_CHARS_PER_TOKEN = 3.5  # of English in common tokenizers; other scripts take more tokens
_MILLION = 1_000_000


@dataclass(frozen=True)
class Prices:
    """What a million tokens cost, in whatever currency they are given and reported in.

    monoscope knows no prices: a table of them would be wrong by the next month.

    Raises ConfigError for one without the other, or below zero.
    """

    per_m_in: float | None = None
    per_m_out: float | None = None

    def __post_init__(self) -> None:
        if (self.per_m_in is None) != (self.per_m_out is None):
            raise ConfigError("--price-in and --price-out belong together", got="one of them")
        if min(self.per_m_in or 0.0, self.per_m_out or 0.0) < 0:
            raise ConfigError("a price is below zero")

    def cost(self, usage: Usage) -> float | None:
        """tokens × price; None without prices, or where the server did not count its tokens."""
        if self.per_m_in is None or self.per_m_out is None or not usage.known:
            return None
        total = usage.prompt_tokens * self.per_m_in + usage.completion_tokens * self.per_m_out
        return total / _MILLION


@dataclass(frozen=True)
class Budget:
    """Prices and the most that may be spent.

    Raises ConfigError for a limit without prices to hold it against.
    """

    prices: Prices = Prices()
    max_cost: float | None = None

    def __post_init__(self) -> None:
        if self.max_cost is not None and self.prices.per_m_in is None:
            raise ConfigError(
                "--max-cost needs prices",
                hint="Give --price-in and --price-out, per million tokens.",
            )

    def check(self, spent: Usage) -> None:
        """Raise EndpointError before the next question once the limit is reached."""
        if self.max_cost is None:
            return
        cost = self.prices.cost(spent)
        if cost is None:
            raise EndpointError(
                "the endpoint does not count tokens, so --max-cost cannot be kept",
                hint="Leave --max-cost out.",
            )
        if cost >= self.max_cost:
            raise EndpointError(
                "the limit of --max-cost is reached",
                got=f"{cost:.4g} spent",
                expected=f"at most {self.max_cost:g}",
                hint="Every answer is kept; run again with a higher limit to go on.",
            )

    def approve(self, estimate: Usage) -> None:
        """Raise ConfigError, before anything is spent, if the estimate is above the limit."""
        cost = self.prices.cost(estimate)
        if self.max_cost is not None and cost is not None and cost > self.max_cost:
            raise ConfigError(
                "this would probably cost more than --max-cost",
                got=f"about {cost:.4g} for {estimate.n_calls} questions",
                expected=f"at most {self.max_cost:g}",
                hint="Label fewer latents with --n or --latents.",
            )


def estimate(n_chars: int, n_calls: int, n_out: int) -> Usage:
    """Tokens of n_calls prompts that are n_chars long together, with n_out tokens in answers."""
    return Usage(n_calls, round(n_chars / _CHARS_PER_TOKEN), n_out)


def bill(usage: Usage, prices: Prices) -> dict[str, Any]:
    """Usage as plain JSON values; cost null, and why, where it cannot be known."""
    cost = prices.cost(usage)
    told: dict[str, Any] = {
        "n_calls": usage.n_calls,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cost": cost,
    }
    if not usage.known:
        told["note"] = "the server did not count its tokens on every answer"
    elif cost is None:
        told["note"] = "tokens only: no prices were given"
    return told
