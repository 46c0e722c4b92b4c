"""Ties between atlases of smaller and larger SAEs, against brute force and planted parents."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from monoscope import cli
from monoscope.errors import ConfigError, FormatError, LatentError, MismatchError, OutputError
from monoscope.features import schema, side
from monoscope.features.atlas import Atlas, load_atlas
from monoscope.features.index import index
from monoscope.features.lineage import CHILDREN, PARENTS, check_pair, keep_splitting, relation, tree
from monoscope.features.show import feature_page
from monoscope.locks import folder_lock
from tests.unit.features.atlas_world import FakeSAE, FakeStore, make_store

D, SIZES = 12, (10, 20, 40)
DEAD = 3  # atlas_world's latent that never fires
OTHERWISE = 17  # points exactly where its parent does, and fires where the next latent does


class Store(FakeStore):
    """With batches, as `splitting` reads them."""

    def batches(self, split: str, size: int) -> Iterator[Any]:
        for shard in self.shards(split):
            yield self.read(shard)


class Sized(FakeSAE):
    """With its size, as `splitting` asks for it."""

    @property
    def d_sae(self) -> int:
        return int(self.config.d_sae)


def planted(d_sae: int, above: Sized | None, seed: int) -> Sized:
    """An SAE of which latent i lies near latent i mod L of the one above."""
    made = Sized(D, d_sae, 4, seed)
    if above is not None:
        near = above.W_dec[torch.arange(d_sae) % above.config.d_sae]
        made.W_dec = near + 0.25 * made.W_dec
    if above is not None:
        made.W_dec[OTHERWISE] = near[OTHERWISE]
    made.W_enc = made.W_dec.clone()
    made.W_enc[DEAD] = 0
    if above is not None:
        made.W_enc[OTHERWISE] = made.W_dec[OTHERWISE + 1]
    return made


@pytest.fixture(scope="module")
def store() -> Store:
    plain = make_store(n_docs=60, d_in=D)
    return Store(plain.rows, plain.docs, plain.cuts)


@pytest.fixture(scope="module")
def saes() -> list[Sized]:
    chain: list[Sized] = []
    for seed, size in enumerate(SIZES):
        chain.append(planted(size, chain[-1] if chain else None, seed))
    return chain


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, saes: Any, store: Any) -> Path:
    root = tmp_path_factory.mktemp("sizes")
    for sae in saes:
        index(sae, store, out=root / f"s{sae.config.d_sae}" / "atlas")
    return root


@pytest.fixture(scope="module")
def tied(plain: Path, saes: Any, store: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tied") / "runs"
    shutil.copytree(plain, root)
    atlases = opened(root)
    for i in (0, 1):
        keep_splitting(atlases[i], atlases[i + 1], saes[i], saes[i + 1], store)
    return root


def opened(root: Path) -> list[Atlas]:
    return [load_atlas(root / f"s{size}" / "atlas") for size in SIZES]


def test_every_tie_is_that_of_brute_force(tied: Path, saes: Any, store: Any) -> None:
    small, large = opened(tied)[:2]
    codes = [sae.encode(store.rows.acts).to_dense().numpy() > 0 for sae in saes[:2]]
    W = [sae.W_dec.double().numpy() for sae in saes[:2]]
    unit = [w / np.linalg.norm(w, axis=1, keepdims=True) for w in W]
    alive = [np.flatnonzero(fired.any(0)) for fired in codes]
    assert DEAD not in alive[0]
    told: dict[int, list[int]] = {i: [] for i in range(SIZES[0])}
    for child in range(SIZES[1]):
        found = relation(large, PARENTS, child)
        assert found is not None
        if child not in alive[1]:
            assert found.kin == []
            continue
        cosines = unit[0][alive[0]] @ unit[1][child]
        parent = int(alive[0][cosines.argmax()])
        (kin,) = found.kin
        assert kin.latent == parent and kin.cosine == pytest.approx(cosines.max(), abs=1e-6)
        fires = codes[1][:, child]
        given = [
            codes[0][fires, p].mean() - codes[0][~fires, p].mean() if p in alive[0] else -9
            for p in range(SIZES[0])
        ]
        assert kin.n_active == codes[0][:, parent].sum()
        assert kin.n_both == (codes[0][:, parent] & fires).sum()
        assert kin.parent_given_child == pytest.approx(codes[0][fires, parent].mean())
        assert kin.contingency == pytest.approx(given[parent])
        assert (kin.by_firing == parent) is kin.agrees is (int(np.argmax(given)) == parent)
        told[parent].append(child)
    for parent, children in told.items():
        found = relation(small, CHILDREN, parent)
        assert found is not None
        assert sorted(kin.latent for kin in found.kin) == children
        assert [(k.agrees, k.cosine) for k in found.kin] == sorted(
            ((k.agrees, k.cosine) for k in found.kin), reverse=True
        )
        if parent == OTHERWISE % SIZES[0]:
            assert found.kin[0].agrees and found.kin[-1].latent == OTHERWISE
            assert found.kin[-1].cosine > found.kin[0].cosine
        for kin in found.kin:
            assert kin.n_active == codes[1][:, kin.latent].sum()


def test_planted_children_are_found_under_their_parents(tied: Path) -> None:
    pages = [opened(tied)[1].feature(i).part_of for i in range(SIZES[1])]
    right = [
        page.kin[0].latent == i % SIZES[0]
        for i, page in enumerate(pages)
        if page and page.kin and i % SIZES[0] != DEAD
    ]
    assert np.mean(right) > 0.9 and len(right) > 15
    assert all(page is not None and page.chance < 1 for page in pages)


def test_a_tree_goes_through_three_sizes_with_the_labels_there_are_now(tied: Path) -> None:
    small, middle, large = opened(tied)
    first = tree(small, 0)
    child = first["children"][0]
    grand = child["children"][0]
    assert (first["d_sae"], child["d_sae"], grand["d_sae"]) == SIZES
    assert grand["children"] == [] and "cosine" not in first
    large.annotate(grand["latent"], "a person's words")
    assert tree(small, 0)["children"][0]["children"][0]["label"] == "a person's words"
    page = middle.feature(child["latent"])
    assert page.part_of is not None and page.part_of.kin[0].latent == 0
    assert page.splits_into is not None
    assert page.splits_into.kin[0].label == "a person's words"
    json.dumps(page.to_json())
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(feature_page(page))
    shown = console.export_text()
    assert "part of" in shown and "splits into" in shown and "a person's words" in shown


def test_a_new_index_of_the_same_sae_keeps_the_tie_and_loses_its_own(
    tied: Path, saes: Any, store: Any, tmp_path: Path
) -> None:
    root = tmp_path / "runs"
    shutil.copytree(tied, root)
    index(saes[1], store, out=root / "s20" / "atlas", n_tokens=300)
    small, middle, _ = opened(root)
    found = relation(small, CHILDREN, 0)
    assert found is not None and found.trouble is None and found.kin
    assert relation(middle, PARENTS, 0) is None and relation(middle, CHILDREN, 0) is None


@pytest.mark.parametrize("how", ["gone", "another"])
def test_an_atlas_that_left_its_place_leaves_figures_without_labels(
    tied: Path, tmp_path: Path, how: str
) -> None:
    root = tmp_path / "runs"
    shutil.copytree(tied, root)
    shutil.rmtree(root / "s20" / "atlas")
    if how == "another":
        shutil.copytree(root / "s40" / "atlas", root / "s20" / "atlas")
    found = relation(opened_one(root, 10), CHILDREN, 0)
    assert found is not None and found.kin and found.trouble is not None
    assert ("no atlas is at" if how == "gone" else "of another SAE") in found.trouble
    assert "../../s20/atlas" in found.trouble and str(root) not in found.trouble
    assert all(kin.label is None and kin.n_both for kin in found.kin if kin.agrees)
    told = tree(opened_one(root, 10), 0)
    assert told["trouble"] == found.trouble
    assert all(child["children"] == [] for child in told["children"])


def opened_one(root: Path, size: int) -> Atlas:
    return load_atlas(root / f"s{size}" / "atlas")


def test_bad_pairs_are_one_clear_line(plain: Path, saes: Any, store: Any) -> None:
    small, middle, large = opened(plain)
    with pytest.raises(ConfigError, match=r"smaller atlas comes first.*the other order"):
        keep_splitting(middle, small, saes[1], saes[0], store)
    with pytest.raises(ConfigError, match="monoscope compare"):
        check_pair(small, small)
    with pytest.raises(MismatchError, match="made with another SAE"):
        keep_splitting(small, large, saes[0], saes[1], store)
    with pytest.raises(ConfigError, match="n_tokens is out of range"):
        keep_splitting(small, middle, saes[0], saes[1], store, n_tokens=0)
    with pytest.raises(ConfigError, match=r"tied to no larger one.*monoscope split"):
        tree(small, 0)
    with pytest.raises(LatentError, match="0 to 9"):
        tree(small, 10)
    elsewhere = Store(store.rows, store.docs, store.cuts, site="resid_post.2")
    with pytest.raises(MismatchError, match="different sites"):
        keep_splitting(small, middle, saes[0], saes[1], elsewhere)  # type: ignore[arg-type]
    foreign = load_atlas(middle.folder)
    foreign.manifest["model"] = {"model": "other", "weights": "f" * 64}
    with pytest.raises(MismatchError, match="different models"):
        check_pair(small, foreign)
    assert side.read_table(small, CHILDREN) is None and side.read_table(middle, PARENTS) is None


def test_only_one_command_writes_to_either_atlas(plain: Path, saes: Any, store: Any) -> None:
    small, middle, _ = opened(plain)
    for held in (small, middle):
        with folder_lock(held.folder, "index"), pytest.raises(OutputError, match="index"):
            keep_splitting(small, middle, saes[0], saes[1], store)
    assert side.read_table(small, CHILDREN) is None and side.read_table(middle, PARENTS) is None


def test_a_damaged_table_is_named_and_a_loop_ends(tied: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    shutil.copytree(tied, root)
    small, middle, _ = opened(root)
    table = side.read_table(middle, CHILDREN)
    assert table is not None
    rows = [
        row | {"atlas": "../../s10/atlas", "sae": small.manifest["sae"]["hash"]}
        for row in table.to_pylist()
    ]
    looped = type(table).from_pylist(rows, schema=schema.OPTIONAL[CHILDREN])
    schema.write_table(looped, CHILDREN, middle.folder / "children.parquet", middle.manifest)
    with pytest.raises(FormatError, match="table of children"):
        tree(small, 0)
    (small.folder / "children.parquet").write_bytes(b"PAR1")
    with pytest.raises(FormatError, match=r"children\.parquet is damaged"):
        small.feature(0)


def test_the_command_line_draws_the_tree_and_refuses_in_one_line(
    tied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*args: str) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as left:
            cli.main(list(args))
        told = capsys.readouterr()
        return left.value.code, told.out, told.err

    small, large = (str(tied / f"s{size}" / "atlas") for size in (10, 20))
    code, out, _ = said("features", small, "--children", "0")
    told = tree(load_atlas(small), 0)
    assert code == 0 and len(out.splitlines()) == 1 + sum(
        1 + len(child["children"]) for child in told["children"]
    )
    assert out.startswith("#0 of 10") and "of 40" in out
    code, out, _ = said("features", small, "--children", "0", "--json")
    assert code == 0 and json.loads(out) == told
    for args, line in (
        (("split", large, small, "--store", "x"), "the smaller atlas comes first"),
        (("split", small, large, "--store", "x"), "the atlas's SAE is not here"),
        (("split", small, small + "x", "--store", "x"), "is not an atlas"),
        (("features", small, "--children", "10"), "no such latent"),
        (("features", small, "--children", "1", "--id", "1"), "one question at a time"),
    ):
        code, out, err = said(*args)
        assert (code, out) == (2, "") and line in err and err.count("\n") == 1


def test_a_new_run_replaces_the_tie_of_the_same_side(
    tied: Path, saes: Any, store: Any, tmp_path: Path
) -> None:
    root = tmp_path / "runs"
    shutil.copytree(tied, root)
    small, _, large = opened(root)
    told = keep_splitting(small, large, saes[0], saes[2], store, n_tokens=200)
    found = relation(small, CHILDREN, 0)
    assert found is not None and (found.d_sae, found.n_tokens) == (40, 200)
    assert found.atlas == "../../s40/atlas"
    kept = pq.read_table(large.folder / "parents.parquet")
    assert told["n_children"] == len(kept) and told["n_agree"] == sum(kept["agrees"].to_pylist())
