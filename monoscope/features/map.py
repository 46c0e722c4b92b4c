"""A map of the latents: decoder directions laid out in the plane, near ones near each other.

The layout sees only each latent's nearest decoder directions, which the atlas already holds, so a
map can be added to any atlas without its SAE. It is begun from the slowest modes of a random walk
over that graph and settled by sampled attraction and repulsion (the cross-entropy of UMAP, McInnes
et al. 2018, equation 6, with its gradients for a = 1.577, b = 0.895, i.e. min_dist 0.1). Work is
linear in the number of latents: beyond EDGE_STEPS edge visits the number of rounds is cut, never
below LEAST_ROUNDS, so that a million latents take minutes and a looser layout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import scipy.sparse as sp
from numba import njit
from numpy.typing import NDArray

from monoscope.errors import DataError, FormatError
from monoscope.features import schema

if TYPE_CHECKING:
    from monoscope.features.atlas import Atlas

ROUNDS, LEAST_ROUNDS = 150, 40
EDGE_STEPS = 20_000_000  # edge visits that a layout may take before rounds are cut
_NEGATIVES = 5  # random latents pushed away for every neighbour pulled
_WALKS = 40  # rounds of the random walk that the beginning is made by
_A, _B = 1.577, 0.895
_STEP = 4.0  # the longest move of one update, per axis


def add_map(atlas: Atlas, *, seed: int | None = None) -> pa.Table:
    """Lay out the latents of an atlas and write `map.parquet` beside its tables.

    seed: by default the index's own, which gives the map that indexing writes.

    Raises OutputError if the folder cannot be written, DataError for an atlas of one latent.
    """
    pairs = pq.read_table(
        atlas.folder / schema.table_file("neighbours"),
        columns=["latent", "other", "kind", "cosine"],
    )
    seed = int(atlas.manifest.get("seed", 0)) if seed is None else seed
    table = map_table(pairs, atlas.n_features, seed=seed)
    schema.write_table(table, "map", atlas.folder / schema.table_file("map"), atlas.manifest)
    return table


def read_map(atlas: Atlas) -> pa.Table | None:
    """latent, x, y of every latent, x and y from 0 to 1; None where the atlas has no map.

    Raises FormatError for a map that is damaged; one left by another index run counts as none.
    """
    path = atlas.folder / schema.table_file("map")
    if not path.is_file():
        return None
    try:
        found = pq.read_schema(path)
        if (found.metadata or {}).get(schema.BUILD, b"").decode() != atlas.manifest["build"]:
            return None
        return pq.read_table(path, schema=schema.OPTIONAL["map"])
    except (pa.ArrowException, OSError, KeyError) as exc:
        raise FormatError(
            f"{path} is damaged", got=exc, hint="Remove it; the viewer can make it again."
        ) from exc


def map_table(pairs: pa.Table, n_latents: int, *, seed: int = 0) -> pa.Table:
    """The table latent, x, y from the atlas's neighbours (those of kind "decoder")."""
    near = pairs.filter(pc.equal(pairs["kind"], "decoder"))
    place = layout(
        near["latent"].to_numpy(), near["other"].to_numpy(), near["cosine"].to_numpy(),
        n_latents, seed=seed,
    )  # fmt: skip
    columns = [pa.array(np.arange(n_latents)), pa.array(place[:, 0]), pa.array(place[:, 1])]
    return pa.table(columns, schema=schema.OPTIONAL["map"])


def layout(
    latent: NDArray[np.int64],
    other: NDArray[np.int64],
    cosine: NDArray[np.float32],
    n_latents: int,
    *,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Place n_latents points [L, 2] in the unit square from pairs of neighbours, all arrays [n].

    The same pairs and seed give the same bytes. Raises DataError for fewer than two latents.
    """
    if n_latents < 2:
        raise DataError("a map needs two latents or more", got=n_latents)
    graph = _graph(latent, other, cosine, n_latents)
    begun = _begin(graph, np.random.default_rng(seed))
    edges = graph.tocoo()
    weight = edges.data / edges.data.max() if edges.nnz else edges.data
    rounds = max(LEAST_ROUNDS, min(ROUNDS, EDGE_STEPS // max(1, edges.nnz)))
    place = np.ascontiguousarray(begun * 10, dtype=np.float64)
    order = np.random.default_rng([seed, 1]).permutation(edges.nnz)
    _settle(place, edges.row[order], edges.col[order], weight[order], rounds, seed + 1)
    return _square(place)


def _graph(
    latent: NDArray[np.int64], other: NDArray[np.int64], cosine: NDArray[np.float32], n: int
) -> sp.csr_matrix:
    """Weights of the pairs, symmetric: how far a cosine stands above the latent's farthest one."""
    far = np.full(n, np.inf)
    np.minimum.at(far, latent, cosine)
    near = np.full(n, -np.inf)
    np.maximum.at(near, latent, cosine)
    spread = np.maximum(near - far, 1e-6)[latent]
    weight = 0.1 + 0.9 * (cosine - far[latent]) / spread
    one = sp.csr_matrix((weight, (latent, other)), shape=(n, n))
    both = one.multiply(one.T)
    return (one + one.T - both).tocsr()  # the probabilistic union, as UMAP's


def _begin(graph: sp.csr_matrix, random: np.random.Generator) -> NDArray[np.float64]:
    """Two slow modes of the lazy random walk over the graph, by subspace iteration, scaled to 1.

    A graph in several parts has several modes that do not decay; whichever two the iteration
    finds, what lies in one part begins together.
    """
    n = graph.shape[0]
    degree = np.asarray(graph.sum(1)).ravel() + 1e-12
    walk = sp.diags(1 / degree) @ graph
    modes = random.standard_normal((n, min(6, n)))
    weight = degree / degree.sum()
    for _ in range(_WALKS):
        modes = 0.5 * (modes + walk @ modes)
        modes -= weight @ modes  # the constant mode says nothing of place
        modes = np.linalg.qr(modes)[0]
    out = np.zeros((n, 2))
    out[:, : min(2, modes.shape[1])] = modes[:, :2]
    ranks = np.argsort(np.argsort(out, axis=0), axis=0) / max(1, n - 1)  # evens out far outliers
    noise = random.normal(0, 1e-3, (n, 2))
    return np.asarray(2 * ranks - 1 + noise)


@njit(cache=True, nogil=True)
def _settle(place, rows, cols, weight, rounds, seed):  # type: ignore[no-untyped-def]
    """Stochastic descent: every edge pulls its ends as often as its weight says."""
    np.random.seed(seed)
    n, dims = place.shape
    for turn in range(rounds):
        rate = 1.0 - turn / rounds
        for e in range(len(rows)):
            if np.random.random() > weight[e]:
                continue
            i, j = rows[e], cols[e]
            gap = 0.0
            for d in range(dims):
                gap += (place[i, d] - place[j, d]) ** 2
            if gap > 0:
                power = gap ** (_B - 1)
                pull = -2 * _A * _B * power / (1 + _A * power * gap)
                for d in range(dims):
                    move = min(_STEP, max(-_STEP, pull * (place[i, d] - place[j, d]))) * rate
                    place[i, d] += move
                    place[j, d] -= move
            for _ in range(_NEGATIVES):
                k = np.random.randint(n)
                if k == i:
                    continue
                gap = 0.0
                for d in range(dims):
                    gap += (place[i, d] - place[k, d]) ** 2
                push = rate * 2 * _B / ((0.001 + gap) * (1 + _A * gap**_B))
                most = rate * _STEP
                for d in range(dims):
                    place[i, d] += min(most, max(-most, push * (place[i, d] - place[k, d])))


def _square(place: NDArray[np.float64]) -> NDArray[np.float32]:
    """Turned so that the longer axis lies flat, each axis stretched to fill the unit square; the
    outermost thousandth of points is drawn to the edge."""
    centred = place - place.mean(0)
    centred = centred @ np.linalg.eigh(centred.T @ centred)[1][:, ::-1]
    low, high = np.quantile(centred, [0.001, 0.999], axis=0)
    half = np.maximum((high - low) / 2, 1e-9)
    scaled: NDArray[Any] = 0.5 + (centred - (low + high) / 2) / (2.04 * half)
    return np.clip(scaled, 0, 1).astype(np.float32)
