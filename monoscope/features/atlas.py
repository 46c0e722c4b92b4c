"""Atlas: reads the indexed latents of an SAE from disk; needs neither the SAE nor torch."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from monoscope.errors import ConfigError, FormatError, LatentError, nearest
from monoscope.features import front, lineage, queries, schema, side
from monoscope.features.annotations import Annotations
from monoscope.features.explain import table as explained
from monoscope.features.feature import Example, Feature, Neighbour, Row

Rows = list[Row]  # named here, because within the class `list` is a method
Examples = list[Example]
Neighbours = list[Neighbour]
Features = list[Feature]
_TIERS = {3: "label", 2: "token", 1: "logit"}
_SHOWN_TOKENS = 5
_BESIDE = ("ngrams", "rules", "similarity", "outputs", "judgements")  # a latent's row each


def load_atlas(folder: str | os.PathLike[str]) -> Atlas:
    """Open an atlas.

    Raises FormatError if it is missing, damaged (naming the file) or from a newer version.
    """
    path = Path(folder)
    manifest = schema.read_manifest(path)
    for name in schema.SCHEMAS:
        schema.check_table(path, name, manifest["build"])
    return Atlas(path, manifest)


class Atlas:
    """The latents of one SAE with their figures, examples, neighbours and labels.

    folder: where it is; manifest: the content of atlas.json; notebook: what humans wrote. May be
    used from several threads.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self.notebook = Annotations(folder / schema.ANNOTATIONS, manifest["sae"]["hash"])

    def __repr__(self) -> str:
        return (
            f"Atlas({str(self.folder)!r}, {self.n_features:,} latents, {self.n_alive:,} alive "
            f"in {self.manifest['n_tokens']:,} tokens)"
        )

    @property
    def n_features(self) -> int:
        """L, the number of latents, alive or not."""
        return int(self.manifest["d_sae"])

    @property
    def n_alive(self) -> int:
        """Latents that fired at least once on the indexed tokens."""
        return int(self.manifest["n_alive"])

    def to_json(self) -> dict[str, Any]:
        """The summary that the command line prints after indexing."""
        return {
            "n_features": self.n_features,
            "n_alive": self.n_alive,
            "n_tokens": self.manifest["n_tokens"],
            "tokens_per_s": self.manifest["tokens_per_s"],
            "out": str(self.folder),
        }

    def feature(self, latent: int) -> Feature:
        """All that is known of one latent.

        Raises LatentError, naming the range, for a latent that the SAE lacks.
        """
        return self.features([latent])[0]

    def features(self, latents: Sequence[int]) -> Features:
        """All that is known of each of these latents, in their order, in one reading of the files.

        Raises LatentError, naming the range, for a latent that the SAE lacks.
        """
        latents = [self.require(latent) for latent in latents]
        ids = ", ".join(map(str, sorted(set(latents)))) or "NULL"
        human = self._human()
        rows = {row["latent"]: row for row in self._ask(queries.FEATURES.format(ids=ids), human)}
        beside = {name: side.read_rows(self, name, latents) for name in _BESIDE}
        examples = self._examples(ids)
        near: dict[int, list[Neighbour]] = {}
        for pair in self._ask(queries.NEIGHBOURS.format(ids=ids), human):
            near.setdefault(pair.pop("latent"), []).append(Neighbour(**pair))
        return [
            self._feature(
                rows[i], {name: beside[name].get(i) for name in _BESIDE},
                examples.get(i, []), near.get(i, []),
            )
            for i in latents
        ]  # fmt: skip

    def _feature(
        self, row: dict[str, Any], beside: dict[str, Any], examples: Examples, near: Neighbours
    ) -> Feature:
        latent = row["latent"]
        told = explained.explanation(self.folder, self.manifest["build"], latent)
        gram, rule = beside["ngrams"], beside["rules"]
        before = {front.LLM: told, front.NGRAM: gram}.get(row["rule_method"])
        figures = {key: row[key] for key in _PLAIN}
        if before is not None:
            figures["rule_label"] = before["rule_label"] if rule is None else rule["label"]
        return Feature(
            latent=latent,
            label_rule=None if row["label_rule"] is None else json.loads(row["label_rule"]),
            examples=examples,
            explanation=told,
            ngram=gram,
            similarity=beside["similarity"],
            output=beside["outputs"],
            judgement=beside["judgements"],
            part_of=lineage.relation(self, lineage.PARENTS, latent),
            splits_into=lineage.relation(self, lineage.CHILDREN, latent),
            neighbours=near,
            **figures,
        )

    def search(self, query: str, limit: int = 50) -> Rows:
        """Latents whose label, firing tokens or top logits hold every word of `query`, best first.

        Case is ignored. A query in double quotes finds one token exactly: '" Paris"'.
        """
        exact = len(query) > 2 and query.startswith('"') and query.endswith('"')
        words = [query[1:-1]] if exact else sorted(set(query.lower().split()))
        if not words:
            return []
        given = {"words": words, "exact": exact, "limit": limit, **self._human()}
        return self._rows(self._ask(queries.SEARCH, given))

    def list(
        self,
        sort: str = "interest",
        descending: bool = True,
        limit: int = 50,
        offset: int = 0,
        alive_only: bool = True,
    ) -> Rows:
        """Latents in order of "density", "max", "label_score", "latent" or "interest".

        Interest is a guess at what a reader would like to see, from the label's score, how often
        the latent fires and on how many different tokens; `queries.py` has the formula.

        Raises ConfigError for another order.
        """
        if sort not in queries.SORTS:
            close = nearest(sort, queries.SORTS)
            raise ConfigError(
                "features cannot be sorted like that",
                got=repr(sort),
                expected=f"one of {', '.join(queries.SORTS)}",
                hint=f"Did you mean {close}?" if close else None,
            )
        given = {"limit": limit, "offset": offset, "alive_only": alive_only, **self._human()}
        return self._rows(self._ask(queries.list_query(sort, descending), given))

    def labels(self, latents: Sequence[int] | None = None) -> dict[int, str | None]:
        """The label of every latent, or of these, a human's before a rule's; None for no label."""
        query, given = queries.LABELS, self._human()
        if latents is not None:
            query, given = queries.LABELS_OF, given | {"latents": [*latents]}
        return {row["latent"]: row["label"] for row in self._ask(query, given)}

    def dense(self, share: float = 0.1) -> set[int]:
        """The latents active on more than `share` of the tokens indexed: most texts fire them."""
        return {row["latent"] for row in self._ask(queries.DENSE, {"share": share})}

    def meta_mass(self) -> dict[int, dict[str, float]]:
        """For every latent, the share of its activation that falls on each metadata value."""
        rows = self._ask(queries.META_MASS, {})
        return {row["latent"]: dict(row["meta_mass"] or {}) for row in rows}

    def set_labels(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Rewrite the label columns of the given latents, in one step; others keep theirs.

        rows: {"latent": i, "label": …, "label_rule": JSON text, "label_method": …, "label_f1": …,
        "label_auc": …, "label_base": …}; a column that is left out becomes null.

        Raises LatentError for a latent that the SAE lacks, ConfigError for another column.
        """
        path = self.folder / schema.table_file("features")
        table = pq.read_table(path, schema=schema.SCHEMAS["features"])
        columns = {name: table[name].to_pylist() for name in schema.LABEL_COLUMNS}
        for row in rows:
            latent = self.require(row["latent"])
            unknown = sorted(set(row) - {"latent", *columns})
            if unknown:
                raise ConfigError(
                    "unknown label column", got=unknown[0], expected=f"one of {', '.join(columns)}"
                )
            for name, values in columns.items():
                values[latent] = row.get(name)
        for name, kind in schema.LABEL_COLUMNS.items():
            place = table.schema.get_field_index(name)
            table = table.set_column(place, name, pa.array(columns[name], kind))
        schema.write_table(table, "features", path, self.manifest)

    def annotate(self, latent: int, text: str) -> None:
        """Set a human's label, which goes before any other; blank text removes it.

        Raises LatentError for a latent that the SAE lacks.
        """
        self.notebook.write(self.require(latent), text)

    def annotations(self) -> dict[int, str]:
        """Every human's label, by latent."""
        return self.notebook.read()

    def require(self, latent: Any) -> int:
        """The latent as a plain int; LatentError unless it is one that the SAE has."""
        try:
            number = -1 if isinstance(latent, bool) else operator.index(latent)
        except TypeError:
            number = -1
        if not 0 <= number < self.n_features:
            raise LatentError(
                "the atlas has no such latent",
                got=latent,
                expected=f"0 to {self.n_features - 1}",
                hint=f"`monoscope features {self.folder}` lists those there are.",
            )
        return number

    def _human(self) -> dict[str, Any]:
        labels = self.annotations()
        return {"human_latents": [*labels], "human_texts": [*labels.values()]}

    def _examples(self, ids: str) -> dict[int, Examples]:
        rows = self._ask(queries.EXAMPLES.format(ids=ids), {})
        docs = sorted({row["doc"] for row in rows})
        contexts = {row["doc"]: row for row in self._ask(queries.CONTEXTS, {"docs": docs})}
        found: dict[int, Examples] = {}
        for row in rows:
            found.setdefault(row.pop("latent"), []).append(_example(row, contexts[row["doc"]]))
        return found

    def _rows(self, found: Sequence[dict[str, Any]]) -> Rows:
        tokens: dict[int, Any] = {row["latent"]: [] for row in found}
        for row in self._ask(queries.TOKENS, {"latents": [*tokens]}):
            tokens[row["latent"]].append(row["token"])
        return [
            Row(
                **{key: row[key] for key in _LISTED},
                max=row["peak"],
                tokens=tokens[row["latent"]][:_SHOWN_TOKENS],
                match=_TIERS.get(row["tier"]),
                matched=row["matched"],
            )
            for row in found
        ]

    @cached_property
    def database(self) -> duckdb.DuckDBPyConnection:
        """An in-memory database whose views read the Parquet files, and nothing else, in place.

        The views are named as the tables; whoever asks takes a cursor of their own.
        """
        database = duckdb.connect()
        for name in schema.SCHEMAS:
            path = str((self.folder / schema.table_file(name)).absolute())
            literal = "".join(f"[{c}]" if c in "*?[" else c for c in path).replace("'", "''")
            database.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{literal}')")
        return database

    def _ask(self, query: str, given: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
        try:
            cursor = self.database.cursor()
            cursor.execute(query, dict(given))
            names = [column[0] for column in cursor.description or []]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        except duckdb.Error as exc:
            if not is_damage(exc):
                raise
            for name in schema.SCHEMAS:
                schema.check_table(self.folder, name, self.manifest["build"])
            raise FormatError(f"a table of {self.folder} is damaged", got=exc) from exc


_LISTED = (
    "latent", "label", "label_method", "label_f1", "label_auc", "n_active", "density", "hist",
    "interest",
)  # fmt: skip
_PLAIN = (
    "n_active", "density", "mean", "std", "max", "hist", "meta_mass",
    "top_tokens", "top_logits", "bottom_tokens", "bottom_logits",
    "label", "label_method", "label_f1", "label_auc", "label_base", "rule_label", "reads",
)  # fmt: skip


def is_damage(exc: duckdb.Error) -> bool:
    """Whether an error of the database speaks of the files and not of the question put to it.

    Damage inside a file reaches us as an IOException, an InvalidInputException or, from the Parquet
    reader, as a bare Error.
    """
    return type(exc) in (duckdb.Error, duckdb.IOException, duckdb.InvalidInputException)


def _example(row: Mapping[str, Any], context: Mapping[str, Any]) -> Example:
    """An example with the text of its tokens cut from its document."""
    start, n = row["start"], len(row["values"])
    ends = [context["ends"][start - 1] if start else 0, *context["ends"][start : start + n]]
    pieces = [context["text"][a:b] for a, b in pairwise(ends)]
    return Example(
        **row,
        pieces=pieces,
        peak=row["pos"] - start,
        split=context["split"],
        meta=json.loads(context["meta"]),
    )
