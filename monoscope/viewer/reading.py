"""Reads lists, features and documents out of the atlas in the shape that the API answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from monoscope.errors import LatentError
from monoscope.features.atlas import Atlas
from monoscope.features.feature import Feature
from monoscope.features.lineage import Relation, other_folder
from monoscope.features.methods import judged
from monoscope.viewer import schemas as s
from monoscope.viewer.catalogue import Catalogue, integers

_BEFORE, _AFTER = 14, 12  # tokens of a list's context around its peak
_SHOWN_TOKENS = 5
_MOST_META = 12

_ROWS = "SELECT * FROM rows WHERE latent IN ({ids})"
_HISTS = "SELECT latent, hist, density, max FROM features WHERE latent IN ({ids})"
_TOKENS = """
SELECT latent, token FROM examples WHERE kind = 'top' AND latent IN ({ids})
GROUP BY latent, token ORDER BY latent, count(*) DESC, min(rank)"""
_FIRST = """
SELECT latent, doc, pos, start, "values" FROM examples
WHERE kind = 'top' AND rank = 0 AND latent IN ({ids})"""
_DOCUMENTS = "SELECT doc, split, text, ends, meta FROM contexts WHERE doc IN ({ids})"
_RECORDED = 'SELECT start, "values" FROM examples WHERE latent = $latent AND doc = $doc'


def rows(catalogue: Catalogue, latents: Sequence[int]) -> list[s.FeatureRow]:
    """The latents as lines of a list, in the order given; those the SAE lacks are left out."""
    ids = integers(latents)
    found = {row["latent"]: row for row in catalogue.ask(_ROWS.format(ids=ids))}
    hists = {row["latent"]: row["hist"] for row in catalogue.ask(_HISTS.format(ids=ids))}
    tokens: dict[int, list[str]] = {}
    for row in catalogue.ask(_TOKENS.format(ids=ids)):
        tokens.setdefault(row["latent"], []).append(row["token"])
    contexts = _contexts(catalogue, ids)
    return [
        s.FeatureRow(
            **{name: found[i][name] for name in _LISTED},
            max=found[i]["peak"],
            hist=bins(hists[i]),
            tokens=tokens.get(i, [])[:_SHOWN_TOKENS],
            context=contexts.get(i),
        )
        for i in latents
        if i in found
    ]


def detail(catalogue: Catalogue, atlas: Atlas, latent: int, root: Path) -> s.FeatureDetail:
    """Everything about one latent. root: below which other atlases are known by name.

    Raises LatentError for a latent that the SAE lacks.
    """
    return details(catalogue, atlas, [latent], root)[0]


def details(
    catalogue: Catalogue, atlas: Atlas, latents: Sequence[int], root: Path
) -> list[s.FeatureDetail]:
    """As `detail`, of several latents with one question to each table."""
    features = atlas.features(latents)
    docs = {example.doc for feature in features for example in feature.examples}
    lengths = _lengths(catalogue, docs)
    others = integers(sorted({pair.other for feature in features for pair in feature.neighbours}))
    near = {row["latent"]: row for row in catalogue.ask(_HISTS.format(ids=others))}
    return [_detail(atlas, feature, lengths, near, root) for feature in features]


def _detail(
    atlas: Atlas, feature: Feature, lengths: Mapping[int, int], near: Mapping[int, Any], root: Path
) -> s.FeatureDetail:
    latent = feature.latent
    lens = atlas.manifest.get("lens") or {}
    return s.FeatureDetail(
        latent=latent,
        label=label(atlas, feature),
        note=atlas.notebook.note(latent),
        lists=[name for name, members in atlas.notebook.lists().items() if latent in members],
        n_tokens=atlas.manifest["n_tokens"],
        hist=bins(feature.hist),
        examples=[
            s.ExampleOut(**{n: getattr(e, n) for n in _EXAMPLE}, n_tokens=lengths[e.doc])
            for e in feature.examples
        ],
        raises=_logits(feature.top_tokens, feature.top_logits),
        lowers=_logits(feature.bottom_tokens, feature.bottom_logits),
        lens_reason=None if feature.top_tokens else str(lens.get("reason") or "not computed"),
        neighbours=_neighbours(feature, near),
        part_of=_relation(atlas, feature.part_of, root),
        splits_into=_relation(atlas, feature.splits_into, root),
        meta=_meta(feature, atlas.manifest.get("meta_share") or {}),
        **{name: getattr(feature, name) for name in _FIGURES},
    )


def label(atlas: Atlas, feature: Feature) -> s.Label:
    """What a feature is called and why; the rule's own scores stand even under a human's label."""
    rule = feature.label_rule or {}
    held: Mapping[str, Any] = rule.get("held_out") or {}
    if feature.label_method in ("llm", "ngram"):
        held = {}
    return s.Label(
        text=feature.label,
        method=feature.label_method,
        f1=held.get("f1", feature.label_f1),
        auc=held.get("auc", feature.label_auc),
        base=feature.label_base,
        rule_text=feature.rule_label,
        rule=feature.label_rule,
        explanation=feature.explanation,
        judged=[one.to_json() for one in judged(feature)],
        output=feature.output,
        reads=feature.reads,
        does=feature.does,
        n_changes=len(atlas.notebook.history(feature.latent)),
    )


def document(catalogue: Catalogue, doc: int, latent: int | None) -> s.DocumentOut:
    """A document in whole, with the latent's recorded activations.

    Raises LatentError, naming it, for a document that the atlas does not hold.
    """
    found = documents(catalogue, [doc])
    if not found:
        raise LatentError(
            "the atlas holds no such document",
            got=doc,
            expected="the number of a document that an example is from",
        )
    whole = found[0]
    if latent is not None:
        for window in catalogue.ask(_RECORDED, {"latent": latent, "doc": doc}):
            for i, value in enumerate(window["values"], window["start"]):
                whole.values[i] = value
    whole.n_recorded = sum(value is not None for value in whole.values)
    return whole


def documents(catalogue: Catalogue, docs: Sequence[int]) -> list[s.DocumentOut]:
    """Documents in whole, ascending, without a latent's activations; unknown ones are left out."""
    return [
        s.DocumentOut(
            doc=row["doc"],
            split=row["split"],
            pieces=_pieces(row["text"], row["ends"], 0, len(row["ends"])),
            values=[None] * len(row["ends"]),
            meta=_loads(row["meta"]),
            n_recorded=0,
        )
        for row in catalogue.ask(f"{_DOCUMENTS.format(ids=integers(docs))} ORDER BY doc")
    ]


def bins(hist: Sequence[int]) -> s.Bins:
    """Counts without the empty bins at both ends."""
    filled = [i for i, count in enumerate(hist) if count]
    if not filled:
        return s.Bins(start=0, counts=[])
    return s.Bins(start=filled[0], counts=list(hist[filled[0] : filled[-1] + 1]))


_LISTED = (
    "latent", "label", "label_method", "label_f1", "label_auc", "n_active", "density", "interest",
)  # fmt: skip
_FIGURES = ("n_active", "density", "mean", "std", "max")
_EXAMPLE = (
    "kind", "band", "rank", "value", "doc", "pos", "start", "pieces", "values", "peak", "split",
    "meta",
)  # fmt: skip


def _contexts(catalogue: Catalogue, ids: str) -> dict[int, s.Context]:
    """The strongest context of each latent, cut close around its peak."""
    first = catalogue.ask(_FIRST.format(ids=ids))
    docs = integers(sorted({row["doc"] for row in first}))
    texts = {row["doc"]: row for row in catalogue.ask(_DOCUMENTS.format(ids=docs))}
    made = {}
    for row in first:
        text, start, peak = texts[row["doc"]], row["start"], row["pos"] - row["start"]
        low, high = max(0, peak - _BEFORE), min(len(row["values"]), peak + _AFTER + 1)
        made[row["latent"]] = s.Context(
            pieces=_pieces(text["text"], text["ends"], start + low, start + high),
            values=row["values"][low:high],
            peak=peak - low,
        )
    return made


def _lengths(catalogue: Catalogue, docs: set[int]) -> dict[int, int]:
    query = f"SELECT doc, len(ends) AS n FROM contexts WHERE doc IN ({integers(sorted(docs))})"
    return {row["doc"]: row["n"] for row in catalogue.ask(query)}


def _neighbours(feature: Feature, more: Mapping[int, Any]) -> list[s.NeighbourOut]:
    return [
        s.NeighbourOut.model_validate(
            {
                **{n: getattr(pair, n) for n in ("kind", "cosine", "jaccard", "pmi", "n_both")},
                "latent": pair.other,
                "label": pair.label,
                "density": more[pair.other]["density"],
                "max": more[pair.other]["max"],
                "hist": bins(more[pair.other]["hist"]),
            }
        )
        for pair in feature.neighbours
    ]


def _relation(atlas: Atlas, told: Relation | None, root: Path) -> s.RelationOut | None:
    """A relation with the other atlas named as others know it, and by no path outside the root."""
    if told is None:
        return None
    folder = other_folder(atlas, told.atlas)
    inside = folder.is_relative_to(root)
    name = folder.relative_to(root).as_posix() if inside else folder.name
    return s.RelationOut(
        id=name if inside and told.trouble is None else None,
        name=name,
        trouble=None if told.trouble is None else told.trouble.replace(told.atlas, name),
        **{n: getattr(told, n) for n in ("d_sae", "n_tokens", "chance")},
        kin=[s.KinOut(**asdict(one)) for one in told.kin],
    )


def _logits(tokens: list[str] | None, logits: list[float] | None) -> list[s.Logit] | None:
    if tokens is None or logits is None:
        return None
    return [s.Logit(token=t, logit=v) for t, v in zip(tokens, logits, strict=True)]


def _meta(feature: Feature, base: Mapping[str, float]) -> list[s.MetaShare]:
    """The metadata values that most of the activation falls on, by how far they beat their base."""
    shares = [(name, share, base.get(name)) for name, share in feature.meta_mass.items()]
    shares.sort(key=lambda entry: entry[1] * (1 - (entry[2] or 0)), reverse=True)
    return [s.MetaShare(name=n, share=v, base=b) for n, v, b in shares[:_MOST_META]]


def _pieces(text: str, ends: Sequence[int], start: int, stop: int) -> list[str]:
    cuts = [ends[start - 1] if start else 0, *ends[start:stop]]
    return [text[a:b] for a, b in pairwise(cuts)]


def _loads(text: str) -> dict[str, str]:
    return {str(k): str(v) for k, v in json.loads(text).items()}
