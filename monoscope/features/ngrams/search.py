"""The search for what makes a latent fire: contexts cut short and tokens replaced, by the model.

After Foote et al. 2023 (Neuron to Graph), who prune a context to what activates a neuron and try
substitutes for its tokens; here substitutes are random tokens of the corpus, not another model's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from monoscope.artifact.checks import check_model
from monoscope.data.masking import MaskPolicy
from monoscope.features.ngrams.patterns import Tokens, stripped

if TYPE_CHECKING:
    from monoscope.lm.protocol import LM
    from monoscope.sae.model import SAE

_BATCH = 64  # texts of a forward pass, and rows whose codes are held at once

Text = tuple[int, ...]
Question = tuple[Text, int]  # a text, and the latent whose activation on its last token is wanted


@dataclass(frozen=True)
class Limits:
    """What the search may cost.

    longest: tokens of a suffix; n_swaps: random tokens tried in place of each; keep: share of the
    activation that must be kept.
    """

    longest: int = 8
    n_swaps: int = 3
    keep: float = 0.5

    def most_texts(self, n_contexts: int) -> int:
        """Texts read for one latent at the very most: every suffix, every swap, and all at once."""
        return n_contexts * (self.longest + self.n_swaps * (self.longest + 1))


class Probe:
    """A model and an SAE that read short texts; n_texts, n_tokens: how many they have read.

    Every text is read after the model's own prefix, or, where it has none, after a token that ends
    texts: the first token of all is an attention sink in most models and fires no latent.
    Raises MismatchError if model and SAE do not belong together.
    """

    def __init__(self, lm: LM, sae: SAE) -> None:
        self.lm, self.sae, self.site = lm, sae, check_model(sae, lm)
        self.lead = tuple(lm.prefix_ids) or (min(lm.eos_ids, default=lm.pad_id),)
        policy = sae.provenance.get("mask_policy")
        self.policy = MaskPolicy.from_dict(policy) if isinstance(policy, dict) else policy
        self.n_texts = self.n_tokens = 0

    def ask(self, questions: Iterable[Question]) -> dict[Question, float]:
        """The latents' activations on the texts' last tokens, 0 where the mask drops the token."""
        wanted: dict[Text, list[int]] = {}
        for text, latent in dict.fromkeys(questions):
            wanted.setdefault(text, []).append(latent)
        texts = sorted(wanted, key=len)  # of one length, mostly, so that little is padded
        found: dict[Question, float] = {}
        for start in range(0, len(texts), _BATCH):
            some = texts[start : start + _BATCH]
            dense = self._codes(some)
            for text, row in zip(some, dense, strict=True):
                found |= {(text, latent): float(row[latent]) for latent in wanted[text]}
        return found

    @torch.no_grad()
    def _codes(self, texts: Sequence[Text]) -> torch.Tensor:
        rows = [(*self.lead, *text) for text in texts]
        self.n_texts += len(rows)
        self.n_tokens += sum(map(len, rows))
        ids = torch.full((len(rows), max(map(len, rows))), self.lm.pad_id, dtype=torch.int64)
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = True
        x = self.lm.capture(ids.to(self.lm.device), mask.to(self.lm.device), self.site)
        at, last = torch.arange(len(rows)), mask.sum(1) - 1
        acts = x[at.to(x.device), last.to(x.device)].to(self.sae.W_dec.device)
        codes = self.sae.encode(acts.float()).to_dense().cpu()
        if self.policy is not None:
            kept = self.policy.keep(ids.to(x.device), mask.to(x.device), x).cpu()
            codes[~kept[at, last]] = 0
        return codes


@dataclass
class Context:
    """A place where a latent fires: the tokens up to it, and its activation there.

    suffix: how many tokens keep the activation, None where none of the lengths tried does.
    """

    latent: int
    ids: Text
    value: float
    doc: int
    pos: int
    suffix: int | None = None
    wild: list[bool] = field(default_factory=list)

    @property
    def text(self) -> Text:
        """The tokens that keep the activation."""
        assert self.suffix is not None
        return self.ids[len(self.ids) - self.suffix :]

    @property
    def pattern(self) -> Tokens | None:
        """The suffix with its wildcards; None where it is too long, or any text would do."""
        if self.suffix is None:
            return None
        pairs = zip(self.text, self.wild, strict=True)
        return stripped([None if wild else token for token, wild in pairs])


def search(
    probe: Probe, contexts: Sequence[Context], pool: NDArray[np.int64], limits: Limits, seed: int
) -> None:
    """Find the shortest suffix of every context that keeps its activation, and the wildcards in it.

    A token is a wildcard if each of n_swaps tokens drawn from `pool` (token ids as common as in the
    corpus) in its place keeps the activation; all wildcards of a suffix are then replaced at once,
    and where that loses the activation, the one that kept most of it alone stays.
    """
    _shorten(probe, contexts, limits)
    found = [c for c in contexts if c.suffix is not None]
    swaps = {latent: _swaps(latent, pool, limits, seed) for latent in {c.latent for c in found}}
    least = _replaced_singly(probe, found, swaps, limits)
    for context, kept in zip(found, least, strict=True):
        context.wild = [value >= limits.keep * context.value for value in kept]
    _check_together(probe, found, least, swaps, limits)


def _shorten(probe: Probe, contexts: Sequence[Context], limits: Limits) -> None:
    """Suffixes from one token on, until each context has one that keeps its activation."""
    todo = list(contexts)
    for n in range(1, limits.longest + 1):
        todo = [c for c in todo if len(c.ids) >= n]
        found = probe.ask((c.ids[-n:], c.latent) for c in todo)
        for c in todo:
            if found[c.ids[-n:], c.latent] >= limits.keep * c.value:
                c.suffix = n
        todo = [c for c in todo if c.suffix is None]


def _replaced_singly(
    probe: Probe, found: Sequence[Context], swaps: dict[int, Any], limits: Limits
) -> list[list[float]]:
    """For each context and token of its suffix, the least activation over the token's swaps."""
    asked = [
        [
            [(_with(c.text, {i: swap}), c.latent) for swap in _others(swaps, c, i, limits)]
            for i in range(len(c.text))
        ]
        for c in found
    ]
    values = probe.ask(question for each in asked for some in each for question in some)
    return [[min(values[q] for q in some) for some in each] for each in asked]


def _check_together(
    probe: Probe, found: Sequence[Context], least: Sequence[Sequence[float]],
    swaps: dict[int, Any], limits: Limits,
) -> None:  # fmt: skip
    """Replace all wildcards of a suffix at once; keep but the best where that is too much."""
    many = [(c, kept) for c, kept in zip(found, least, strict=True) if sum(c.wild) > 1]
    asked = []
    for c, _ in many:
        each = {i: _others(swaps, c, i, limits) for i, wild in enumerate(c.wild) if wild}
        texts = [_with(c.text, {i: s[n] for i, s in each.items()}) for n in range(limits.n_swaps)]
        asked.append([(text, c.latent) for text in texts])
    values = probe.ask(question for some in asked for question in some)
    for (c, kept), some in zip(many, asked, strict=True):
        if min(values[q] for q in some) < limits.keep * c.value:
            best = max((i for i, wild in enumerate(c.wild) if wild), key=lambda i: kept[i])
            c.wild = [i == best for i in range(len(c.wild))]


def _swaps(latent: int, pool: NDArray[np.int64], limits: Limits, seed: int) -> list[list[int]]:
    """For each place of a suffix, more random tokens than are needed, as some may be its own."""
    rng = np.random.default_rng([seed, 23, latent])
    drawn: list[list[int]] = rng.choice(pool, (limits.longest, 4 * limits.n_swaps)).tolist()
    return drawn


def _others(swaps: dict[int, Any], context: Context, i: int, limits: Limits) -> list[int]:
    """The swaps of token i of a suffix, counted from its end so that equal suffixes share them."""
    own = context.text[i]
    drawn = [token for token in swaps[context.latent][len(context.text) - 1 - i] if token != own]
    return (drawn + [own] * limits.n_swaps)[: limits.n_swaps]


def _with(text: Text, new: dict[int, int]) -> Text:
    return tuple(new.get(i, token) for i, token in enumerate(text))
