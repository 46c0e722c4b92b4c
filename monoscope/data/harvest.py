"""`collect`: run a language model over a corpus and store its activations at one site.

The corpus is taken in groups of whole documents. A group is captured, masked, written as at most
one shard for each split, and then entered in the manifest in one step; so a harvest that is
killed goes on with its first unfinished group and ends with the same bytes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor

from monoscope.data.corpus import is_held_out
from monoscope.data.folder import Folder
from monoscope.data.manifest import MANIFEST, SPLITS, Arguments, Manifest, Split
from monoscope.data.masking import MaskPolicy, token_norms
from monoscope.data.norms import Moments
from monoscope.data.progress import HarvestProgress, Reporter, joined, left_out
from monoscope.data.resume import begin, fresh_manifest
from monoscope.data.shards import Shard, StoredDoc, first_not_finite, write_shard
from monoscope.data.store import ActivationStore
from monoscope.data.windows import (
    CaptureLM,
    Documents,
    TokenDoc,
    batch_windows,
    capture_tokens,
    cut_windows,
    next_group,
    token_docs,
)
from monoscope.errors import ConfigError, CorpusError, DataError, require_at_least
from monoscope.sites import Site

__all__ = ["HarvestProgress", "collect"]

_SURPLUS = 1.02  # aim a little past the goal, rather than miss it and need another group


def collect(
    lm: CaptureLM,
    corpus: Documents,
    site: str | Site,
    n_tokens: int,
    out: str | os.PathLike[str],
    *,
    held_out: float = 0.1,
    context_length: int = 128,
    max_doc_tokens: int = 1024,
    batch_tokens: int = 4096,
    shard_tokens: int = 65_536,
    sink_ratio: float = 10.0,
    seed: int = 0,
    resume: bool = True,
    progress: Callable[[HarvestProgress], None] | None = None,
) -> ActivationStore:
    """Harvest at least n_tokens tokens that the mask keeps, train and held-out together.

    held_out: share of the documents held out, by hash of their keys.
    context_length: tokens of a forward pass, prefix included; longer documents are cut into
        consecutive windows.  max_doc_tokens: what lies beyond, in a document, is left out, lest
        one long text outweigh the rest; `progress` (or the log) says how much that was.
    batch_tokens: tokens of a forward batch, padding included.  shard_tokens: tokens of a group.
    sink_ratio: tokens with ‖x‖ > sink_ratio × the median of the first group are masked.
    seed: recorded only; nothing in a harvest is random.
    resume: go on with, or reuse, what `out` holds; False refuses a store that has shards.

    If the corpus ends early the store is complete all the same, with `manifest.exhausted` set,
    and `progress` (or the log) says so.

    Raises ConfigError for a number out of range; SiteError; CorpusError if no more than a single
    token is kept; DataError for NaN or Inf; MismatchError if `out` holds a store made otherwise;
    OutputError if it holds anything else, another harvest writes to it, or the disk is full.
    """
    site = Site.parse(site)
    arguments = Arguments(
        n_tokens=n_tokens,
        held_out=held_out,
        context_length=context_length,
        max_doc_tokens=max_doc_tokens,
        batch_tokens=batch_tokens,
        shard_tokens=shard_tokens,
        seed=seed,
    )
    _check(arguments, lm)
    policy = MaskPolicy(tuple(lm.special_ids), sink_ratio)
    fresh = fresh_manifest(lm, corpus, site, policy, arguments)
    folder = Folder(out)
    folder.prepare(MANIFEST)
    with folder.locked("collect"):
        manifest = begin(folder, fresh, resume)
        report = Reporter(progress, manifest)
        if not manifest.complete:
            _Harvest(lm, corpus, site, folder, manifest, report).run()
    return ActivationStore.open(out)


def _check(arguments: Arguments, lm: CaptureLM) -> None:
    counts = ("n_tokens", "max_doc_tokens", "batch_tokens", "shard_tokens")
    require_at_least(arguments, dict.fromkeys(counts, 1))
    if not 0 <= arguments.held_out < 1:
        raise ConfigError(
            "held_out is out of range", got=arguments.held_out, expected="0 or more, below 1"
        )
    least = len(lm.prefix_ids) + 1
    if not least <= arguments.context_length <= lm.context_length:
        raise ConfigError(
            "context_length is out of range",
            got=arguments.context_length,
            expected=f"{least} to {lm.context_length} for this model",
        )


class _Harvest:
    """One run of a harvest; all it knows that must outlive it is in the manifest."""

    def __init__(
        self,
        lm: CaptureLM,
        corpus: Documents,
        site: Site,
        folder: Folder,
        manifest: Manifest,
        report: Reporter,
    ) -> None:
        self._lm, self._corpus, self._site = lm, corpus, site
        self._folder, self._manifest, self._report = folder, manifest, report

    def run(self) -> None:
        """Harvest group by group until there are enough tokens or no more documents."""
        goal = self._manifest.arguments.n_tokens
        docs = token_docs(
            self._lm,
            self._corpus,
            self._manifest.n_documents_read,
            self._manifest.arguments.max_doc_tokens,
        )
        while (done := self._manifest.n_tokens()) < goal:
            group = next_group(docs, self._group_size(goal - done))
            if not group:
                self._exhausted(done, goal)
                return
            self._take(group, goal)
        self._report.tell("done", left_out(self._manifest))

    def _group_size(self, missing: int) -> int:
        """Tokens to read next; derived from the manifest, so a resumed run reads the same."""
        read = self._manifest.n_tokens_read
        share = self._manifest.n_tokens() / read if self._manifest.shards else 1.0
        return min(self._manifest.arguments.shard_tokens, math.ceil(missing / share * _SURPLUS))

    def _exhausted(self, done: int, goal: int) -> None:
        manifest = self._manifest
        if done == 0:
            raise CorpusError(
                "the corpus gave no token that could be kept",
                got=f"{manifest.n_documents_read} documents with {manifest.n_tokens_read} tokens",
                expected="text with ordinary tokens in it",
            )
        if done == 1:
            self._enter(shards=[])  # so that the folder can take another corpus
            raise CorpusError(
                "the corpus gave a single token, and nothing can be learned from one",
                expected="many thousands of tokens",
                hint="Name a larger text with --corpus.",
            )
        self._enter(complete=True, exhausted=True)
        cut = left_out(manifest)
        all_of_it = "the store holds every token of it that the mask keeps"
        ended = f"the corpus ended after {done:,} of the {goal:,} tokens asked for"
        self._report.tell("exhausted", joined(ended, cut or all_of_it))

    def _take(self, group: list[TokenDoc], goal: int) -> None:
        """Capture, mask and write one group, then enter it in the manifest."""
        manifest = self._manifest
        arguments = manifest.arguments
        rows = self._captured(group)
        norms = token_norms(rows.acts)
        self._check_acts(rows, norms)
        policy, keep = self._masked(rows, norms)
        sides = {doc.doc: _side(doc, arguments.held_out) for doc in group}
        lengths = torch.tensor([len(doc.ids) for doc in group])
        held = torch.tensor([sides[doc.doc] == "held_out" for doc in group])
        held_rows = held.repeat_interleave(lengths)
        shards, moments = list(manifest.shards), manifest.moments
        for split in SPLITS:
            chosen = (keep & (held_rows if split == "held_out" else ~held_rows)).nonzero().flatten()
            if not chosen.numel():
                continue
            part = Shard(*(tensor[chosen] for tensor in rows.tensors().values()))
            docs = [_stored(doc, split) for doc in group if doc.ids and sides[doc.doc] == split]
            shards.append(write_shard(self._folder, len(shards), split, part, docs))
            if split == "train":
                moments = moments.merge(Moments.of(part.acts))
        self._enter(
            mask_policy=policy.to_dict(),
            shards=shards,
            train_moments=moments.to_dict(),
            n_documents_read=group[-1].doc + 1,
            n_documents_cut=manifest.n_documents_cut + sum(doc.n_cut > 0 for doc in group),
            n_tokens_cut=manifest.n_tokens_cut + sum(doc.n_cut for doc in group),
            n_tokens_read=manifest.n_tokens_read + len(rows),
            complete=sum(shard.n_tokens for shard in shards) >= goal,
        )

    def _captured(self, group: list[TokenDoc]) -> Shard:
        """All the tokens of a group in order, masked ones included."""
        lengths = [len(doc.ids) for doc in group]
        token_ids = torch.tensor(list(chain.from_iterable(doc.ids for doc in group)))
        token_ids = token_ids.to(torch.int64)
        doc = torch.tensor([doc.doc for doc in group]).repeat_interleave(torch.tensor(lengths))
        pos = torch.cat([torch.arange(n, dtype=torch.int32) for n in lengths])
        arguments, n_prefix = self._manifest.arguments, len(self._lm.prefix_ids)
        windows = cut_windows(lengths, arguments.context_length - n_prefix)
        batches = batch_windows(windows, n_prefix, arguments.batch_tokens)
        acts = capture_tokens(self._lm, self._site, token_ids, batches, self._report.batch)
        return Shard(acts, token_ids, doc, pos)

    def _check_acts(self, rows: Shard, norms: Tensor) -> None:
        dtype, width = str(rows.acts.dtype).removeprefix("torch."), rows.acts.shape[1]
        if dtype != self._manifest.dtype or width != self._manifest.d_in:
            raise DataError(
                f"the activations at {self._site} are not what the model announced",
                got=f"{dtype} of width {width}",
                expected=f"{self._manifest.dtype} of width {self._manifest.d_in}",
            )
        row = first_not_finite(rows.acts, norms)
        if row is not None:
            raise DataError(
                f"NaN or Inf in the activations at {self._site}",
                got=f"document {int(rows.doc[row])}, token {int(rows.pos[row])}",
                expected="finite values",
                hint="Load the model in float32 or bfloat16, or choose another site.",
            )

    def _masked(self, rows: Shard, norms: Tensor) -> tuple[MaskPolicy, Tensor]:
        """The mask policy, its limit measured if it was not yet, and the rows [T] it keeps."""
        policy = self._manifest.policy
        real = torch.ones(len(rows), dtype=torch.bool)
        if policy.max_norm is None:
            candidates = norms[policy.candidates(rows.token_ids, real)]
            if candidates.numel():
                policy = policy.measured(candidates)
        return policy, policy.keep_by_norm(rows.token_ids, real, norms)

    def _enter(self, **changes: object) -> None:
        self._manifest = self._manifest.model_copy(update=changes)
        self._manifest.write(self._folder)
        self._report.group(self._manifest)


def _side(doc: TokenDoc, held_out: float) -> Split:
    return "held_out" if is_held_out(doc.document.key, held_out) else "train"


def _stored(doc: TokenDoc, split: Split) -> StoredDoc:
    text = doc.document.text[: doc.ends[-1]]
    return StoredDoc(doc.doc, split, text, doc.ids, doc.ends, dict(doc.document.meta))
