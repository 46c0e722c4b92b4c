"""Two atlases of one model side by side: which latents are matched, split, merged, new or lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from monoscope.errors import ConfigError, DataError, MismatchError
from monoscope.sites import Site

Kind = Literal["matched", "split", "merged", "regrouped", "lost", "new"]
KINDS: tuple[Kind, ...] = ("matched", "split", "merged", "regrouped", "lost", "new")
THRESHOLD = 0.7  # cosine from which two decoder rows count as one direction
_TILE_ELEMENTS = 2**23  # cosines held at once
_N_CHANCE = 512  # random directions behind `Links.chance`
_Floats = NDArray[np.float32]
_Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Links:
    """Every latent's nearest in the other SAE, by the cosine of decoder rows.

    a [n_a], b [n_b]: ids of the latents compared, ascending. to_b [n_a]: the id of each a's nearest
    in b, with cosine cos_a [n_a]; to_a [n_b] and cos_b [n_b]: the same from b. Ties go to the
    smaller id. chance: the 99th percentile of the largest cosine that a random direction, drawn
    from a Gaussian with the mean and covariance of a's rows, has with any row of b.
    """

    a: _Ints
    b: _Ints
    to_b: _Ints
    to_a: _Ints
    cos_a: _Floats
    cos_b: _Floats
    chance: float


@dataclass(frozen=True)
class Family:
    """Latents of two SAEs that share directions.

    kind: by how many are on either side: "matched" 1–1, "split" 1–n, "merged" n–1, "regrouped"
    n–m, "lost" 1–0, "new" 0–1. links: (a, b, cosine) of the nearest-links that tie it together,
    closest first; for a lost or new latent, the one that fell short.
    """

    kind: Kind
    a: tuple[int, ...]
    b: tuple[int, ...]
    links: tuple[tuple[int, int, float], ...]

    @property
    def cosine(self) -> float:
        """Of its closest link."""
        return self.links[0][2]

    def to_json(self) -> dict[str, Any]:
        """The family as plain JSON values."""
        return asdict(self) | {"cosine": self.cosine}


def nearest_links(
    W_a: _Floats, W_b: _Floats, a: Iterable[int] | None = None, b: Iterable[int] | None = None,
    *, seed: int = 0,
) -> Links:  # fmt: skip
    """Each latent's nearest in the other SAE.

    W_a [L_a, D], W_b [L_b, D]: decoder rows, of any norm. a, b: the latents to compare, such as
    those alive; default all. Cosines are made in tiles of rows of a; no L_a×L_b matrix is kept.

    Raises MismatchError for different D, DataError where a side has no latent.
    """
    if W_a.shape[1] != W_b.shape[1]:
        raise MismatchError(
            "the two SAEs have different widths", got=f"d_in {W_b.shape[1]}", expected=W_a.shape[1]
        )
    ids = [
        np.arange(len(W)) if given is None else np.unique(np.fromiter(given, np.int64))
        for W, given in ((W_a, a), (W_b, b))
    ]
    for name, found in zip("ab", ids, strict=True):
        if len(found) == 0:
            raise DataError("nothing to compare", got=f"no living latent in {name}")
    A, B = _unit(W_a[ids[0]]), _unit(W_b[ids[1]])
    to_b, cos_a, to_a, cos_b = _best(A, B)
    return Links(
        ids[0], ids[1], ids[1][to_b], ids[0][to_a], cos_a, cos_b, _chance(A, B, seed)
    )  # fmt: skip


def families(links: Links, threshold: float = THRESHOLD) -> list[Family]:
    """Sort every compared latent into exactly one family, in the order of KINDS, closest first.

    A latent is linked to its nearest in the other SAE if their cosine is at least `threshold`;
    a family is a connected component of these links. Lost and new come farthest first.

    Raises ConfigError for a threshold outside 0 … 1.
    """
    if not 0.0 <= threshold <= 1.0:
        raise ConfigError("the threshold is out of range", got=threshold, expected="0 to 1")
    n_a = len(links.a)
    at_b = np.searchsorted(links.b, links.to_b) + n_a
    at_a = np.searchsorted(links.a, links.to_a)
    from_a, from_b = links.cos_a >= threshold, links.cos_b >= threshold
    left = np.concatenate([np.flatnonzero(from_a), at_a[from_b]])
    right = np.concatenate([at_b[from_a], np.flatnonzero(from_b) + n_a])
    n = n_a + len(links.b)
    graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    found = [_family(links, members) for members in _groups(component)]
    lonely = ("lost", "new")
    return sorted(
        found,
        key=lambda f: (
            KINDS.index(f.kind), f.cosine if f.kind in lonely else -f.cosine, f.a, f.b
        ),
    )  # fmt: skip


def counts(found: Iterable[Family]) -> dict[str, dict[str, int]]:
    """How many families of each kind, and how many latents of either side are in them."""
    told = {kind: {"families": 0, "a": 0, "b": 0} for kind in KINDS}
    for family in found:
        row = told[family.kind]
        row["families"] += 1
        row["a"] += len(family.a)
        row["b"] += len(family.b)
    return {str(kind): row for kind, row in told.items()}


def check_comparable(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Raise MismatchError unless two atlases' manifests are of one model and one kind of site.

    Sizes, seeds, recipes and layers may differ.
    """
    mine, theirs = a.get("model") or {}, b.get("model") or {}
    key = next((k for k in ("weights", "model") if mine.get(k) and theirs.get(k)), None)
    if key is None or mine[key] != theirs[key]:
        raise MismatchError(
            "the atlases are of different models",
            got=_model(theirs),
            expected=_model(mine),
            hint="Compare two atlases of one model.",
        )
    one, other = Site.parse(str(a["site"])), Site.parse(str(b["site"]))
    if (one.kind, one.path, one.io) != (other.kind, other.path, other.io):
        raise MismatchError(
            "the atlases are of different sites",
            got=other,
            expected=f"{one}, or the same at another layer",
        )
    width = [m["sae"]["config"]["d_in"] for m in (a, b)]
    if width[0] != width[1]:
        raise MismatchError("the atlases have different widths", got=width[1], expected=width[0])


def _model(identity: Mapping[str, str]) -> str:
    weights = str(identity.get("weights") or "")
    return f"{identity.get('model', 'an unnamed model')} ({weights[:12] or 'weights unknown'})"


def _unit(W: _Floats) -> _Floats:
    W = np.asarray(W, np.float32)
    norm = np.linalg.norm(W, axis=1, keepdims=True)
    unit: _Floats = W / np.maximum(norm, np.finfo(np.float32).tiny)
    return unit


def _best(A: _Floats, B: _Floats) -> tuple[_Ints, _Floats, _Ints, _Floats]:
    """The nearest row of B for each of A with its cosine, and of A for each of B; one sweep."""
    to_b, cos_a = np.empty(len(A), np.int64), np.empty(len(A), np.float32)
    to_a, cos_b = np.zeros(len(B), np.int64), np.full(len(B), -np.inf, np.float32)
    tile = max(1, _TILE_ELEMENTS // len(B))
    for first in range(0, len(A), tile):
        cosine = A[first : first + tile] @ B.T
        rows = slice(first, first + len(cosine))
        to_b[rows] = cosine.argmax(1)
        cos_a[rows] = cosine.max(1)
        top = cosine.max(0)
        better = top > cos_b
        to_a[better] = first + cosine.argmax(0)[better]
        cos_b[better] = top[better]
    return to_b, np.minimum(cos_a, 1), to_a, np.minimum(cos_b, 1)


def _chance(A: _Floats, B: _Floats, seed: int) -> float:
    """The 99th percentile over random directions of their largest cosine with a row of B."""
    # Σ_i g_i·(A_i − mean)/√n with g normal has the covariance of A's rows without forming it.
    mean = A.mean(0)
    noise = np.random.default_rng(seed).standard_normal((_N_CHANCE, len(A)), np.float32)
    drawn = _unit(mean + noise @ (A - mean) / np.sqrt(np.float32(len(A))))
    tile = max(1, _TILE_ELEMENTS // len(B))
    best = [(drawn[i : i + tile] @ B.T).max(1) for i in range(0, _N_CHANCE, tile)]
    return float(np.quantile(np.concatenate(best), 0.99))


def _groups(component: NDArray[np.int32]) -> list[_Ints]:
    order = np.argsort(component, kind="stable")
    cuts = np.flatnonzero(np.diff(component[order])) + 1
    return [group.astype(np.int64) for group in np.split(order, cuts)]


def _family(links: Links, members: _Ints) -> Family:
    """members: positions in a, then positions in b shifted by n_a."""
    n_a = len(links.a)
    rows_a, rows_b = members[members < n_a], members[members >= n_a] - n_a
    pairs = {(int(links.a[i]), int(links.to_b[i])): float(links.cos_a[i]) for i in rows_a}
    for i in rows_b:
        pairs.setdefault((int(links.to_a[i]), int(links.b[i])), float(links.cos_b[i]))
    ties = sorted(((a, b, c) for (a, b), c in pairs.items()), key=lambda t: (-t[2], t[0], t[1]))
    return Family(
        _kind(len(rows_a), len(rows_b)),
        tuple(links.a[rows_a].tolist()), tuple(links.b[rows_b].tolist()), tuple(ties),
    )  # fmt: skip


def _kind(n_a: int, n_b: int) -> Kind:
    if n_b == 0:
        return "lost"
    if n_a == 0:
        return "new"
    if n_a == 1:
        return "matched" if n_b == 1 else "split"
    return "merged" if n_b == 1 else "regrouped"
