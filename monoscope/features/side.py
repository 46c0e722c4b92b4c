"""Tables that stand beside an atlas's own: read, merged row by row, never another index's.

Each holds what one method found about some of the latents, so that a run may be broken off and
taken up again, and an atlas without them is whole.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from monoscope.errors import FormatError
from monoscope.features import schema
from monoscope.files import write_atomic
from monoscope.locks import folder_lock

if TYPE_CHECKING:
    from monoscope.features.atlas import Atlas

Row = dict[str, Any]
_P = ParamSpec("_P")
_R = TypeVar("_R")


def one_writer(
    doing: str,
) -> Callable[[Callable[Concatenate[Atlas, _P], _R]], Callable[Concatenate[Atlas, _P], _R]]:
    """Let a function of an atlas be the only one that writes its tables until it returns.

    Tables are read, merged and rewritten, so that of two writers one would lose its rows. Readers,
    and what a person writes (annotations.py), wait for nobody.  doing: told to who comes second.
    The function raises OutputError, naming the holder, while another writes to the atlas.
    """

    def wrap(do: Callable[Concatenate[Atlas, _P], _R]) -> Callable[Concatenate[Atlas, _P], _R]:
        @functools.wraps(do)
        def alone(atlas: Atlas, *args: _P.args, **further: _P.kwargs) -> _R:
            with folder_lock(atlas.folder, doing):
                return do(atlas, *args, **further)

        return alone

    return wrap


def read_table(
    atlas: Atlas, name: str, latent: int | Sequence[int] | None = None
) -> pa.Table | None:
    """A side table, or the rows of one latent or of some; None where there is none of this index.

    Raises FormatError if it is damaged.
    """
    path = atlas.folder / schema.table_file(name)
    if not path.is_file():
        return None
    try:
        metadata: Mapping[bytes, bytes] = pq.read_schema(path).metadata or {}
        if metadata.get(schema.BUILD, b"").decode() != atlas.manifest["build"]:
            return None
        some = [latent] if isinstance(latent, int) else latent
        only = None if some is None else [("latent", "in", list(some))]
        return pq.read_table(path, filters=only, schema=schema.OPTIONAL[name])
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise FormatError(
            f"{path} is damaged",
            got=exc,
            hint="Delete it, then run the command that made it again.",
        ) from exc


def read_rows(atlas: Atlas, name: str, latents: Sequence[int] | None = None) -> dict[int, Row]:
    """The rows of a side table by latent, of all or of these; empty where there is none.

    Raises FormatError if it is damaged.
    """
    table = read_table(atlas, name, latents)
    return {} if table is None else {row["latent"]: row for row in table.to_pylist()}


def read_row(atlas: Atlas, name: str, latent: int) -> Row | None:
    """One latent's row of a side table, None where it has none.

    Raises FormatError if the table is damaged.
    """
    table = read_table(atlas, name, latent)
    return None if table is None or not len(table) else table.to_pylist()[0]


def merge_rows(atlas: Atlas, name: str, rows: Iterable[Row]) -> None:
    """Put rows into a side table in one step, in place of those of the same latents.

    Raises OutputError if the disk is full or the folder cannot be written.
    """
    held = read_rows(atlas, name)
    held |= {row["latent"]: row for row in rows}
    table = pa.Table.from_pylist([held[i] for i in sorted(held)], schema=schema.OPTIONAL[name])
    schema.write_table(table, name, atlas.folder / schema.table_file(name), atlas.manifest)


def write_summary(atlas: Atlas, name: str, summary: Mapping[str, Any]) -> None:
    """Keep the summary of a run, marked with the index it speaks of."""
    told = {**summary, "build": atlas.manifest["build"]}
    write_atomic(Path(atlas.folder) / schema.SUMMARIES[name], json.dumps(told, indent=1) + "\n")


def fingerprint(*parts: object) -> str:
    """What tells one run's settings from another's: a short hash of JSON-able values."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
