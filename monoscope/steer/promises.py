"""What a feature promises to write: the tokens by which a strength sweep counts its effect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

from monoscope.errors import ConfigError
from monoscope.lm.protocol import LM
from monoscope.steer.screen import by_rank

Basis = Literal["given", "contexts", "logits"]
MOST = 24  # tokens; beyond them, weights are below a fifth


class Context(Protocol):
    """A place in a text where a feature fires: the text in pieces, and which is the peak."""

    @property
    def pieces(self) -> list[str]: ...
    @property
    def peak(self) -> int: ...


class Promising(Protocol):
    """What is asked of a feature of an atlas: its strongest contexts and its logit lens."""

    @property
    def latent(self) -> int: ...
    @property
    def label(self) -> str | None: ...
    @property
    def top(self) -> Sequence[Context]: ...
    @property
    def top_tokens(self) -> list[str] | None: ...


def promised(
    lm: LM, feature: Promising, words: Sequence[str] = ()
) -> tuple[dict[int, float], list[str], Basis]:
    """Token ids with their weights 1/log2(2 + rank), the tokens' texts, and where they are from.

    words: what to count, as a person gave it, best first; each with and without a space before it.
    Without words: the tokens that the feature's strongest contexts peak on, commonest first; else
    the tokens that its direction makes likelier. Raises ConfigError where none is one whole token.
    """
    basis: Basis = "given"
    pieces = [form for word in words for form in (f" {word.strip()}", word.strip()) if word.strip()]
    if not words:
        basis = "contexts"
        fired = Counter(example.pieces[example.peak] for example in feature.top)
        pieces = [piece for piece, _ in fired.most_common() if piece.strip()]
        if not pieces:
            basis, pieces = "logits", [t for t in feature.top_tokens or [] if t.strip()]
    ids = _whole_tokens(lm, pieces)
    if not ids:
        raise ConfigError(
            "there is nothing to count the effect by",
            got=", ".join(repr(piece) for piece in pieces[:6]) or f"latent {feature.latent}",
            expected="words that are one token each",
            hint="Give other words to look for.",
        )
    weights = by_rank(ids[:MOST])
    return weights, [lm.token_text(token) for token in weights], basis


def _whole_tokens(lm: LM, pieces: Iterable[str]) -> list[int]:
    unique = list(dict.fromkeys(pieces))
    found = (e.ids[0] for e in lm.encode(unique) if len(e.ids) == 1) if unique else ()
    return list(dict.fromkeys(i for i in found if i not in lm.special_ids))
