"""Patterns of a few tokens that end where a latent fires, with wildcards; few, and in words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from monoscope.visible import quoted

LABEL_WIDTH = 60
WILD = "…"
_STRONGER = 1.25  # times as strong as the general pattern, from which a special one stands alone

Tokens = tuple[int | None, ...]


@dataclass(frozen=True)
class Pattern:
    """Token ids that must stand before and at a place, None for any token; the last is the place.

    value: the activation it predicts. n_contexts: how many contexts it was found in. The first
    token is never a wildcard: nearly every place has something before it.
    """

    tokens: Tokens
    value: float
    n_contexts: int

    def covers(self, other: Tokens) -> bool:
        """Whether this pattern matches wherever `other` does."""
        pairs = zip(reversed(self.tokens), reversed(other), strict=False)
        return len(self.tokens) <= len(other) and all(a is None or a == b for a, b in pairs)


def stripped(tokens: Sequence[int | None]) -> Tokens | None:
    """The pattern without leading wildcards; None where nothing is left, for it says nothing."""
    first = next((i for i, token in enumerate(tokens) if token is not None), None)
    return None if first is None else tuple(tokens[first:])


def merge(found: Iterable[tuple[Tokens, float]], most: int) -> list[Pattern]:
    """The few patterns behind what was found in each context (tokens and activation).

    A pattern that another covers joins it, unless it fires the latent much more strongly: " of"
    takes in " as a result of". Each keeps the mean activation of its contexts. At most `most` are
    kept, those of most contexts, then strongest.
    """
    groups: dict[Tokens, list[float]] = {}
    for tokens, value in found:
        groups.setdefault(tokens, []).append(value)
    general = sorted(groups, key=lambda t: (len(t), -t.count(None), -len(groups[t]), str(t)))
    kept: dict[Tokens, list[float]] = {}
    for tokens in general:
        own = float(np.mean(groups[tokens]))
        wider = [k for k in kept if Pattern(k, 0.0, 0).covers(tokens)]
        home = next((k for k in wider if own <= _STRONGER * np.mean(groups[k])), tokens)
        kept.setdefault(home, []).extend(groups[tokens])
    merged = [Pattern(t, float(np.mean(values)), len(values)) for t, values in kept.items()]
    return sorted(merged, key=lambda p: (-p.n_contexts, -p.value, str(p.tokens)))[:most]


def describe(
    patterns: Sequence[Pattern], texts: Mapping[int, str], width: int = LABEL_WIDTH
) -> str | None:
    """Patterns in at most `width` characters, heaviest first; those that do not fit are counted.

    texts: of each token id. Wildcards are "…". None without patterns.
    """
    order = sorted(patterns, key=lambda p: (-p.n_contexts * p.value, str(p.tokens)))
    words = [
        quoted("".join(WILD if token is None else texts[token] for token in pattern.tokens))
        for pattern in order
    ]
    for n in range(len(words), 0, -1):
        rest = f" +{len(words) - n}" if n < len(words) else ""
        text = " · ".join(words[:n]) + rest
        if len(text) <= width or n == 1:
            return text
    return None


def with_values(patterns: Sequence[Pattern], values: Sequence[float]) -> list[Pattern]:
    """The same patterns with other predictions."""
    return [replace(p, value=value) for p, value in zip(patterns, values, strict=True)]


def to_json(patterns: Sequence[Pattern], texts: Mapping[int, str]) -> str:
    """Patterns as JSON text that `from_json` reads back, with the text of each token."""
    return json.dumps(
        [
            {
                "tokens": list(p.tokens),
                "texts": [None if t is None else texts[t] for t in p.tokens],
                "value": p.value,
                "n_contexts": p.n_contexts,
            }
            for p in patterns
        ],
        ensure_ascii=False,
    )


def from_json(text: str) -> list[Pattern]:
    """The patterns that `to_json` wrote."""
    return [
        Pattern(tuple(p["tokens"]), float(p["value"]), int(p["n_contexts"]))
        for p in json.loads(text)
    ]
