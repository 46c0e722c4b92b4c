"""One shard on disk: a safetensors file of activations and a Parquet file of their documents."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from torch import Tensor

from monoscope.data.folder import Folder, digest
from monoscope.data.manifest import ShardInfo, Split
from monoscope.data.masking import token_norms
from monoscope.errors import DataError, FormatError

DOC_COLUMNS = pa.schema(
    [
        ("doc", pa.int64()),
        ("split", pa.string()),
        ("text", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("ends", pa.list_(pa.int32())),
        ("meta", pa.string()),
    ]
)


@dataclass(frozen=True)
class Shard:
    """Rows of activations: acts [n,D], token_ids [n] int64, doc [n] int64, pos [n] int32.

    Row i is token `pos[i]` of document `doc[i]`; sorted by doc, then pos.
    """

    acts: Tensor
    token_ids: Tensor
    doc: Tensor
    pos: Tensor

    def __len__(self) -> int:
        return self.acts.shape[0]

    def __getitem__(self, rows: slice) -> Shard:
        return Shard(self.acts[rows], self.token_ids[rows], self.doc[rows], self.pos[rows])

    def tensors(self) -> dict[str, Tensor]:
        """The four tensors by the names they have on disk."""
        return {"acts": self.acts, "token_ids": self.token_ids, "doc": self.doc, "pos": self.pos}


@dataclass(frozen=True)
class StoredDoc:
    """A document of the store: all its tokens, kept or masked, and where each ends in the text.

    doc: its place in the corpus, from 0; ends[i]: end of token i in `text`, in characters.
    """

    doc: int
    split: Split
    text: str
    token_ids: list[int]
    ends: list[int]
    meta: dict[str, str]


def write_shard(
    folder: Folder, number: int, split: Split, rows: Shard, docs: Sequence[StoredDoc]
) -> ShardInfo:
    """Write both files of shard `number` and describe them for the manifest.

    Raises OutputError if the disk is full or the folder cannot be written.
    """
    file, docs_file = f"shard-{number:05d}.safetensors", f"docs-{number:05d}.parquet"
    with folder.writing(docs_file) as part:
        pq.write_table(_docs_table(docs), part, compression="zstd")
        docs_bytes, docs_sha256 = part.stat().st_size, digest(part)
    with folder.writing(file) as part:
        safetensors.torch.save_file(rows.tensors(), part)
        n_bytes, sha256 = part.stat().st_size, digest(part)
    return ShardInfo(
        file=file,
        docs_file=docs_file,
        split=split,
        n_tokens=len(rows),
        n_docs=len(docs),
        bytes=n_bytes,
        sha256=sha256,
        docs_bytes=docs_bytes,
        docs_sha256=docs_sha256,
    )


def _docs_table(docs: Sequence[StoredDoc]) -> pa.Table:
    columns = {
        "doc": [d.doc for d in docs],
        "split": [d.split for d in docs],
        "text": [d.text for d in docs],
        "token_ids": [d.token_ids for d in docs],
        "ends": [d.ends for d in docs],
        "meta": [json.dumps(d.meta, sort_keys=True, ensure_ascii=False) for d in docs],
    }
    return pa.table(columns, schema=DOC_COLUMNS)


def load_rows(source: Path | bytes, info: ShardInfo, d_in: int, dtype: torch.dtype) -> Shard:
    """The rows of a shard file; raises FormatError if it does not hold what the manifest says."""
    try:
        if isinstance(source, bytes):
            tensors = safetensors.torch.load(source)
        else:
            tensors = safetensors.torch.load_file(source)
    except safetensors.SafetensorError as exc:
        raise FormatError(f"{info.file} is damaged", got=exc) from exc
    n = info.n_tokens
    expected = {
        "acts": ((n, d_in), dtype),
        "token_ids": ((n,), torch.int64),
        "doc": ((n,), torch.int64),
        "pos": ((n,), torch.int32),
    }
    for name, (shape, kind) in expected.items():
        tensor = tensors.get(name)
        got = None if tensor is None else (tuple(tensor.shape), tensor.dtype)
        if got != (shape, kind):
            raise FormatError(
                f"{info.file} does not hold the {name} of its manifest",
                got="nothing" if got is None else f"{list(got[0])} {got[1]}",
                expected=f"{list(shape)} {kind}",
            )
    return Shard(**{name: tensors[name] for name in expected})


def check_finite(rows: Shard, file: str) -> None:
    """Raise DataError naming the first row of `file` that holds NaN or Inf."""
    row = first_not_finite(rows.acts, token_norms(rows.acts))
    if row is not None:
        raise DataError(
            f"{file} holds NaN or Inf at row {row}",
            got=f"document {int(rows.doc[row])}, token {int(rows.pos[row])}",
            expected="finite activations",
            hint="Harvest the store again.",
        )


def first_not_finite(acts: Tensor, norms: Tensor) -> int | None:
    """The first row of acts [n,D], whose norms are [n], that holds NaN or Inf; else None.

    The norms find the suspects; a norm may overflow though its row is finite.
    """
    suspects = (~norms.isfinite()).nonzero().flatten().tolist()
    return next((row for row in suspects if not acts[row].isfinite().all()), None)


def load_docs(source: Path | bytes, file: str) -> pa.Table:
    """The table of a documents file; raises FormatError if it is not one."""
    try:
        table = pq.read_table(pa.BufferReader(source) if isinstance(source, bytes) else source)
    except pa.ArrowException as exc:
        raise FormatError(f"{file} is damaged", got=exc) from exc
    if not table.schema.equals(DOC_COLUMNS):
        raise FormatError(
            f"{file} is not a documents file", got=table.schema.names, expected=DOC_COLUMNS.names
        )
    return table


def documents_of(table: pa.Table) -> Iterator[StoredDoc]:
    """The documents of a table, in its order."""
    for batch in table.to_batches(max_chunksize=256):
        for row in batch.to_pylist():
            yield StoredDoc(**(row | {"meta": json.loads(row["meta"])}))
