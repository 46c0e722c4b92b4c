"""What a feature promises to write: the tokens by which a strength sweep counts its effect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

from monoscope.errors import ConfigError
from monoscope.lm.protocol import LM
from monoscope.steer.screen import by_rank

Basis = Literal["given", "label", "contexts", "logits"]
MOST = 24  # tokens; beyond them, weights are below a fifth


class Context(Protocol):
    """A place in a text where a feature fires: the text in pieces, and which is the peak."""

    @property
    def pieces(self) -> list[str]: ...
    @property
    def peak(self) -> int: ...


class Promising(Protocol):
    """What is asked of a feature of an atlas: its label, strongest contexts and logit lens.

    label_tokens: those that the label itself carries; empty for one that is words alone.
    """

    @property
    def latent(self) -> int: ...
    @property
    def label(self) -> str | None: ...
    @property
    def label_tokens(self) -> Sequence[str]: ...
    @property
    def top(self) -> Sequence[Context]: ...
    @property
    def top_tokens(self) -> list[str] | None: ...


def promised(
    lm: LM, feature: Promising, words: Sequence[str] = ()
) -> tuple[dict[int, float], list[str], Basis]:
    """Token ids with their weights 1/log2(2 + rank), the tokens' texts, and where they are from.

    words: what to count, as a person gave it, best first; each with and without a space before it.
    Without words: the tokens that the feature's label carries, as rules' and n-grams' do; else
    those that its strongest contexts peak on, commonest first; else those that its direction makes
    likelier. Raises ConfigError where none is one whole token.
    """
    basis, pieces, ids = _wanted(lm, feature, words)
    if not ids:
        raise ConfigError(
            "there is nothing to count the effect by",
            got=", ".join(repr(piece) for piece in pieces[:6]) or f"latent {feature.latent}",
            expected="words that are one token each",
            hint="Give other words to look for.",
        )
    weights = by_rank(ids[:MOST])
    return weights, [lm.token_text(token) for token in weights], basis


def _wanted(lm: LM, feature: Promising, words: Sequence[str]) -> tuple[Basis, list[str], list[int]]:
    """Where the promise is from, its pieces of text, and those of them that are whole tokens."""
    if words:
        given = [w.strip() for w in words if w.strip()]
        pieces = [form for word in given for form in (f" {word}", word)]
        return "given", pieces, _whole_tokens(lm, pieces)
    said = [piece for piece in feature.label_tokens if piece.strip()]
    if ids := _whole_tokens(lm, said):
        return "label", said, ids
    fired = Counter(example.pieces[example.peak] for example in feature.top)
    pieces = [piece for piece, _ in fired.most_common() if piece.strip()]
    if pieces:
        return "contexts", pieces, _whole_tokens(lm, pieces)
    pieces = [t for t in feature.top_tokens or [] if t.strip()]
    return "logits", pieces, _whole_tokens(lm, pieces)


def _whole_tokens(lm: LM, pieces: Iterable[str]) -> list[int]:
    unique = list(dict.fromkeys(pieces))
    found = (e.ids[0] for e in lm.encode(unique) if len(e.ids) == 1) if unique else ()
    return list(dict.fromkeys(i for i in found if i not in lm.special_ids))
