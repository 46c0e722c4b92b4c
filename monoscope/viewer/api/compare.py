"""Two atlases of one model side by side: which there are, how they match, shared contexts."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query
from pydantic import BaseModel

from monoscope.errors import MonoscopeError
from monoscope.features.compare import THRESHOLD, Family, Kind, check_comparable, counts
from monoscope.viewer import found, reading
from monoscope.viewer import schemas as s
from monoscope.viewer.comparison import Comparison
from monoscope.viewer.state import ViewerState

MEMBERS = 8  # latents of one side that a family shows; it says how many there are
CONTEXT_LATENTS = 4  # latents of one side whose values stand on the shared contexts
OPEN = 2  # comparisons kept open
BINS = 20
_Atlas = Annotated[str, Query(max_length=1000, description="An `id` in the list of atlases.")]
_Latents = Annotated[list[s.Latent] | None, Query(max_length=CONTEXT_LATENTS)]


class AtlasRow(BaseModel):
    """An atlas found. trouble: why it cannot be compared with the one that is viewed, or null."""

    id: str
    here: bool
    model: str | None
    site: str
    recipe: str | None
    activation: str | None
    d_sae: int
    k: int | None
    n_alive: int
    n_tokens: int
    trouble: str | None


class AtlasList(BaseModel):
    """Every atlas below root, and the one that is viewed."""

    root: str
    atlases: list[AtlasRow]
    more: bool


class Side(BaseModel):
    """One of two atlases. hist: its living latents by the cosine of their nearest in the other, in
    equal bins from 0 to 1 (negative ones in the first)."""

    id: str
    site: str
    d_sae: int
    n_alive: int
    hist: list[int]


class LinkOut(BaseModel):
    """A latent of a and one of b, and the cosine of their decoder directions."""

    a: int
    b: int
    cosine: float


class FamilyOut(BaseModel):
    """Latents of either side that share directions: the first MEMBERS of n_a and n_b, as lines.

    links: the nearest-links between them, closest first; of a lost or new latent, the one that fell
    short. shared: strongest contexts of the closest link's two latents that are the same token, and
    of how many; null where the atlases keep no document in common.
    """

    kind: Kind
    cosine: float
    n_a: int
    n_b: int
    a: list[s.FeatureRow]
    b: list[s.FeatureRow]
    links: list[LinkOut]
    shared: tuple[int, int] | None


class CompareOut(BaseModel):
    """How two atlases match. counts: families, and latents of a and b in them, by kind. chance: the
    cosine that 99 % of random directions stay below. n_documents: kept by both atlases."""

    a: Side
    b: Side
    threshold: float
    chance: float
    counts: dict[str, dict[str, int]]
    n_documents: int
    items: list[FamilyOut]
    total: int
    next_cursor: str | None


class PlaceOut(BaseModel):
    """The same token in both atlases. sides: whose strongest contexts it is among; a, b: for each
    latent asked for, its values on the pieces, null where that atlas did not record them."""

    pieces: list[str]
    peak: int
    split: str
    meta: dict[str, str]
    sides: list[Literal["a", "b"]]
    a: list[list[float | None]]
    b: list[list[float | None]]


def router(state: ViewerState) -> APIRouter:
    """GET /api/v1/atlases, /compare, /compare/contexts."""
    api = APIRouter(prefix="/api/v1", tags=["compare"])
    desk = _Desk(state)

    @api.get("/atlases")
    def atlases() -> AtlasList:
        """Every atlas that can be put beside this one, and why the others cannot."""
        return desk.list()

    @api.get("/compare")
    def compare(
        a: _Atlas, b: _Atlas,
        threshold: Annotated[float, Query(ge=0, le=1)] = THRESHOLD,
        kind: Kind | None = None,
        q: Annotated[str, Query(max_length=200, description="Words of a label.")] = "",
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        cursor: Annotated[str, Query(pattern=r"^[0-9]{0,12}$")] = "",
    ) -> CompareOut:  # fmt: skip
        """Families of latents, closest first within each kind; pass next_cursor as cursor."""
        return _compare(desk.open(a, b), (a, b), threshold, kind, q, limit, int(cursor or 0))

    @api.get("/compare/contexts")
    def contexts(
        a: _Atlas, b: _Atlas, left: _Latents = None, right: _Latents = None,
        limit: Annotated[int, Query(ge=1, le=50)] = 16,
    ) -> list[PlaceOut]:  # fmt: skip
        """Where latents of a (left) and b (right) fire most, seen by both."""
        pair = desk.open(a, b)
        for atlas, ids in zip(pair.atlases, (left or [], right or []), strict=True):
            for latent in ids:
                atlas.require(latent)
        return [PlaceOut(**row) for row in pair.contexts(left or [], right or [], limit)]

    return api


class _Desk:
    """Which atlases there are, and the comparisons that are open."""

    def __init__(self, state: ViewerState) -> None:
        self.state = state
        self.own = state.config.atlas.resolve()
        self.root = state.config.root
        self._open: dict[tuple[Path, Path, str, str], Comparison] = {}
        self._lock = threading.Lock()

    def name(self, folder: Path) -> str:
        """The viewer's own atlas may lie outside the root; it then goes by its whole path."""
        return (
            folder.relative_to(self.root).as_posix()
            if folder.is_relative_to(self.root)
            else str(folder)
        )

    def folder(self, name: str) -> Path:
        return (
            self.own if name == self.name(self.own) else found.inside(self.root, name, found.ATLAS)
        )

    def list(self) -> AtlasList:
        seen = found.look(self.root)
        folders = dict.fromkeys((self.own, *seen.atlases))
        rows = [row for folder in folders if (row := self._row(folder)) is not None]
        return AtlasList(root=str(self.root), atlases=rows, more=seen.more)

    def open(self, a: str, b: str) -> Comparison:
        """The comparison of two atlases, opened unless it is; a new index opens it anew."""
        first, second = self.folder(a), self.folder(b)
        builds = [
            str((found.read_json(f / found.ATLAS) or {}).get("build")) for f in (first, second)
        ]
        key = (first, second, builds[0], builds[1])
        with self._lock:
            if key not in self._open:
                seen = found.look(self.root)
                beside = found.look(self.own.parent) if self.own.parent != self.root else seen
                opened = {self.own: self.state.catalogue}
                made = Comparison(seen.joined(beside), first, second, opened)
                while len(self._open) >= OPEN:
                    self._open.pop(next(iter(self._open)))
                self._open[key] = made
            return self._open[key]

    def _row(self, folder: Path) -> AtlasRow | None:
        said = found.read_json(folder / found.ATLAS)
        try:
            trouble = None
            check_comparable(self.state.atlas.manifest, said or {})
        except MonoscopeError as exc:
            trouble = str(exc)
        except (KeyError, TypeError):
            return None  # no atlas of ours, or a damaged one
        assert said is not None
        sae = said["sae"]
        try:
            return AtlasRow(
                id=self.name(folder), here=folder == self.own,
                model=(said.get("model") or {}).get("model"), site=said["site"],
                recipe=sae.get("recipe"), activation=sae["config"].get("activation"),
                d_sae=said["d_sae"], k=sae["config"].get("k"), n_alive=said["n_alive"],
                n_tokens=said["n_tokens"], trouble=trouble,
            )  # fmt: skip
        except (KeyError, ValueError):
            return None


def _compare(
    pair: Comparison, names: tuple[str, str], threshold: float, kind: str | None, q: str,
    limit: int, start: int,
) -> CompareOut:  # fmt: skip
    everything = pair.families(threshold)
    kept = pair.found(threshold, kind=kind, words=q)
    page = kept[start : start + limit]
    links = pair.links
    return CompareOut(
        a=_side(pair, 0, names[0], links.cos_a), b=_side(pair, 1, names[1], links.cos_b),
        threshold=threshold, chance=links.chance, counts=counts(everything),
        n_documents=len(pair.documents[0]), items=_items(pair, page), total=len(kept),
        next_cursor=str(start + limit) if start + limit < len(kept) else None,
    )  # fmt: skip


def _items(pair: Comparison, page: list[Family]) -> list[FamilyOut]:
    told = []
    for side in (0, 1):
        ids = [i for f in page for i in ((f.a, f.b)[side])[:MEMBERS]]
        told.append({row.latent: row for row in reading.rows(pair.catalogues[side], ids)})
    shared = pair.n_shared([f.links[0][:2] for f in page]) if pair.documents[0] else None
    return [
        FamilyOut(
            kind=f.kind, cosine=f.cosine, n_a=len(f.a), n_b=len(f.b),
            a=[told[0][i] for i in f.a[:MEMBERS]], b=[told[1][i] for i in f.b[:MEMBERS]],
            links=[LinkOut(a=a, b=b, cosine=c) for a, b, c in f.links[: 2 * MEMBERS]],
            shared=None if shared is None else shared[i],
        )
        for i, f in enumerate(page)
    ]  # fmt: skip


def _side(pair: Comparison, side: int, name: str, cosine: Any) -> Side:
    atlas = pair.atlases[side]
    hist, _ = np.histogram(np.clip(cosine, 0, 1), bins=BINS, range=(0, 1))
    return Side(
        id=name, site=str(atlas.manifest["site"]), d_sae=atlas.n_features, n_alive=atlas.n_alive,
        hist=hist.tolist(),
    )  # fmt: skip
