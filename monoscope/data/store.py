"""ActivationStore: reads the activations and documents that a harvest wrote."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from monoscope.data.folder import Folder, digest
from monoscope.data.manifest import MANIFEST, Manifest, ShardInfo, Split, read_manifest
from monoscope.data.masking import MaskPolicy
from monoscope.data.norms import NormStats
from monoscope.data.shards import (
    Shard,
    StoredDoc,
    check_finite,
    documents_of,
    load_docs,
    load_rows,
)
from monoscope.data.stream import MAX_BYTES, Stream
from monoscope.errors import DataError, FormatError
from monoscope.files import found_below


class ActivationStore:
    """The activations of one model at one site over one corpus; made by `collect`, never changed.

    path: the folder, or the URL it was opened by.  manifest: all it says about itself.
    """

    def __init__(self, folder: Folder, manifest: Manifest) -> None:
        self.path: Path | str = folder.local if folder.local is not None else folder.where
        self.manifest = manifest
        self._folder = folder
        self._checked: set[str] = set()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> ActivationStore:
        """Open a store, finished or not; the contents of a file are checked when it is first read.

        Raises FormatError if `path` is no store, if its manifest is damaged or from a newer
        version, or if a file is missing or has another size than it should.
        """
        folder = Folder(path)
        manifest = read_manifest(folder)
        if manifest is None:
            raise FormatError(
                f"{folder.where} is not an activation store",
                got=f"no {MANIFEST} there",
                hint=found_below(folder.where, MANIFEST) or "Make one with `monoscope collect`.",
            )
        store = cls(folder, manifest)
        for shard in manifest.shards:
            store._check_size(shard.file, shard.bytes)
            store._check_size(shard.docs_file, shard.docs_bytes)
        return store

    def __repr__(self) -> str:
        return (
            f"ActivationStore({str(self.path)!r}, {self.site}, d_in {self.d_in}, "
            f"{self.n_tokens('train'):,} train and {self.n_tokens('held_out'):,} held-out tokens)"
        )

    @property
    def d_in(self) -> int:
        """D, the width of the activations."""
        return self.manifest.d_in

    @property
    def site(self) -> str:
        """Where in the model they were read."""
        return self.manifest.site

    @property
    def identity(self) -> dict[str, str]:
        """Which model they come from: "model", "weights", "tokenizer"."""
        return self.manifest.identity

    @property
    def dtype(self) -> torch.dtype:
        """The dtype they are stored in."""
        dtype: torch.dtype = getattr(torch, self.manifest.dtype)
        return dtype

    @property
    def mask_policy(self) -> MaskPolicy:
        """The rule that decided which tokens have a row."""
        return self.manifest.policy

    def provenance(self) -> dict[str, Any]:
        """What an SAE trained on this store should remember of it; JSON-able."""
        return {
            "model": self.identity,
            "site": self.site,
            "mask_policy": self.mask_policy.to_dict(),
            "norm_stats": {
                "mean_norm": self.norm_stats.mean_norm,
                "median_norm": self.norm_stats.median_norm,
            },
            "context_length": self.manifest.arguments.context_length,
            "prefix_ids": list(self.manifest.prefix_ids),
            "corpus": self.manifest.corpus,
            "corpus_fingerprint": self.manifest.corpus_fingerprint,
        }

    def asked(self) -> dict[str, Any]:
        """How the command line names this store; JSON-able."""
        return {"store": str(self.path if isinstance(self.path, str) else self.path.absolute())}

    @cached_property
    def norm_stats(self) -> NormStats:
        """Mean, norms and total variance of the train activations.

        Raises DataError if there are no train tokens.
        """
        moments = self.manifest.moments
        if moments.n == 0:
            raise DataError("the store has no train tokens", got=str(self.path))
        return moments.stats()

    def n_tokens(self, split: Split | None = None) -> int:
        """Stored tokens of a split, or of both."""
        return self.manifest.n_tokens(split)

    def n_documents(self, split: Split | None = None) -> int:
        """Stored documents of a split, or of both."""
        return self.manifest.n_documents(split)

    def shards(self, split: Split | None = None) -> list[ShardInfo]:
        """The shards of a split, or of both, in corpus order."""
        return [shard for shard in self.manifest.shards if split in (None, shard.split)]

    def read(self, shard: ShardInfo) -> Shard:
        """The rows of a shard, its hash and values checked when it is first read.

        Raises FormatError if the file is missing or altered, DataError if it holds NaN or Inf.
        """
        source = self._fetch(shard.file, shard.bytes, shard.sha256)
        rows = load_rows(source, shard, self.d_in, self.dtype)
        if shard.file not in self._checked:
            check_finite(rows, shard.file)
            self._checked.add(shard.file)
        return rows

    def batches(self, split: Split, batch_size: int) -> Iterator[Shard]:
        """Runs of at most batch_size rows in stored order, never across shards."""
        for info in self.shards(split):
            rows = self.read(info)
            for start in range(0, len(rows), batch_size):
                yield rows[start : start + batch_size]

    def documents(self, split: Split | None = None) -> Iterator[StoredDoc]:
        """The documents of a split, or of both, shard by shard."""
        for shard in self.shards(split):
            yield from documents_of(self._docs(shard))

    def get_documents(self, ids: Iterable[int]) -> dict[int, StoredDoc]:
        """The documents with these numbers.

        Raises DataError naming the first that the store lacks.
        """
        wanted = sorted({int(i) for i in ids})
        by_shard: dict[int, list[int]] = {}
        for doc in wanted:
            place = self._doc_shards.get(doc)
            if place is None:
                raise DataError(f"the store has no document {doc}", got=str(self.path))
            by_shard.setdefault(place, []).append(doc)
        found: dict[int, StoredDoc] = {}
        for place, docs in by_shard.items():
            table = self._docs(self.manifest.shards[place])
            picked = table.filter(pc.is_in(table["doc"], value_set=pa.array(docs, pa.int64())))
            found |= {doc.doc: doc for doc in documents_of(picked)}
        return {doc: found[doc] for doc in wanted}

    def stream(self, batch_size: int, seed: int, *, max_bytes: int = MAX_BYTES) -> Stream:
        """An endless shuffled stream of x [batch_size, D] float32 of the train split.

        max_bytes: memory for the rows that are shuffled together, see `Stream`.

        Raises DataError if the train split has fewer rows than batch_size, ConfigError for a
        number out of range.
        """
        about = {**self.identity, "site": self.site, "corpus": self.manifest.corpus_fingerprint}
        return Stream(self, batch_size, seed, max_bytes=max_bytes, about=about)

    @cached_property
    def _doc_shards(self) -> dict[int, int]:
        """Which shard each document is in, by their numbers."""
        return {
            doc: place
            for place, shard in enumerate(self.manifest.shards)
            for doc in self._docs(shard)["doc"].to_pylist()
        }

    def _docs(self, shard: ShardInfo) -> pa.Table:
        source = self._fetch(shard.docs_file, shard.docs_bytes, shard.docs_sha256)
        table = load_docs(source, shard.docs_file)
        self._checked.add(shard.docs_file)
        return table

    def _fetch(self, name: str, size: int, sha256: str) -> Path | bytes:
        """A file of the store; its hash is checked unless it already was."""
        self._check_size(name, size)
        source = self._folder.fetch(name)
        if name not in self._checked and digest(source) != sha256:
            raise FormatError(
                f"{name} in {self.path} is damaged: its content does not match its SHA-256",
                hint="Harvest the store again.",
            )
        return source

    def _check_size(self, name: str, size: int) -> None:
        found = self._folder.size(name)
        if found != size:
            raise FormatError(
                f"{name} is missing from {self.path}"
                if found is None
                else f"{name} in {self.path} is damaged: its size is wrong",
                got=None if found is None else f"{found} bytes",
                expected=None if found is None else f"{size} bytes",
                hint="Harvest the store again.",
            )


def load_store(path: str | Path) -> ActivationStore:
    """Open the store that `collect` wrote at `path`: a folder, or any fsspec URL.

    Raises as ActivationStore.open.
    """
    return ActivationStore.open(path)
