"""Two atlases held open side by side: their families, and the same contexts seen by both."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache, reduce
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from monoscope.features.atlas import Atlas, load_atlas
from monoscope.features.compare import (
    THRESHOLD,
    Family,
    Links,
    check_comparable,
    families,
    nearest_links,
)
from monoscope.viewer import found
from monoscope.viewer.catalogue import Catalogue, integers
from monoscope.viewer.found import Found

_BEFORE, _AFTER = 14, 12  # tokens shown around a place
_KEPT_THRESHOLDS = 8

_TOPS = """
SELECT latent, doc, pos FROM examples WHERE kind = 'top' AND latent IN ({ids})
ORDER BY rank, value DESC, latent"""
_WINDOWS = """
SELECT latent, doc, start, "values" FROM examples
WHERE latent IN ({ids}) AND doc IN ({docs})"""
_DOCUMENTS = "SELECT doc, split, text, ends, meta FROM contexts WHERE doc IN ({ids})"
_HASHES = "SELECT doc, md5(text) AS hash FROM contexts ORDER BY doc DESC"


def open_comparison(
    a: str | os.PathLike[str], b: str | os.PathLike[str], runs: str | os.PathLike[str] | None = None
) -> Comparison:
    """Two atlases, with the SAEs they were made from.

    runs: a folder below which SAEs lie; they are looked for beside each atlas besides.
    Raises FormatError for what is no atlas, MismatchError for atlases that cannot be compared and
    where an SAE is not found.
    """
    first, second = (load_atlas(folder).folder.resolve() for folder in (a, b))
    roots = [first.parent, second.parent, *([] if runs is None else [Path(runs).resolve()])]
    looked = [found.look(root) for root in dict.fromkeys(roots)]
    return Comparison(reduce(Found.joined, looked), first, second)


class Place(NamedTuple):
    """A token of a document, as numbered in a and in b; None where an atlas lacks the document."""

    a: int | None
    b: int | None
    pos: int


class Comparison:
    """Atlas b seen from atlas a; made quickly, matched when first asked. Safe between threads.

    opened: catalogues that are open already, by folder, so that a label edited there is seen.

    Raises FormatError for a damaged atlas, MismatchError for atlases that cannot be compared or
    whose SAEs are not among those found.
    """

    def __init__(
        self, seen: Found, a: Path, b: Path, opened: Mapping[Path, Catalogue] | None = None
    ) -> None:
        held = opened or {}
        self.catalogues = tuple(held.get(f) or Catalogue(load_atlas(f)) for f in (a, b))
        self.atlases: tuple[Atlas, ...] = tuple(catalogue.atlas for catalogue in self.catalogues)
        manifests = [atlas.manifest for atlas in self.atlases]
        check_comparable(manifests[0], manifests[1])
        self.saes = tuple(found.sae_of(seen, manifest) for manifest in manifests)
        self._lock = threading.Lock()
        self._families = lru_cache(maxsize=_KEPT_THRESHOLDS)(self._sorted)

    @property
    def links(self) -> Links:
        """Every living latent's nearest in the other SAE."""
        with self._lock:
            return self._links

    def families(self, threshold: float) -> list[Family]:
        """The families at a threshold; the last few thresholds are kept."""
        return self._families(threshold)

    def found(
        self, threshold: float = THRESHOLD, *, kind: str | None = None, words: str = ""
    ) -> list[Family]:
        """The families of one kind, if one is named, with all the words in a label of one side."""
        kept = [f for f in self.families(threshold) if kind is None or f.kind == kind]
        if words.strip():
            named = [self._named(side, words) for side in (0, 1)]
            kept = [f for f in kept if named[0].intersection(f.a) or named[1].intersection(f.b)]
        return kept

    @cached_property
    def labels(self) -> tuple[dict[int, str | None], ...]:
        """What the latents of either atlas were called when this was first asked."""
        return tuple(atlas.labels() for atlas in self.atlases)

    @cached_property
    def documents(self) -> tuple[dict[int, int], dict[int, int]]:
        """Documents that both atlases keep, known by their text: a's number to b's, and back."""
        mine, theirs = (
            {row["hash"]: row["doc"] for row in catalogue.ask(_HASHES)}
            for catalogue in self.catalogues
        )
        pairs = [(doc, theirs[key]) for key, doc in mine.items() if key in theirs]
        return dict(pairs), {b: a for a, b in pairs}

    def n_shared(self, pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """For each pair of latents: strongest contexts that are the same token, and of how many.

        Of how many: the fewer of the two latents' contexts in documents that both atlases keep.
        """
        to_b, to_a = self.documents
        tops_a = self._tops(0, [a for a, _ in pairs])
        tops_b = self._tops(1, [b for _, b in pairs])
        told = []
        for a, b in pairs:
            left = {(to_b[doc], pos) for doc, pos in tops_a.get(a, []) if doc in to_b}
            right = {(doc, pos) for doc, pos in tops_b.get(b, []) if doc in to_a}
            told.append((len(left & right), min(len(left), len(right))))
        return told

    def contexts(self, a: Sequence[int], b: Sequence[int], n: int) -> list[dict[str, Any]]:
        """Up to n places where the given latents fire most, by turns from either side.

        Each: pieces around the token, its index `peak`, "from" the sides whose strongest it is, and
        the latents' recorded values, null where an atlas did not record the token.
        """
        places = self._places(a, b, n)
        docs = ([p.a for p in places if p.a is not None], [p.b for p in places if p.b is not None])
        texts, windows = [], []
        for side, ids in enumerate((a, b)):
            ask, numbers = self.catalogues[side].ask, integers(docs[side])
            rows = ask(_DOCUMENTS.format(ids=numbers))
            texts.append({row["doc"]: row for row in rows})
            windows.append(ask(_WINDOWS.format(ids=integers(ids), docs=numbers)))
        shown = []
        for place, sides in places.items():
            row = texts[0][place.a] if place.a is not None else texts[1][place.b]
            start, stop = max(0, place.pos - _BEFORE), min(len(row["ends"]), place.pos + _AFTER + 1)
            edges = [row["ends"][start - 1] if start else 0, *row["ends"][start:stop]]
            shown.append({
                "pieces": [row["text"][i:j] for i, j in pairwise(edges)],
                "peak": place.pos - start, "split": row["split"], "meta": json.loads(row["meta"]),
                "sides": sorted(sides),
                "a": _values(windows[0], a, place.a, start, stop),
                "b": _values(windows[1], b, place.b, start, stop),
            })  # fmt: skip
        return shown

    def _places(self, a: Sequence[int], b: Sequence[int], n: int) -> dict[Place, set[str]]:
        """Places in the order shown, with the sides whose strongest contexts they are."""
        to_b, to_a = self.documents
        mine, theirs = (
            [
                place
                for places in zip_longest(*self._tops(side, ids).values())
                for place in places
                if place
            ]
            for side, ids in enumerate((a, b))
        )
        left = [Place(doc, to_b.get(doc), pos) for doc, pos in mine]
        right = [Place(to_a.get(doc), doc, pos) for doc, pos in theirs]
        sides = {place: {"a"} for place in left}
        for place in right:
            sides.setdefault(place, set()).add("b")
        turns = [place for pair in zip_longest(left, right) for place in pair if place is not None]
        return {place: sides[place] for place in list(dict.fromkeys(turns))[:n]}

    def _tops(self, side: int, latents: Sequence[int]) -> dict[int, list[tuple[int, int]]]:
        """(document, token) of each latent's strongest contexts, strongest first."""
        told: dict[int, list[tuple[int, int]]] = {}
        for row in self.catalogues[side].ask(_TOPS.format(ids=integers(latents))):
            told.setdefault(row["latent"], []).append((row["doc"], row["pos"]))
        return told

    @cached_property
    def _links(self) -> Links:
        rows = [found.decoder(sae) for sae in self.saes]
        alive = [
            c.columns("SELECT latent FROM rows WHERE n_active > 0")["latent"].tolist()
            for c in self.catalogues
        ]
        return nearest_links(rows[0], rows[1], alive[0], alive[1])

    def _named(self, side: int, q: str) -> set[int]:
        """Latents whose label holds every word."""
        words = q.lower().split()
        rows = self.catalogues[side].ask(
            "SELECT latent, lower(label) AS label FROM rows WHERE label IS NOT NULL"
        )
        return {row["latent"] for row in rows if all(word in row["label"] for word in words)}

    def _sorted(self, threshold: float) -> list[Family]:
        return families(self.links, threshold)


def _values(
    windows: Sequence[dict[str, Any]],
    latents: Sequence[int],
    doc: int | None,
    start: int,
    stop: int,
) -> list[list[float | None]]:
    """Each latent's recorded values on tokens start … stop of a document; null where not known."""
    told = []
    for latent in latents:
        values: list[float | None] = [None] * (stop - start)
        for window in windows:
            if window["latent"] != latent or window["doc"] != doc:
                continue
            for i, value in enumerate(window["values"], window["start"]):
                if start <= i < stop:
                    values[i - start] = value
        told.append(values)
    return told
