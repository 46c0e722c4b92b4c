"""From documents to activations: tokenise, cut into windows, batch by length, capture, put back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor

from monoscope.data.corpus import Document
from monoscope.sites import Site

_ENCODE_TOGETHER = 64  # documents per call of the tokenizer
_CHARS_PER_TOKEN = 32  # far above what any vocabulary reaches on average


class Encoding(Protocol):
    """The tokens of one text and where each ends in it, in characters."""

    @property
    def ids(self) -> list[int]: ...
    @property
    def ends(self) -> list[int]: ...


class CaptureLM(Protocol):
    """What a harvest needs of a language model; `monoscope.lm.LM` has it all and more."""

    @property
    def identity(self) -> Mapping[str, str]: ...
    @property
    def context_length(self) -> int: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def prefix_ids(self) -> Sequence[int]: ...
    @property
    def special_ids(self) -> Collection[int]: ...
    @property
    def pad_id(self) -> int: ...
    def width(self, site: Site) -> int: ...
    def encode(self, texts: Sequence[str]) -> Sequence[Encoding]: ...
    def capture_many(self, ids: Tensor, mask: Tensor, sites: Sequence[Site]) -> list[Tensor]: ...


class Documents(Protocol):
    """What a harvest needs of a corpus: documents in the same order each time, and their origin."""

    @property
    def description(self) -> Mapping[str, object]: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def attribution(self) -> Sequence[str]: ...
    def __iter__(self) -> Iterator[Document]: ...


@dataclass(frozen=True)
class TokenDoc:
    """A corpus document, tokenised and cut to its first max_doc_tokens tokens.

    n_cut: tokens left out; of a text so long that it is not tokenised whole, about so many.
    """

    doc: int
    document: Document
    ids: list[int]
    ends: list[int]
    n_cut: int


@dataclass(frozen=True)
class Window:
    """Tokens start … start+length of a group's tokens, one row of a forward pass."""

    start: int
    length: int


def token_docs(
    lm: CaptureLM, corpus: Documents, first: int, max_doc_tokens: int
) -> Iterator[TokenDoc]:
    """The documents of the corpus from number `first` on, tokenised in batches."""
    documents = enumerate(corpus)
    for _ in islice(documents, first):
        pass
    while chunk := list(islice(documents, _ENCODE_TOGETHER)):
        encoded = _encode(lm, [document.text for _, document in chunk], max_doc_tokens)
        for (number, document), tokens in zip(chunk, encoded, strict=True):
            ids, ends = tokens.ids[:max_doc_tokens], tokens.ends[:max_doc_tokens]
            yield TokenDoc(number, document, ids, ends, _n_tokens(document, tokens) - len(ids))


def _n_tokens(document: Document, tokens: Encoding) -> int:
    """Tokens of a document, reckoned from those of its beginning where only that was encoded."""
    if not tokens.ids:
        return 0
    return round(len(tokens.ids) * len(document.text) / tokens.ends[-1])


def _encode(lm: CaptureLM, texts: list[str], max_doc_tokens: int) -> list[Encoding]:
    """Encode the texts, or of a very long one only a beginning that surely has enough tokens."""
    most = max_doc_tokens * _CHARS_PER_TOKEN
    encoded = list(lm.encode([text[:most] for text in texts]))
    short = [
        i
        for i, text in enumerate(texts)
        if len(text) > most and len(encoded[i].ids) <= max_doc_tokens
    ]
    if short:
        for i, whole in zip(short, lm.encode([texts[i] for i in short]), strict=True):
            encoded[i] = whole
    return encoded


def next_group(docs: Iterator[TokenDoc], n_tokens: int) -> list[TokenDoc]:
    """Take whole documents until they have at least n_tokens tokens; fewer at the end."""
    group: list[TokenDoc] = []
    taken = 0
    while taken < n_tokens and (doc := next(docs, None)) is not None:
        group.append(doc)
        taken += len(doc.ids)
    return group


def cut_windows(lengths: Sequence[int], size: int) -> list[Window]:
    """Cut documents of these lengths, laid end to end, into windows of at most `size` tokens."""
    windows, start = [], 0
    for length in lengths:
        windows += [Window(start + at, min(size, length - at)) for at in range(0, length, size)]
        start += length
    return windows


def batch_windows(
    windows: Sequence[Window], n_prefix: int, batch_tokens: int
) -> list[list[Window]]:
    """Batch windows, longest first, into at most batch_tokens tokens, padding and prefix included.

    A window that is longer than batch_tokens makes a batch of its own.
    """
    ordered = sorted(windows, key=lambda window: (-window.length, window.start))
    batches, at = [], 0
    while at < len(ordered):
        rows = max(1, batch_tokens // (n_prefix + ordered[at].length))
        batches.append(ordered[at : at + rows])
        at += rows
    return batches


def capture_tokens(
    lm: CaptureLM,
    site: Site,
    token_ids: Tensor,
    batches: Sequence[Sequence[Window]],
    tick: Callable[[int], None],
) -> Tensor:
    """The activations [T,D] of a group's token_ids [T], on the CPU in the dtype of the capture.

    tick is called after each batch with the tokens it held.
    """
    return capture_tokens_many(lm, [site], token_ids, batches, tick)[0]


def capture_tokens_many(
    lm: CaptureLM,
    sites: Sequence[Site],
    token_ids: Tensor,
    batches: Sequence[Sequence[Window]],
    tick: Callable[[int], None],
) -> list[Tensor]:
    """What `capture_tokens` gives at each of the sites, from one forward pass a batch."""
    acts: list[Tensor] = []
    n_prefix = len(lm.prefix_ids)
    for batch in batches:
        ids, mask = _rows(lm, token_ids, batch)
        xs = [x[:, n_prefix:].to("cpu") for x in lm.capture_many(ids, mask, sites)]
        if not acts:
            acts = [torch.empty(token_ids.numel(), x.shape[-1], dtype=x.dtype) for x in xs]
        for x, put in zip(xs, acts, strict=True):
            for row, window in zip(x, batch, strict=True):
                put[window.start : window.start + window.length] = row[: window.length]
        tick(sum(window.length for window in batch))
    return acts or [torch.empty(0, lm.width(site), dtype=lm.dtype) for site in sites]


def _rows(lm: CaptureLM, token_ids: Tensor, batch: Sequence[Window]) -> tuple[Tensor, Tensor]:
    """The ids [B,S] and mask [B,S] of a batch: prefix, tokens, padding on the right."""
    prefix = torch.tensor(lm.prefix_ids, dtype=torch.int64)
    longest = len(prefix) + max(window.length for window in batch)
    ids = torch.full((len(batch), longest), lm.pad_id, dtype=torch.int64)
    mask = torch.zeros(len(batch), longest, dtype=torch.bool)
    for row, window in enumerate(batch):
        end = len(prefix) + window.length
        ids[row, : len(prefix)] = prefix
        ids[row, len(prefix) : end] = token_ids[window.start : window.start + window.length]
        mask[row, :end] = True
    return ids, mask
