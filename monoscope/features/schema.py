"""What an atlas looks like on disk: its files, the columns of its tables, how they are written."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from monoscope.errors import FormatError, require_version
from monoscope.files import atomic_path, found_below

MANIFEST = "atlas.json"
FORMAT = "monoscope.atlas"
SCHEMA_VERSION = 1
ANNOTATIONS = "annotations.sqlite"
EXPLAINED = "explanations.json"  # the summary of the last run that asked a language model
SUMMARIES = {  # of the last run of each further method, by table
    name: f"{name}.json" for name in ("ngrams", "similarity", "outputs", "judgements")
}
BUILD = b"monoscope.build"  # key in each table's metadata: which index run wrote it

_STRINGS, _FLOATS = pa.list_(pa.string()), pa.list_(pa.float32())

LABEL_COLUMNS = {
    "label": pa.string(),
    "label_rule": pa.string(),
    "label_method": pa.string(),
    "label_f1": pa.float64(),
    "label_auc": pa.float64(),
    "label_base": pa.float64(),
}

SCHEMAS = {
    "features": pa.schema(
        {
            "latent": pa.int64(),
            "n_active": pa.int64(),
            "density": pa.float64(),
            "mean": pa.float64(),
            "std": pa.float64(),
            "max": pa.float32(),
            "hist": pa.list_(pa.int64()),
            "meta_mass": pa.map_(pa.string(), pa.float64()),
            "top_tokens": _STRINGS,
            "top_logits": _FLOATS,
            "bottom_tokens": _STRINGS,
            "bottom_logits": _FLOATS,
            **LABEL_COLUMNS,
        }
    ),
    "examples": pa.schema(
        {
            "latent": pa.int64(),
            "kind": pa.string(),
            "band": pa.int8(),
            "rank": pa.int64(),
            "value": pa.float32(),
            "doc": pa.int64(),
            "pos": pa.int64(),
            "token": pa.string(),
            "start": pa.int64(),
            "values": _FLOATS,
        }
    ),
    "contexts": pa.schema(
        {
            "doc": pa.int64(),
            "split": pa.string(),
            "text": pa.string(),
            "token_ids": pa.list_(pa.int64()),
            "ends": pa.list_(pa.int64()),
            "meta": pa.string(),
        }
    ),
    "neighbours": pa.schema(
        {
            "latent": pa.int64(),
            "other": pa.int64(),
            "kind": pa.string(),
            "rank": pa.int64(),
            "cosine": pa.float32(),
            "jaccard": pa.float64(),
            "pmi": pa.float64(),
            "n_both": pa.int64(),
        }
    ),
}

# Ties to the latents of a smaller SAE (parents) or a larger one (children); see lineage.py.
_KIN = {
    "latent": pa.int64(),
    "other": pa.int64(),
    "cosine": pa.float64(),
    "n_other": pa.int64(),
    "n_both": pa.int64(),
    "parent_given_child": pa.float64(),
    "contingency": pa.float64(),
    "agrees": pa.bool_(),
    "by_firing": pa.int64(),
    "chance": pa.float64(),
    "atlas": pa.string(),
    "sae": pa.string(),
    "d_sae": pa.int64(),
    "n_tokens": pa.int64(),
}

# What a language model's judgement of a label came to.
_EXAM = {
    **{
        f"{test}_{figure}": pa.float64()
        for test in ("detection", "fuzzing", "contrast", "shuffled")
        for figure in ("auc", "accuracy", "sensitivity", "specificity")
    },
    **dict.fromkeys(("n_positive", "n_random", "n_hard", "n_marked", "n_failed"), pa.int64()),
    "evidence": pa.string(),
}

# Tables that an atlas may lack.
OPTIONAL = {
    "parents": pa.schema(_KIN),
    "children": pa.schema(_KIN),
    "map": pa.schema({"latent": pa.int64(), "x": pa.float32(), "y": pa.float32()}),
    "rules": pa.schema(
        {"latent": pa.int64()} | {k: v for k, v in LABEL_COLUMNS.items() if k != "label_method"}
    ),
    "explanations": pa.schema(
        {
            "latent": pa.int64(),
            "explanation": pa.string(),
            "model": pa.string(),
            "n_excerpts": pa.int64(),
            **_EXAM,
            "floor": pa.float64(),
            "rule_label": pa.string(),
            "rule_f1": pa.float64(),
            "rule_auc": pa.float64(),
        }
    ),
    "ngrams": pa.schema(
        {
            "latent": pa.int64(),
            "settings": pa.string(),
            "label": pa.string(),
            "shown": pa.bool_(),
            "r": pa.float64(),
            "auc": pa.float64(),
            "f1": pa.float64(),
            "sensitivity": pa.float64(),
            "specificity": pa.float64(),
            "control_r": pa.float64(),
            "control_auc": pa.float64(),
            "rule_r": pa.float64(),
            "train_r": pa.float64(),
            "train_rule_r": pa.float64(),
            "n_fired": pa.int64(),
            "n_tokens": pa.int64(),
            "n_contexts": pa.int64(),
            "n_long": pa.int64(),
            "patterns": pa.string(),
            "evidence": pa.string(),
            "rule_label": pa.string(),
            "rule_f1": pa.float64(),
            "rule_auc": pa.float64(),
        }
    ),
    "similarity": pa.schema(
        {
            "latent": pa.int64(),
            "settings": pa.string(),
            "auc": pa.float64(),
            "hard_auc": pa.float64(),
            "control_auc": pa.float64(),
            "n_examples": pa.int64(),
            "n_positive": pa.int64(),
            "n_silent": pa.int64(),
            "n_hard": pa.int64(),
            "evidence": pa.string(),
        }
    ),
    "outputs": pa.schema(
        {
            "latent": pa.int64(),
            "settings": pa.string(),
            "writes": pa.float64(),
            "lens": pa.float64(),
            "control": pa.float64(),
            **{
                f"{promise}_{figure}": pa.float64()
                for promise in ("writes", "lens", "control")
                for figure in ("steered", "default", "random")
            },
            "tokens": _STRINGS,
            "lens_tokens": _STRINGS,
            "basis": pa.string(),
        }
    ),
    "judgements": pa.schema(
        {
            "latent": pa.int64(),
            "label": pa.string(),
            "label_method": pa.string(),
            "model": pa.string(),
            **_EXAM,
        }
    ),
}

# Small groups let a reader fetch one latent, or a few documents, without reading the rest.
_GROUP_ROWS = {
    "features": 4096,
    "examples": 16_384,
    "contexts": 256,
    "neighbours": 65_536,
    "map": 65_536,
    "rules": 4096,
    "explanations": 1024,
    "ngrams": 1024,
    "similarity": 4096,
    "outputs": 4096,
    "judgements": 1024,
    "parents": 4096,
    "children": 4096,
}


def table_file(name: str) -> str:
    """The file of a table."""
    return f"{name}.parquet"


def write_table(table: pa.Table, name: str, path: Path, manifest: Mapping[str, Any]) -> None:
    """Write table `name` to `path` as part of the atlas that has this manifest.

    Raises OutputError if the disk is full or the place cannot be written.
    """
    with atomic_path(path) as part:
        _write(table, name, part, manifest)


def write_atlas(folder: Path, tables: Mapping[str, pa.Table], manifest: dict[str, Any]) -> None:
    """Write an atlas's files: all beside their places first, then moved there, atlas.json last.

    What was in the folder before stands until every new file is whole.
    Raises OutputError if the disk is full or the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:  # leaves in reverse, so the manifest is moved last
        part = stack.enter_context(atomic_path(folder / MANIFEST))
        part.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        for name, table in tables.items():
            _write(
                table, name, stack.enter_context(atomic_path(folder / table_file(name))), manifest
            )


def check_table(folder: Path, name: str, build: str) -> None:
    """Raise FormatError, naming the table, unless it is whole and belongs to the build."""
    path = folder / table_file(name)
    if not path.is_file():
        raise FormatError(f"the atlas lacks its table {path.name}", got=folder, hint=_AGAIN)
    try:
        found = pq.read_schema(path)
    except (pa.ArrowException, OSError) as exc:
        raise FormatError(f"{path} is damaged", got=exc, hint=_AGAIN) from exc
    if not found.remove_metadata().equals(SCHEMAS[name]):
        missing = [field.name for field in SCHEMAS[name] if field not in list(found)]
        raise FormatError(f"{path} has other columns than it should", got=missing, hint=_AGAIN)
    if (found.metadata or {}).get(BUILD, b"").decode() != build:
        raise FormatError(
            f"{path} is from another run than {MANIFEST}: indexing was interrupted", hint=_AGAIN
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of atlas.json.

    Raises FormatError if it is missing, damaged, foreign or from a newer version.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise FormatError(
            f"{folder} is not an atlas",
            got=f"no {MANIFEST} there",
            hint=found_below(folder, MANIFEST) or "Make one with `monoscope index`.",
        ) from exc
    except (ValueError, OSError) as exc:
        raise FormatError(f"{path} is damaged", got=exc, expected="JSON", hint=_AGAIN) from exc
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise FormatError(f"{path} is not an atlas's", expected=f'"format": "{FORMAT}"')
    require_version(path, manifest.get("schema_version"), SCHEMA_VERSION)
    _require_keys(manifest, path)
    return manifest


def _write(table: pa.Table, name: str, path: Path, manifest: Mapping[str, Any]) -> None:
    marked = table.replace_schema_metadata({BUILD: manifest["build"].encode()})
    pq.write_table(marked, path, compression="zstd", row_group_size=_GROUP_ROWS[name])


def _require_keys(manifest: Mapping[str, Any], path: Path) -> None:
    needed = ("build", "d_sae", "n_alive", "n_tokens", "sae")
    missing = [key for key in needed if key not in manifest]
    sae = manifest.get("sae")
    if not isinstance(sae, dict) or not isinstance(sae.get("config"), dict) or "hash" not in sae:
        missing.append("whole sae")
    if missing:
        raise FormatError(f"{path} is damaged", got=f"no {', '.join(missing)}", hint=_AGAIN)


_AGAIN = "Run `monoscope index` again with the same --out; annotations are kept."
