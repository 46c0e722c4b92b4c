"""Matching of two SAEs, against the whole cosine matrix and a plain graph search."""

from __future__ import annotations

import numpy as np
import pytest

from monoscope.errors import ConfigError, DataError, MismatchError
from monoscope.features import compare
from monoscope.features.compare import (
    KINDS,
    Family,
    check_comparable,
    counts,
    families,
    nearest_links,
)


def directions(seed: int, n: int, d: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def near(row: np.ndarray, cosine: float, seed: int) -> np.ndarray:
    """A vector at exactly this cosine with `row`."""
    unit = row / np.linalg.norm(row)
    other = np.random.default_rng(seed).standard_normal(len(row))
    other -= (other @ unit) * unit
    other /= np.linalg.norm(other)
    return (cosine * unit + np.sqrt(1 - cosine**2) * other).astype(np.float32)


def full_cosine(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    A, B = A.astype(np.float64), B.astype(np.float64)
    A /= np.linalg.norm(A, axis=1, keepdims=True)
    B /= np.linalg.norm(B, axis=1, keepdims=True)
    return A @ B.T


def brute_families(cosine: np.ndarray, threshold: float) -> set[tuple[frozenset, frozenset]]:
    """Components of the graph that joins each latent with its nearest, found by flooding."""
    n_a, n_b = cosine.shape
    edges: dict[tuple[str, int], set] = {
        **{("a", i): set() for i in range(n_a)},
        **{("b", j): set() for j in range(n_b)},
    }
    pairs = [(i, int(cosine[i].argmax())) for i in range(n_a)]
    pairs += [(int(cosine[:, j].argmax()), j) for j in range(n_b)]
    for i, j in pairs:
        if cosine[i, j] >= threshold:
            edges["a", i].add(("b", j))
            edges["b", j].add(("a", i))
    found, seen = set(), set()
    for start in edges:
        if start in seen:
            continue
        group, waiting = set(), [start]
        while waiting:
            node = waiting.pop()
            if node not in group:
                group.add(node)
                waiting += edges[node]
        seen |= group
        found.add(tuple(frozenset(i for side, i in group if side == name) for name in "ab"))
    return found


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.75, 0.9, 1.0])
@pytest.mark.parametrize("sizes", [(40, 40), (17, 60), (60, 1)])
def test_families_are_those_of_the_whole_matrix(
    sizes: tuple[int, int], threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "_TILE_ELEMENTS", 100)  # several tiles, the last one short
    A, B = directions(1, sizes[0], 4) * 3, directions(2, sizes[1], 4)
    links = nearest_links(A, B)
    cosine = full_cosine(A, B)
    np.testing.assert_array_equal(links.to_b, cosine.argmax(1))
    np.testing.assert_array_equal(links.to_a, cosine.argmax(0))
    np.testing.assert_allclose(links.cos_a, cosine.max(1), atol=1e-6)
    np.testing.assert_allclose(links.cos_b, cosine.max(0), atol=1e-6)
    found = families(links, threshold)
    assert {(frozenset(f.a), frozenset(f.b)) for f in found} == brute_families(cosine, threshold)
    assert sorted(i for f in found for i in f.a) == list(range(sizes[0]))
    assert sorted(j for f in found for j in f.b) == list(range(sizes[1]))
    for family in found:
        for a, b, value in family.links:
            assert value == pytest.approx(cosine[a, b], abs=1e-6)
        assert family.cosine == max(link[2] for link in family.links)


def test_each_kind_is_told_from_the_others() -> None:
    base = directions(3, 6, 64)
    A = np.stack([base[0], base[1], base[2], near(base[2], 0.9, 1), base[3], base[4]])
    B = np.stack(
        [near(base[0], 0.95, 2), near(base[1], 0.9, 3), near(base[1], 0.85, 4),
         near(base[2], 0.97, 5), base[5]]
    )  # fmt: skip
    found = families(nearest_links(A, B), 0.7)
    assert [(f.kind, f.a, f.b) for f in found] == [
        ("matched", (0,), (0,)),
        ("split", (1,), (1, 2)),
        ("merged", (2, 3), (3,)),
        *sorted(
            [("lost", (4,), ()), ("lost", (5,), ())],
            key=lambda f: full_cosine(A, B)[f[1][0]].max(),
        ),
        ("new", (), (4,)),
    ]
    assert counts(found) == {
        "matched": {"families": 1, "a": 1, "b": 1},
        "split": {"families": 1, "a": 1, "b": 2},
        "merged": {"families": 1, "a": 2, "b": 1},
        "regrouped": {"families": 0, "a": 0, "b": 0},
        "lost": {"families": 2, "a": 2, "b": 0},
        "new": {"families": 1, "a": 0, "b": 1},
    }
    assert list(counts(found)) == list(KINDS)


def test_many_to_many_is_regrouped() -> None:
    # b0 is nearest to a0, a1's nearest is b0, b1's nearest is a0: one family of two and two.
    at = [np.array([np.cos(t), np.sin(t)], np.float32) for t in (0.0, 0.5, -0.1, -0.8)]
    found = families(nearest_links(np.stack([at[0], at[1]]), np.stack([at[2], at[3]])), 0.5)
    assert [(f.kind, f.a, f.b) for f in found] == [("regrouped", (0, 1), (0, 1))]
    assert found[0].links[0][:2] == (0, 0)


def test_an_sae_matches_itself_in_any_order() -> None:
    W = directions(4, 50, 16)
    order = np.random.default_rng(0).permutation(50)
    found = families(nearest_links(W, 5 * W[order]), 0.99)
    assert {f.kind for f in found} == {"matched"}
    assert all(order[f.b[0]] == f.a[0] for f in found)
    assert all(f.cosine == pytest.approx(1.0, abs=1e-6) for f in found)


def test_only_the_latents_asked_for_are_compared() -> None:
    A, B = directions(5, 20), directions(6, 30)
    links = nearest_links(A, B, a=[7, 3, 11], b=range(10, 20))
    cosine = full_cosine(A, B)[[3, 7, 11], 10:20]
    assert links.a.tolist() == [3, 7, 11]
    assert links.to_b.tolist() == (cosine.argmax(1) + 10).tolist()
    assert links.to_a.tolist() == np.array([3, 7, 11])[cosine.argmax(0)].tolist()
    found = families(links, 0.4)
    assert sorted(i for f in found for i in f.a) == [3, 7, 11]
    assert sorted(j for f in found for j in f.b) == list(range(10, 20))


def test_chance_is_what_directions_like_those_of_a_reach() -> None:
    # Redrawn here from the covariance itself, which the code never forms.
    A = directions(7, 300, 12) * np.linspace(0.2, 3, 12, dtype=np.float32) + 0.5
    B = directions(8, 200, 12)
    unit = A / np.linalg.norm(A, axis=1, keepdims=True)
    drawn = np.random.default_rng(1).multivariate_normal(
        unit.mean(0), np.cov(unit.T, bias=True), 20_000
    )
    expected = np.quantile(full_cosine(drawn, B).max(1), 0.99)
    assert nearest_links(A, B).chance == pytest.approx(expected, abs=0.015)
    assert nearest_links(A, B, seed=1).chance == nearest_links(A, B, seed=1).chance


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(MismatchError, match="different widths"):
        nearest_links(directions(0, 3, 4), directions(0, 3, 5))
    with pytest.raises(DataError, match="no living latent in b"):
        nearest_links(directions(0, 3), directions(0, 3), b=[])
    with pytest.raises(ConfigError, match="threshold"):
        families(nearest_links(directions(0, 3), directions(0, 3)), 1.5)


def manifest(**changes: object) -> dict:
    return {
        "model": {"model": "m", "weights": "a" * 64},
        "site": "resid_post.15",
        "sae": {"config": {"d_in": 8}},
        **changes,
    }


def test_atlases_of_one_model_and_kind_of_site_may_be_compared() -> None:
    check_comparable(manifest(), manifest())
    check_comparable(manifest(), manifest(site="resid_post.3"))
    check_comparable(manifest(), manifest(model={"model": "other name", "weights": "a" * 64}))
    for other, said in (
        ({"model": {"model": "m", "weights": "b" * 64}}, "different models"),
        ({"model": {}}, "different models"),
        ({"site": "mlp_out.15"}, "different sites"),
        ({"site": "module:model.norm"}, "different sites"),
        ({"sae": {"config": {"d_in": 9}}}, "different widths"),
    ):
        with pytest.raises(MismatchError, match=said):
            check_comparable(manifest(), manifest(**other))


def test_a_family_is_plain_json() -> None:
    family = Family("matched", (1,), (2,), ((1, 2, 0.5),))
    assert family.to_json() == {
        "kind": "matched", "a": (1,), "b": (2,), "links": ((1, 2, 0.5),), "cosine": 0.5,
    }  # fmt: skip
