"""Reading: a model's walk over a corpus in blocks of documents, each captured once for all sites.

Whoever trains at one of the sites asks for one block after another, in a thread of its own. The
first to ask for a block has the model run, once, to the last of the sites; what it finds at the
others is kept until they ask. Which documents a block holds follows from where it begins, so all
of them ask for the same blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from monoscope.data.corpus import is_held_out
from monoscope.data.windows import (
    TokenDoc,
    batch_windows,
    capture_tokens_many,
    cut_windows,
    next_group,
    token_docs,
)
from monoscope.sites import Site

if TYPE_CHECKING:
    from monoscope.data.live import Live

# What a block, and how it is run through the model, follows from besides model, corpus and place.
SETTINGS = ("held_out", "context_length", "max_doc_tokens", "batch_tokens", "buffer_tokens")
KEPT = 3  # blocks that are kept for a site; one behind by more has them captured again
_PATIENCE = 0.05  # seconds between two looks at whether a block is still wanted


@dataclass(frozen=True)
class Place:
    """Where a block begins: the pass over the corpus, and the number of its first document."""

    epoch: int
    document: int


@dataclass(frozen=True)
class Block:
    """All the tokens of some documents at one site: token_ids [T], acts [T,D] as captured.

    after: the number of the first document that is not in it.
    """

    token_ids: Tensor
    acts: Tensor
    after: int


class NotWantedError(Exception):
    """A block that nobody waits for any more."""


class Reading:
    """Reads what a Live reads, at one site or several; safe between threads.

    captured: blocks that the model was run for.  dropped: blocks kept for a site that did not ask
    for them in time.
    """

    def __init__(self, source: Live, sites: Sequence[Site]) -> None:
        self._source = source
        self._kept: dict[Site, dict[Place, Block | None]] = {site: {} for site in sites}
        self._present = set(sites)
        self._docs: tuple[int, Iterator[TokenDoc]] | None = None
        self._turn = threading.Lock()  # one runs the model; who waits may find its block read
        self._shelf = threading.Lock()  # of what is kept, held for moments
        self.captured, self.dropped = 0, 0

    def read(self, place: Place, site: Site, stopped: Callable[[], bool]) -> Block | None:
        """The documents from `place` on, or None where the corpus has no more.

        Raises NotWantedError soon after `stopped()` is true, and what the model or corpus raise.
        """
        self._present.add(site)
        while not (found := self._taken(place, site)):
            if not self._turn.acquire(timeout=_PATIENCE):
                if stopped():
                    raise NotWantedError
                continue
            try:  # it may have been read meanwhile
                found = self._taken(place, site) or [self._captured(place, site, stopped)]
                return found[0]
            finally:
                self._turn.release()
        return found[0]

    def leave(self, site: Site) -> None:
        """Capture nothing more for a site, until it asks again."""
        with self._shelf:
            self._present.discard(site)
            self._kept[site].clear()

    def _taken(self, place: Place, site: Site) -> list[Block | None]:
        """What is kept for a site, as a list of it; empty where nothing is."""
        with self._shelf:
            kept = self._kept[site]
            return [kept.pop(place)] if place in kept else []

    def _captured(self, place: Place, site: Site, stopped: Callable[[], bool]) -> Block | None:
        """Read and capture a block, and keep what the other sites have not been given of it."""
        with self._shelf:
            others = [
                other for other, kept in self._kept.items()
                if other != site and other in self._present and place not in kept
            ]  # fmt: skip
        documents = self._documents(place.document)
        self._docs = None  # unless this ends well, what was taken from them is lost
        group = next_group(documents, self._source.buffer_tokens)
        found: list[Block | None] = [None] * (1 + len(others))
        if group:
            after = group[-1].doc + 1
            token_ids = torch.tensor([i for doc in group for i in doc.ids], dtype=torch.int64)
            lengths = [len(doc.ids) for doc in group]
            acts = self._acts(token_ids, lengths, [site, *others], stopped)
            self._docs = (after, documents)
            self.captured += 1
            found = [Block(token_ids, x, after) for x in acts]
        for other, block in zip(others, found[1:], strict=True):
            self._keep(other, place, block)
        return found[0]

    def _keep(self, site: Site, place: Place, block: Block | None) -> None:
        with self._shelf:
            if site not in self._present:
                return
            kept = self._kept[site]
            kept[place] = block
            while len(kept) > KEPT:
                del kept[next(iter(kept))]
                self.dropped += 1

    def _documents(self, first: int) -> Iterator[TokenDoc]:
        """The documents that are read, from number `first` on; walks on where it last stopped."""
        if self._docs is None or self._docs[0] != first:
            source = self._source
            found = token_docs(source.lm, source.corpus, first, source.max_doc_tokens)
            share = source.held_out
            return (doc for doc in found if not is_held_out(doc.document.key, share))
        return self._docs[1]

    def _acts(
        self, token_ids: Tensor, lengths: list[int], sites: list[Site], stopped: Callable[[], bool]
    ) -> list[Tensor]:
        """The activations [T,D] of documents of these lengths at each of the sites."""
        source, n_prefix = self._source, len(self._source.lm.prefix_ids)
        windows = cut_windows(lengths, source.context_length - n_prefix)
        batches = batch_windows(windows, n_prefix, source.batch_tokens)

        def tick(n: int) -> None:
            if stopped():
                raise NotWantedError

        return capture_tokens_many(source.lm, sites, token_ids, batches, tick)
