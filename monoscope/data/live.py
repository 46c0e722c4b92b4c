"""Live activations: a stream that harvests while what trains on it works, in the background.

The corpus is walked in blocks of whole documents of about buffer_tokens tokens. While the rows of
one block are given, shuffled, the next is captured by a thread. A block follows from its place in
the corpus alone, so a position is a few numbers, and going back to it captures its block again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from monoscope.data.masking import MaskPolicy, token_norms
from monoscope.data.norms import Moments
from monoscope.data.reading import SETTINGS, Block, Place, Reading
from monoscope.data.shards import first_not_finite
from monoscope.data.stream import _permutation
from monoscope.data.windows import CaptureLM, Documents
from monoscope.errors import ConfigError, CorpusError, DataError, MismatchError
from monoscope.sites import Site


@dataclass(frozen=True)
class Live:
    """A model reading a corpus, to train on as on a store: `ms.train(Live(lm, corpus, site), …)`.

    held_out: share of the documents, by hash of their keys, that is never read, as in `collect`.
    context_length, max_doc_tokens, batch_tokens, sink_ratio: as for `collect`.  buffer_tokens: how
    many are shuffled together; two such blocks are in memory, three for a moment.

    Raises ConfigError for a number out of range, SiteError.
    """

    lm: CaptureLM
    corpus: Documents
    site: str | Site
    held_out: float = 0.1
    context_length: int = 128
    max_doc_tokens: int = 1024
    batch_tokens: int = 4096
    buffer_tokens: int = 65_536
    sink_ratio: float = 10.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", Site.parse(self.site))
        self.lm.width(self.parsed_site)
        least = len(self.lm.prefix_ids) + 1
        for name, low, high in (
            ("held_out", 0.0, 0.99),
            ("context_length", least, self.lm.context_length),
            ("max_doc_tokens", 1, None),
            ("batch_tokens", 1, None),
            ("buffer_tokens", 1, None),
        ):
            value = getattr(self, name)
            if value < low or (high is not None and value > high):
                expected = f"at least {low}" if high is None else f"{low} to {high}"
                raise ConfigError(f"{name} is out of range", got=value, expected=expected)

    @property
    def parsed_site(self) -> Site:
        assert isinstance(self.site, Site)
        return self.site

    def asked(self) -> dict[str, Any]:
        """How the command line names this, as far as it can; JSON-able."""
        return {
            "model": self.lm.identity["model"],
            "site": str(self.site),
            "corpus": dict(self.corpus.description),
            "max_doc_tokens": self.max_doc_tokens,
        }

    def stream(self, batch_size: int, seed: int) -> LiveStream:
        """An endless shuffled stream of x [batch_size, D] float32."""
        return LiveStream(self, batch_size, seed, Reading(self, [self.parsed_site]))


@dataclass(frozen=True)
class _Rows:
    """The kept rows of a block, and where the next block begins."""

    place: Place
    rows: Tensor
    after: Place


class LiveStream:
    """Batches x [batch_size, D] float32 from a model that reads on meanwhile; see `Live`.

    Its place can be saved and restored, bit for bit on a CPU.  origin: what to call a wait for it.
    """

    origin = "the model"

    def __init__(self, source: Live, batch_size: int, seed: int, reading: Reading) -> None:
        for name, value, least in (("batch_size", batch_size, 1), ("seed", seed, 0)):
            if value < least:
                raise ConfigError(f"{name} is out of range", got=value, expected=f">= {least}")
        self._source, self.batch_size, self.seed = source, batch_size, seed
        self._reading = reading
        self._measured: dict[str, Any] | None = None  # mask policy and norms, from the first block
        self._place, self._cursor = Place(0, 0), 0
        self._order: Tensor | None = None
        self._blocks: dict[Place, _Rows] = {}  # the current one and the one before
        self._ahead: _Capture | None = None

    @property
    def reached(self) -> tuple[int, int]:
        """How far along the corpus it is: the pass over it, and the document its block begins with.

        Streams that share a reading are best kept close in it.
        """
        return self._place.epoch, self._place.document

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        before = self._place, self._cursor
        parts, missing = [], self.batch_size
        try:
            while missing:
                block = self._current()
                if self._order is None:
                    key = (self.seed, block.place.epoch, block.place.document)
                    self._order = _permutation(block.rows.shape[0], *key)
                picked = self._order[self._cursor : self._cursor + missing]
                parts.append(block.rows[picked])
                missing -= picked.numel()
                self._cursor += picked.numel()
                if self._cursor == block.rows.shape[0]:
                    self._place, self._cursor, self._order = block.after, 0, None
        except BaseException:  # half a batch was taken: the place is the one before it
            (self._place, self._cursor), self._order = before, None
            raise
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).float()

    def provenance(self) -> dict[str, Any]:
        """What an SAE trained on this should remember of it; JSON-able."""
        source = self._source
        if self._measured is None:
            self._current()
        assert self._measured is not None
        return {
            "model": dict(source.lm.identity),
            "site": str(source.site),
            **self._measured,
            "context_length": source.context_length,
            "prefix_ids": [int(i) for i in source.lm.prefix_ids],
            "corpus": dict(source.corpus.description),
            "corpus_fingerprint": source.corpus.fingerprint,
        }

    def identity(self) -> dict[str, Any]:
        """What the rows follow from, by name; JSON-able."""
        walk = self._walk()
        named = {name: value for name, value in walk.items() if name not in ("model", "seed")}
        return {"kind": "model", **walk["model"], **named}

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, and what the walk depends on; JSON-able."""
        place = {"epoch": self._place.epoch, "document": self._place.document}
        return self._walk() | place | {"cursor": self._cursor, "measured": self._measured}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where `state_dict` was taken.

        Raises MismatchError if that stream had another model, corpus, seed or setting.
        """
        for name, value in self._walk().items():
            if state.get(name) != value:
                raise MismatchError(
                    f"the stream to resume had another {name}",
                    got=value,
                    expected=state.get(name),
                    hint="Resume with the same model, corpus, seed and settings.",
                )
        self._measured = state["measured"] or self._measured
        self._place = Place(int(state["epoch"]), int(state["document"]))
        self._cursor, self._order = int(state["cursor"]), None

    def close(self) -> None:
        """Stop reading ahead, and having others' blocks captured at this site."""
        if self._ahead is not None:
            self._ahead.stop()
            self._ahead = None
        self._reading.leave(self._source.parsed_site)

    def _walk(self) -> dict[str, Any]:
        source = self._source
        return {
            "model": dict(source.lm.identity),
            "site": str(source.site),
            "corpus": source.corpus.fingerprint,
            "seed": self.seed,
            **{name: getattr(source, name) for name in (*SETTINGS, "sink_ratio")},
        }

    def _current(self) -> _Rows:
        """The block at the present place; the one after it is begun in the background."""
        block = self._blocks.get(self._place)
        if block is None:
            block = self._waited_for(self._place)
            before = [kept for kept in self._blocks.values() if kept.after == block.place]
            self._blocks = {kept.place: kept for kept in (*before, block)}
        if self._ahead is None and block.after not in self._blocks:
            self._ahead = _Capture(self, block.after)
        return block

    def _waited_for(self, place: Place) -> _Rows:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead.place == place:
            return ahead.result()
        if ahead is not None:
            ahead.stop()
        return self._captured(place, lambda: False)

    def _captured(self, place: Place, stopped: Any) -> _Rows:
        """Read on from `place`; skips to the next block that keeps rows."""
        start, empty_passes = place, 0
        while True:
            block = self._reading.read(start, self._source.parsed_site, stopped)
            if block is None:
                empty_passes += 1
                if empty_passes == 2:
                    raise CorpusError(
                        "the corpus gave no token that could be kept",
                        expected="text with ordinary tokens in documents that are not held out",
                    )
                start = Place(start.epoch + 1, 0)
                continue
            rows = self._kept(block)
            start = Place(start.epoch, block.after)
            if rows.shape[0]:
                return _Rows(place, rows, start)

    def _kept(self, block: Block) -> Tensor:
        """The rows [n, D] of a block that the mask keeps."""
        acts, token_ids, norms = block.acts, block.token_ids, token_norms(block.acts)
        if first_not_finite(acts, norms) is not None:
            raise DataError(
                f"NaN or Inf in the activations at {self._source.site}",
                expected="finite values",
                hint="Load the model in float32 or bfloat16, or choose another site.",
            )
        real = torch.ones(len(token_ids), dtype=torch.bool)
        if self._measured is None:
            self._measure(acts, norms, token_ids, real)
        assert self._measured is not None
        policy = MaskPolicy.from_dict(self._measured["mask_policy"])
        return acts[policy.keep_by_norm(token_ids, real, norms)]

    def _measure(self, acts: Tensor, norms: Tensor, token_ids: Tensor, real: Tensor) -> None:
        """Mask policy and norms, from the first block; they hold for the whole run."""
        policy = MaskPolicy(tuple(self._source.lm.special_ids), self._source.sink_ratio)
        candidates = norms[policy.candidates(token_ids, real)]
        if candidates.numel():
            policy = policy.measured(candidates)
        kept = acts[policy.keep_by_norm(token_ids, real, norms)]
        if not kept.shape[0]:
            raise CorpusError(
                "the first block of the corpus has no token that can be kept",
                expected="text with ordinary tokens",
                hint="Raise buffer_tokens.",
            )
        stats = Moments.of(kept).stats()
        self._measured = {
            "mask_policy": policy.to_dict(),
            "norm_stats": {"mean_norm": stats.mean_norm, "median_norm": stats.median_norm},
        }


class _Capture:
    """One block, captured by a thread of its own."""

    def __init__(self, stream: LiveStream, place: Place) -> None:
        self.place = place
        self._stopped = threading.Event()
        self._block: _Rows | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(stream,), daemon=True)
        self._thread.start()

    def _run(self, stream: LiveStream) -> None:
        try:
            self._block = stream._captured(self.place, self._stopped.is_set)
        except BaseException as error:  # raised again where it is waited for
            self._error = error

    def result(self) -> _Rows:
        """Wait for it."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._block is not None
        return self._block

    def stop(self) -> None:
        """Give it up after the forward pass it is in; what it has read of the corpus is lost."""
        self._stopped.set()
        with contextlib.suppress(RuntimeError):
            self._thread.join()
