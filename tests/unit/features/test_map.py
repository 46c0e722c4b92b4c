"""The map: near directions end near each other, whatever the graph is like, and always the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from sklearn.decomposition import PCA

from monoscope.errors import DataError, FormatError
from monoscope.features import schema
from monoscope.features.atlas import load_atlas
from monoscope.features.index import index
from monoscope.features.map import add_map, layout, read_map
from tests.unit.features.atlas_world import FakeLM, FakeSAE, make_store


def pairs(rows: np.ndarray, k: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each row's k nearest others by cosine, by brute force in fp64."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    other = np.argsort(-cosine, axis=1)[:, :k]
    latent = np.repeat(np.arange(len(rows)), k)
    return latent, other.ravel(), np.take_along_axis(cosine, other, 1).ravel().astype(np.float32)


def clusters(n: int, each: int, width: int = 32, spread: float = 0.15) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.standard_normal((n, width)), each, axis=0)
    return centres + spread * rng.standard_normal(centres.shape)


def test_latents_of_one_bundle_lie_together():
    n, each = 12, 25
    place = layout(*pairs(clusters(n, each)), n * each)
    near = cKDTree(place).query(place, 6)[1][:, 1:]
    own = np.repeat(np.arange(n), each)
    assert (own[near] == own[:, None]).mean() > 0.97


def test_neighbours_are_kept_better_than_by_principal_components():
    angle = np.random.default_rng(1).uniform(0, 2 * np.pi, (400, 3))
    rows = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)  # a torus of three turns
    latent, other, cosine = pairs(rows)
    truth = [set(row) for row in other.reshape(400, -1).tolist()]

    def kept(place: np.ndarray) -> float:
        near = cKDTree(place).query(place, 11)[1][:, 1:]
        return float(np.mean([len(truth[i] & set(row)) for i, row in enumerate(near.tolist())]))

    assert kept(layout(latent, other, cosine, 400)) > 1.5 * kept(PCA(2).fit_transform(rows))


def test_the_same_pairs_give_the_same_bytes_and_another_seed_others():
    given = pairs(clusters(4, 20))
    first, again = layout(*given, 80), layout(*given, 80)
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != layout(*given, 80, seed=1).tobytes()


@pytest.mark.parametrize(
    "rows",
    [
        np.eye(2), np.eye(3), np.ones((9, 4)), np.eye(40),
        np.kron(np.eye(4), np.ones((15, 5))),  # four parts without a path between them
    ],
)  # fmt: skip
def test_odd_graphs_stay_finite_and_in_the_square(rows):
    place = layout(*pairs(rows, min(10, len(rows) - 1)), len(rows))
    assert place.dtype == np.float32 and place.shape == (len(rows), 2)
    assert np.isfinite(place).all() and place.min() >= 0 and place.max() <= 1
    assert len(np.unique(place, axis=0)) > 1


def test_one_latent_has_no_map():
    none = np.zeros(0, np.int64)
    with pytest.raises(DataError, match="two latents"):
        layout(none, none, none.astype(np.float32), 1)


def test_indexing_writes_the_map_and_adding_it_later_gives_the_same(tmp_path):
    atlas = index(FakeSAE(12, 40, 5), make_store(n_docs=30), FakeLM(12), tmp_path / "a", seed=7)
    written = read_map(atlas)
    assert written is not None and written["latent"].to_pylist() == list(range(40))
    (tmp_path / "a" / "map.parquet").unlink()
    assert read_map(load_atlas(tmp_path / "a")) is None
    assert add_map(atlas).equals(written)
    assert read_map(load_atlas(tmp_path / "a")).equals(written)


def test_a_map_of_another_index_run_is_none_and_a_damaged_one_is_named(tmp_path):
    store, lm = make_store(n_docs=30), FakeLM(12)
    index(FakeSAE(12, 40, 5, seed=1), store, lm, tmp_path / "a")
    old = (tmp_path / "a" / "map.parquet").read_bytes()
    atlas = index(FakeSAE(12, 40, 5, seed=2), store, lm, tmp_path / "a")
    path = tmp_path / "a" / schema.table_file("map")
    path.write_bytes(old)
    assert read_map(atlas) is None
    path.write_bytes(old[:-50])
    with pytest.raises(FormatError, match=r"map\.parquet"):
        read_map(atlas)


def test_an_sae_of_one_latent_is_indexed_without_a_map(tmp_path):
    sae = FakeSAE(12, 4, 1)
    sae.config.d_sae = 1
    sae.W_enc, sae.W_dec, sae.b_enc = sae.W_enc[:1], sae.W_dec[:1], torch.zeros(1)
    atlas = index(sae, make_store(n_docs=10), None, tmp_path / "one")
    assert read_map(atlas) is None
