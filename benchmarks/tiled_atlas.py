"""An atlas as large as is asked for, made of copies of a real one, for benchmarks of the viewer.

    python benchmarks/tiled_atlas.py runs/demo/atlas /tmp/large --latents 1000000

Latent i is a copy of latent i modulo the real atlas's number, with its figures, its label and all
its examples; contexts are the real ones, places on the map are random. So a word finds the share of
latents that it finds in the atlas copied, and files are as large as indexing would leave them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from monoscope.features import schema

_ROWS = {"features": 4096, "examples": 16_384, "neighbours": 65_536, "map": 65_536}


def main() -> None:
    """Write the atlas."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("atlas", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--latents", type=int, default=1_000_000)
    asked = parser.parse_args()
    write(asked.atlas, asked.out, asked.latents)


def write(atlas: Path, out: Path, n: int) -> None:
    """Write an atlas of n latents to a new folder, group of rows by group of rows."""
    manifest = schema.read_manifest(atlas)
    own = int(manifest["d_sae"])
    out.mkdir(parents=True)
    for name in ("features", "examples", "neighbours"):
        table = pq.read_table(atlas / schema.table_file(name), schema=schema.SCHEMAS[name])
        _save(out, name, schema.SCHEMAS[name], manifest, _copies(table, own, n))
    contexts = pq.read_table(atlas / schema.table_file("contexts"))
    schema.write_table(contexts, "contexts", out / schema.table_file("contexts"), manifest)
    drawn = np.random.default_rng(0).random((2, n), dtype=np.float32)
    places = pa.table([np.arange(n), *drawn], schema=schema.OPTIONAL["map"])
    _save(out, "map", schema.OPTIONAL["map"], manifest, iter([places]))
    told = manifest | {"d_sae": n, "n_alive": int(manifest["n_alive"] / own * n)}
    (out / schema.MANIFEST).write_text(json.dumps(told), encoding="utf-8")


def _copies(table: pa.Table, own: int, n: int) -> Iterator[pa.Table]:
    """The table again and again, its latents counted on, the last copy cut at latent n."""
    for first in range(0, n, own):
        copy = table
        for column in ("latent", "other"):
            if column in table.column_names:
                at = table.schema.get_field_index(column)
                counted = pc.add(table[column], pa.scalar(first, pa.int64()))
                copy = copy.set_column(at, column, counted)
        whole = first + own <= n
        copy = copy if whole else copy.filter(pc.less(copy["latent"], n))
        if "other" in table.column_names and not whole:
            copy = copy.filter(pc.less(copy["other"], n))
        yield copy


def _save(
    out: Path, name: str, columns: pa.Schema, manifest: dict, tables: Iterator[pa.Table]
) -> None:
    marked = columns.with_metadata({schema.BUILD: manifest["build"].encode()})
    path = out / schema.table_file(name)
    with pq.ParquetWriter(path, marked, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table.cast(marked), row_group_size=_ROWS[name])


if __name__ == "__main__":
    main()
