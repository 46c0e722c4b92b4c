"""Features of an atlas in bulk, in the words that other libraries' feature pages use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from monoscope.artifact.checks import check_atlas
from monoscope.errors import ConfigError
from monoscope.features.front import EXPLANATIONS, LLM
from monoscope.features.side import read_rows

if TYPE_CHECKING:
    from monoscope.features.atlas import Atlas
    from monoscope.sae import SAE

_FEATURES = "SELECT * FROM features WHERE n_active > 0 ORDER BY latent"
_EXAMPLES = """
SELECT latent, kind, band, rank, value, doc, pos, start, "values" FROM examples
WHERE latent BETWEEN $low AND $high ORDER BY latent, kind = 'top' DESC, band DESC, rank"""
_CONTEXTS = "SELECT doc, text, ends FROM contexts"
_BANDS = 5


@dataclass(frozen=True)
class Activation:
    """One stretch of text. low, high: the band of activations it was sampled from; None for top."""

    tokens: list[str]
    values: list[float]
    peak: int
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Shown:
    """A latent that fired. label, method: the human's label or else the atlas's own.

    model: the language model that wrote the label, where one did.
    """

    row: dict[str, Any]
    label: str | None
    method: str | None
    model: str | None
    activations: list[Activation]

    @property
    def latent(self) -> int:
        return int(self.row["latent"])


def shown(atlas: Atlas, batch: int) -> Iterator[list[Shown]]:
    """Every latent that fired on the indexed tokens, `batch` at a time, in order."""
    contexts = {row["doc"]: (row["text"], [0, *row["ends"]]) for row in _ask(atlas, _CONTEXTS, {})}
    human, explained = atlas.annotations(), read_rows(atlas, EXPLANATIONS)
    rows = _ask(atlas, _FEATURES, {})
    for at in range(0, len(rows), batch):
        part = rows[at : at + batch]
        given = {"low": part[0]["latent"], "high": part[-1]["latent"]}
        found: dict[int, list[Activation]] = {row["latent"]: [] for row in part}
        for example in _ask(atlas, _EXAMPLES, given):
            peak = float(next(r["max"] for r in part if r["latent"] == example["latent"]))
            found[example["latent"]].append(_activation(example, contexts, peak))
        yield [
            _shown(
                row, human.get(row["latent"]), explained.get(row["latent"]), found[row["latent"]]
            )
            for row in part
        ]


def silent(atlas: Atlas, n_shown: int) -> list[str]:
    """What an export of features says of the latents that are not in it."""
    n = atlas.n_features - n_shown
    return [f"{n:,} latents that never fired on the indexed tokens: left out"] if n else []


def _shown(
    row: dict[str, Any], human: str | None, explained: dict[str, Any] | None,
    activations: list[Activation],
) -> Shown:  # fmt: skip
    if human is not None:
        return Shown(row, human, "human", None, activations)
    method = row["label_method"]
    model = explained["model"] if explained is not None and method == LLM else None
    return Shown(row, row["label"], method, model, activations)


def require_atlas(sae: SAE, atlas: Atlas | None, to: str) -> Atlas:
    """The atlas; ConfigError where there is none, MismatchError where it is another SAE's."""
    if atlas is None:
        raise ConfigError(f"{to} shows features", hint="Give the SAE's atlas with --atlas.")
    check_atlas(sae, atlas.manifest)
    return atlas


def place(sae: SAE, atlas: Atlas) -> tuple[str, int, str | None]:
    """(model's short name, layer, corpus's name) of an atlas."""
    manifest = atlas.manifest
    model = str((manifest.get("model") or {}).get("model") or "model")
    layer = str(manifest.get("site") or "").rpartition(".")[2]
    corpus = manifest.get("corpus") or {}
    return model.rpartition("/")[2], int(layer) if layer.isdigit() else 0, corpus.get("name")


def _activation(row: dict[str, Any], contexts: dict[int, Any], peak: float) -> Activation:
    text, ends = contexts[row["doc"]]
    cuts = ends[row["start"] : row["start"] + len(row["values"]) + 1]
    band = row["band"]
    return Activation(
        tokens=[text[a:b] for a, b in pairwise(cuts)],
        values=[round(float(v), 4) for v in row["values"]],
        peak=int(row["pos"] - row["start"]),
        low=None if band is None else peak * band / _BANDS,
        high=None if band is None else peak * (band + 1) / _BANDS,
    )


def _ask(atlas: Atlas, query: str, given: dict[str, Any]) -> list[dict[str, Any]]:
    cursor = atlas.database.cursor()
    cursor.execute(query, given) if given else cursor.execute(query)
    names = [column[0] for column in cursor.description or []]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def json_line(values: dict[str, Any]) -> str:
    """One line of JSON lines."""
    return json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n"
