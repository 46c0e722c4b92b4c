"""What the rest of the house may ask of a language model, and the words it is asked in.

Axis letters: B documents or prompts, S position, D width at a site, V vocabulary, n directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from monoscope.sites import Site

if TYPE_CHECKING:
    from monoscope.lm.session import Reader


@dataclass(frozen=True)
class Encoded:
    """One text as tokens: token i is `text[ends[i-1]:ends[i]]`, where `ends[-1]` counts as 0.

    ids: token ids. ends: end of each token in characters, never falling, the last one
    `len(text)`; so the pieces join to the text. Where one character is cut into several tokens,
    the first of them owns the character and the others own nothing (slow tokenizers: the last).
    """

    ids: list[int]
    ends: list[int]

    def pieces(self, text: str) -> list[str]:
        """The stretch of `text` that each token owns; they join to `text`."""
        return [text[start:end] for start, end in pairwise([0, *self.ends])]


@dataclass(frozen=True)
class Positions:
    """What a hook may look at, all [B,S]: which token stands where, and whether it counts.

    token_ids int64; mask bool, False on padding; generated bool, True on tokens the model wrote
    itself; position int64, counting real tokens of the row from 0.
    """

    token_ids: Tensor
    mask: Tensor
    generated: Tensor
    position: Tensor


Hook = Callable[[Tensor, Positions], Tensor]
"""x [B,S,D] float32 -> x' [B,S,D]; returns its argument to leave it alone, never edits in place."""


class LM(Protocol):
    """A language model whose activations can be read and edited at named sites."""

    name: str
    identity: dict[str, str]
    n_layers: int
    d_model: int
    vocab_size: int
    context_length: int
    device: torch.device
    dtype: torch.dtype
    prefix_ids: tuple[int, ...]
    special_ids: frozenset[int]
    pad_id: int
    eos_ids: frozenset[int]

    def sites(self) -> list[str]:
        """Every named site the model has."""

    def width(self, site: Site) -> int:
        """D at the site; raises SiteError, naming those the model has."""

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Texts as tokens, without any special tokens added."""

    def decode(self, ids: Sequence[int]) -> str:
        """Tokens as text, special tokens included."""

    def token_text(self, token_id: int) -> str:
        """One entry of the vocabulary, for lists of tokens."""

    def chat(self, messages: list[dict[str, str]]) -> list[int]:
        """A conversation in the model's own template, ready for its answer."""

    def capture(self, ids: Tensor, mask: Tensor, site: Site) -> Tensor:
        """x [B,S,D] at a site, in the model's dtype, running no further than the site."""

    def capture_many(self, ids: Tensor, mask: Tensor, sites: Sequence[Site]) -> list[Tensor]:
        """What `capture` gives at each of the sites, bit for bit, from one forward pass."""

    def logits(self, ids: Tensor, mask: Tensor, hooks: Mapping[Site, Hook] | None = None) -> Tensor:
        """Next-token logits [B,S,V] in the model's dtype, with the sites in `hooks` edited."""

    def session(self, hooks: Mapping[Site, Hook] | None = None) -> Reader:
        """Read one text piece by piece, with the sites in `hooks` edited."""

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        hooks: Mapping[Site, Hook] | None = None,
    ) -> Iterator[Tensor]:
        """The next ids [B], step by step; `pad_id` after a row ended."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        hooks: Mapping[Site, Hook] | None = None,
    ) -> list[list[int]]:
        """New ids only, each row cut at its first end-of-text."""

    def lens(self, directions: Tensor) -> Tensor:
        """Logit effect [n,V] float32 of directions [n,D]: W_U (γ ⊙ d)."""
