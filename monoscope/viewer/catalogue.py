"""Catalogue: the atlas's latents as tables in memory, made once, so that searches are quick.

Tables stand beside the views of the Parquet files, in the same embedded database: `rows`, a line a
latent; then, for the questions that name them, `terms`, which words of `vocabulary` each latent
fires on (tier 2) or raises (tier 1) or lowers (tier 0), and `metas`, the metadata values that hold
a tenth of a latent's activation or more.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from monoscope.errors import FormatError, MonoscopeError
from monoscope.features import queries
from monoscope.features.atlas import Atlas, is_damage
from monoscope.features.map import read_map
from monoscope.features.side import read_table
from monoscope.viewer.grammar import LEAST_SHARE

_PATIENCE = 5.0  # seconds that closing waits for a query to break off
_log = logging.getLogger(__name__)

_ROWS = f"""
CREATE OR REPLACE TABLE rows AS {queries.ROWS}
SELECT listed.latent, listed.label, listed.label_method, listed.label_f1, listed.label_auc,
    listed.n_active, listed.density, listed.peak::DOUBLE AS peak, features.mean, listed.interest,
    known.rule_label, features.label_method AS rule_method, features.label_f1 AS rule_f1,
    features.label_auc AS rule_auc, features.label_base AS rule_base,
    features.label_auc AS reads, NULL::DOUBLE AS writes
FROM listed JOIN known USING (latent) JOIN features USING (latent) ORDER BY listed.latent"""

_WORD_TABLES = ("terms", "vocabulary", "metas")
_WORDS = (
    """CREATE OR REPLACE TABLE told AS
    SELECT latent, 2::TINYINT AS tier, token AS text, count(*)::INT AS n
    FROM examples GROUP BY latent, token
    UNION ALL SELECT latent, 1, unnest(top_tokens), 1 FROM features
    UNION ALL SELECT latent, 0, unnest(bottom_tokens), 1 FROM features""",
    """CREATE OR REPLACE TABLE vocabulary AS
    SELECT row_number() OVER ()::INT AS word, text, lower(text) AS small,
        ' ' || regexp_replace(lower(text), '[^\\pL\\pN]', ' ', 'g') AS spaced
    FROM (SELECT DISTINCT text FROM told WHERE text IS NOT NULL)""",
    """CREATE OR REPLACE TABLE terms AS
    SELECT word, latent, tier, n FROM told JOIN vocabulary USING (text)""",
    "DROP TABLE told",
    f"""CREATE OR REPLACE TABLE metas AS
    SELECT latent, entry.key AS name, entry.value AS share
    FROM (SELECT latent, unnest(map_entries(meta_mass)) AS entry FROM features)
    WHERE entry.value >= {LEAST_SHARE} ORDER BY name""",
)

_QUALITY = """CASE WHEN $text IS NOT NULL THEN 1.0 
    WHEN rule_method = 'llm' THEN greatest(2 * coalesce(rule_auc, 0.5) - 1, 0.0)
    WHEN rule_f1 IS NULL THEN 0.05
    ELSE greatest(rule_f1 - coalesce(rule_base, 0.0), 0.0) END"""
_EDITED = """
UPDATE rows SET label = coalesce($text, rule_label),
    label_method = CASE WHEN $text IS NULL THEN rule_method ELSE 'human' END,
    label_f1 = CASE WHEN $text IS NULL THEN rule_f1 END,
    label_auc = CASE WHEN $text IS NULL THEN rule_auc END
WHERE latent = $latent"""


class Catalogue:
    """The tables, made when a question first names them; safe to use from several threads."""

    def __init__(self, atlas: Atlas) -> None:
        self.atlas = atlas
        self._rows_lock, self._words_lock = threading.Lock(), threading.Lock()
        self._rows_made = self._words_made = self._closing = False
        self._thread: threading.Thread | None = None
        self._maker = atlas.database.cursor()

    def prepare(self) -> None:
        """Make the tables now, on a thread of their own, so that the first question finds them."""
        self._thread = threading.Thread(target=self._try, name="monoscope-catalogue", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Break off making the tables, if that is still going on."""
        if self._thread is not None and self._thread.is_alive():
            self._closing = True
            self._maker.interrupt()
            self._thread.join(_PATIENCE)

    def ask(self, query: str, given: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Rows of a query over the tables, as dicts."""
        cursor = self._run(query, given)
        names = [column[0] for column in cursor.description or []]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def columns(self, query: str, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A query's columns as NumPy arrays."""
        return dict(self._run(query, given).fetchnumpy())

    def relabel(self, latent: int, text: str | None) -> None:
        """Take over a label that a human has just set or, with None, removed."""
        self._run(_EDITED, {"latent": latent, "text": text})

    def remap(self) -> None:
        """Take over a map that has just been made."""
        with self._rows_lock:
            if self._rows_made:  # a cursor of its own: the maker's may be at the words
                self._place(self.atlas.database.cursor())

    def _run(self, query: str, given: Mapping[str, Any] | None) -> duckdb.DuckDBPyConnection:
        try:
            self._make(words=any(table in query for table in _WORD_TABLES))
            cursor = self.atlas.database.cursor()
            return cursor.execute(query, dict(given or {}))
        except duckdb.Error as exc:
            if not is_damage(exc):
                raise
            raise FormatError(f"a table of {self.atlas.folder} is damaged", got=exc) from exc

    def _make(self, words: bool) -> None:
        """Make what is missing: the rows, then the words where they are asked for.

        A list needs no words, which take most of the time, and does not wait for them.
        """
        if not self._rows_made:
            with self._rows_lock:
                if not self._rows_made:  # another thread may have been quicker
                    self._make_rows(self._maker)
                    self._rows_made = True
        if words and not self._words_made:
            with self._words_lock:
                if not self._words_made:
                    self._make_words(self._maker)
                    self._words_made = True

    def _make_words(self, cursor: duckdb.DuckDBPyConnection) -> None:
        for statement in _WORDS:
            cursor.execute(statement)

    def _make_rows(self, cursor: duckdb.DuckDBPyConnection) -> None:
        labels = self.atlas.annotations()
        human = {"human_latents": [*labels], "human_texts": [*labels.values()]}
        cursor.execute(_ROWS, human)
        self._place(cursor)
        self._score(cursor)

    def _score(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Output scores beside the rows; null where a latent has none."""
        table = read_table(self.atlas, "outputs")
        if table is not None:
            cursor.register("scored", table.select(["latent", "writes"]))
            cursor.execute(
                "UPDATE rows SET writes = scored.writes FROM scored "
                "WHERE rows.latent = scored.latent"
            )
            cursor.unregister("scored")

    def _try(self) -> None:
        """A failure is left for the first question, which meets it again and can answer with it."""
        try:
            self._make(words=True)
        except (MonoscopeError, duckdb.Error):
            if not self._closing:
                _log.debug("the catalogue could not be made ahead of the first question")

    def _place(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """The map's coordinates beside the rows; null where the atlas has no map."""
        table = read_map(self.atlas)
        cursor.execute("ALTER TABLE rows ADD COLUMN IF NOT EXISTS x FLOAT")
        cursor.execute("ALTER TABLE rows ADD COLUMN IF NOT EXISTS y FLOAT")
        if table is not None:
            cursor.register("placed", table)
            cursor.execute(
                "UPDATE rows SET x = placed.x, y = placed.y FROM placed "
                "WHERE rows.latent = placed.latent"
            )
            cursor.unregister("placed")


def integers(values: Sequence[int]) -> str:
    """Whole numbers as an SQL list, which DuckDB prunes by better than by a joined table."""
    return ", ".join(str(int(value)) for value in values) or "NULL"
