"""The atlas on disk and its read API, against the store and SAE it was made from."""

from __future__ import annotations

import errno
import json
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from monoscope.artifact.checks import weights_hash
from monoscope.errors import (
    ConfigError,
    DataError,
    FormatError,
    LatentError,
    MismatchError,
    OutputError,
)
from monoscope.features import schema
from monoscope.features.atlas import Atlas, load_atlas
from monoscope.features.index import index
from tests.unit.features.atlas_world import PIECES, FakeLM, FakeSAE, FakeStore, make_store

L, D = 40, 12
TABLES = sorted(schema.SCHEMAS)


@pytest.fixture(scope="module")
def store() -> FakeStore:
    return make_store(n_docs=90, d_in=D)


@pytest.fixture(scope="module")
def sae() -> FakeSAE:
    return FakeSAE(D, L, 5)


@pytest.fixture(scope="module")
def lm() -> FakeLM:
    return FakeLM(D)


@pytest.fixture(scope="module")
def dense(store: FakeStore, sae: FakeSAE) -> np.ndarray:
    return sae.encode(store.rows.acts).to_dense().numpy()


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, store: FakeStore, sae: FakeSAE, lm: FakeLM
) -> Atlas:
    return index(sae, store, lm, tmp_path_factory.mktemp("made") / "atlas", seed=4)


@pytest.fixture
def atlas(made: Atlas, tmp_path: Path) -> Atlas:
    """A copy that a test may change."""
    shutil.copytree(made.folder, tmp_path / "atlas")
    return load_atlas(tmp_path / "atlas")


# ---------------------------------------------------------------- what is on disk


@pytest.mark.parametrize("name", TABLES)
def test_tables_have_their_columns_and_nothing_else(made: Atlas, name: str) -> None:
    table = pq.read_table(made.folder / f"{name}.parquet")
    assert table.schema.remove_metadata().equals(schema.SCHEMAS[name])
    assert table.num_rows > 0
    rows = duckdb.sql(f"SELECT count(*) FROM '{made.folder}/{name}.parquet'").fetchall()
    assert rows == [(table.num_rows,)]


def test_the_folder_holds_the_tables_and_the_manifest_alone(made: Atlas) -> None:
    names = sorted(path.name for path in made.folder.iterdir())
    assert names == sorted([*(f"{name}.parquet" for name in (*TABLES, "map")), "atlas.json"])


def test_features_table(made: Atlas, dense: np.ndarray, store: FakeStore, lm: FakeLM,
                        sae: FakeSAE) -> None:  # fmt: skip
    rows = pq.read_table(made.folder / "features.parquet").to_pylist()
    assert [row["latent"] for row in rows] == list(range(L))
    doc = store.rows.doc.numpy()
    french = np.array([store.docs[d].meta["lang"] == "fr" for d in doc.tolist()])
    logits = lm.lens(sae.W_dec).numpy()
    for i, row in enumerate(rows):
        values = dense[dense[:, i] > 0, i].astype(np.float64)
        assert row["n_active"] == len(values)
        assert row["density"] == len(values) / len(dense)
        assert sum(row["hist"]) == len(values)
        shares = dict(row["meta_mass"])
        if len(values):
            assert row["mean"] == pytest.approx(values.mean(), rel=1e-12)
            assert row["std"] == pytest.approx(values.std(), rel=1e-9)
            assert row["max"] == values.max()
            expected = dense[french, i].astype(np.float64).sum() / values.sum()
            assert shares["lang=fr"] == pytest.approx(expected, rel=1e-12)
            assert shares["lang=fr"] + shares["lang=en"] == pytest.approx(1)
        else:
            assert row["max"] == row["mean"] == row["std"] == 0 and shares == {}
        order = np.argsort(-logits[i])
        assert row["top_tokens"] == [f" tok{t}" for t in order[:10]]
        assert row["bottom_tokens"] == [f" tok{t}" for t in order[::-1][:10]]
        np.testing.assert_allclose(row["top_logits"], logits[i, order[:10]], rtol=1e-6)
        np.testing.assert_allclose(row["bottom_logits"], logits[i, order[::-1][:10]], rtol=1e-6)
        assert all(row[name] is None for name in schema.LABEL_COLUMNS)


def test_examples_table(made: Atlas, dense: np.ndarray, store: FakeStore) -> None:
    rows = pq.read_table(made.folder / "examples.parquet").to_pylist()
    assert [row["latent"] for row in rows] == sorted(row["latent"] for row in rows)
    doc, pos = store.rows.doc.numpy(), store.rows.pos.numpy()
    value = {(d, p): z for d, p, z in zip(doc.tolist(), pos.tolist(), dense, strict=True)}
    edges = 0
    for row in rows:
        document = store.docs[row["doc"]]
        n, at = len(document.ends), row["pos"]
        assert row["start"] == max(0, at - 20)
        assert row["start"] + len(row["values"]) == min(n, at + 21)
        edges += len(row["values"]) < 41
        expected = [
            value[row["doc"], p][row["latent"]] if (row["doc"], p) in value else 0.0
            for p in range(row["start"], row["start"] + len(row["values"]))
        ]
        np.testing.assert_array_equal(np.float32(row["values"]), np.float32(expected))
        assert row["values"][at - row["start"]] == row["value"] > 0
        assert row["token"] == document.text[document.ends[at - 1] if at else 0 : document.ends[at]]
        assert (row["band"] is None) == (row["kind"] == "top")
    assert 0 < edges < len(rows)
    top = [(row["latent"], row["doc"]) for row in rows if row["kind"] == "top"]
    assert len(top) == len(set(top))  # one a document


def test_contexts_table(made: Atlas, store: FakeStore) -> None:
    rows = pq.read_table(made.folder / "contexts.parquet").to_pylist()
    examples = pq.read_table(made.folder / "examples.parquet", columns=["doc"])
    assert [row["doc"] for row in rows] == sorted(set(examples["doc"].to_pylist()))
    for row in rows:
        document = store.docs[row["doc"]]
        assert (row["text"], row["ends"]) == (document.text, document.ends)
        assert (row["token_ids"], row["split"]) == (document.token_ids, "train")
        assert json.loads(row["meta"]) == document.meta


def test_neighbours_table(made: Atlas) -> None:
    rows = pq.read_table(made.folder / "neighbours.parquet").to_pylist()
    groups: dict[tuple[int, str], list[dict]] = {}
    for row in rows:
        assert row["latent"] != row["other"]
        groups.setdefault((row["latent"], row["kind"]), []).append(row)
    assert {kind for _, kind in groups} == {"decoder", "coactivation"}
    assert sum(len(part) for (_, kind), part in groups.items() if kind == "decoder") == 10 * L
    assert (3, "coactivation") not in groups  # the dead latent
    for (_, kind), part in groups.items():
        figures = [row["cosine" if kind == "decoder" else "jaccard"] for row in part]
        assert figures == sorted(figures, reverse=True)
        assert [row["rank"] for row in part] == list(range(len(part)))
        assert kind == "decoder" or min(row["n_both"] for row in part) >= 5


def test_the_manifest_says_where_it_comes_from(
    made: Atlas, store: FakeStore, sae: FakeSAE, dense: np.ndarray
) -> None:
    manifest = json.loads((made.folder / "atlas.json").read_text())
    assert manifest == made.manifest
    assert manifest["schema_version"] == 1
    assert manifest["d_sae"] == made.n_features == L
    assert manifest["n_alive"] == made.n_alive == (dense > 0).any(0).sum() == L - 1
    assert manifest["n_tokens"] == len(dense) and manifest["n_tokens_asked"] is None
    assert manifest["n_documents"] == len(np.unique(store.rows.doc))
    assert manifest["l0"] == (dense > 0).sum() / len(dense)
    assert manifest["model"] == store.identity and manifest["site"] == "resid_post.1"
    assert manifest["sae"]["hash"] == weights_hash(sae)
    assert manifest["sae"]["config"]["k"] == 5
    assert manifest["mask_policy"]["max_norm"] == 9.0
    assert manifest["norm_stats"] == {"mean_norm": 2.0, "median_norm": 1.5}
    assert manifest["corpus"] == {"name": "made up"} and manifest["attribution"] == ["nobody"]
    assert len(manifest["histogram_edges"]) == len(made.feature(0).hist) + 1
    assert manifest["coactivation"] == {"exact": True, "n_tokens": len(dense), "least": 5}
    assert manifest["lens"] == {"available": True, "reason": None}
    share = manifest["meta_share"]
    assert share["lang=en"] + share["lang=fr"] == pytest.approx(1)
    summary = made.to_json()
    assert set(summary) == {"n_features", "n_alive", "n_tokens", "tokens_per_s", "out"}
    assert json.loads(json.dumps(summary))["tokens_per_s"] > 0


def test_the_same_run_gives_the_same_tables_and_another_seed_other_samples(
    made: Atlas, store: FakeStore, sae: FakeSAE, lm: FakeLM, tmp_path: Path
) -> None:
    again = index(sae, store, lm, tmp_path / "again", seed=4, batch_size=33)
    for name in TABLES:
        file = f"{name}.parquet"
        assert (again.folder / file).read_bytes() == (made.folder / file).read_bytes()
    other = index(sae, store, lm, tmp_path / "other", seed=5)

    def examples(atlas: Atlas, kind: str) -> list[tuple[int, int]]:
        rows = pq.read_table(atlas.folder / "examples.parquet").to_pylist()
        return [(row["doc"], row["pos"]) for row in rows if row["kind"] == kind]

    assert examples(made, "top") == examples(other, "top")
    assert examples(made, "band") != examples(other, "band")


def test_the_real_sae_and_no_language_model(store: FakeStore, tmp_path: Path) -> None:
    from monoscope.sae import SAE, SAEConfig

    torch.manual_seed(0)
    sae = SAE(SAEConfig(d_in=D, d_sae=L, k=4, activation="topk"))
    with torch.no_grad():
        sae.W_enc.normal_()
        sae.W_dec.normal_()
    atlas = index(sae, store, out=tmp_path / "atlas")
    count = (sae.encode(store.rows.acts).to_dense() > 0).sum(0)
    found = pq.read_table(atlas.folder / "features.parquet")
    assert found["n_active"].to_pylist() == count.tolist()
    assert found["top_tokens"].null_count == L and atlas.feature(0).top_tokens is None
    assert atlas.manifest["lens"]["reason"] == "no language model was given"


def test_a_site_outside_the_residual_stream_has_no_lens(
    store: FakeStore, sae: FakeSAE, tmp_path: Path
) -> None:
    atlas = index(sae, store, FakeLM(D + 1, site_width=D), tmp_path / "atlas", n_tokens=50)
    assert atlas.feature(0).top_tokens is None
    assert "do not live in the residual stream (13)" in atlas.manifest["lens"]["reason"]


# ---------------------------------------------------------------- bad input


def test_parts_that_do_not_belong_together(
    store: FakeStore, sae: FakeSAE, lm: FakeLM, tmp_path: Path
) -> None:
    with pytest.raises(MismatchError, match=r"d_in 7; expected d_in 12"):
        index(FakeSAE(7, L, 5), store, lm, tmp_path / "a")
    elsewhere = FakeSAE(D, L, 5)
    elsewhere.provenance["site"] = "resid_post.2"
    with pytest.raises(MismatchError, match=r"trained at resid_post\.2; expected resid_post\.1"):
        index(elsewhere, store, lm, tmp_path / "a")
    other = FakeSAE(D, L, 5)
    other.provenance["model"] = {"model": "gpt2", "weights": "c" * 64}
    with pytest.raises(MismatchError, match=r"trained on gpt2 .*; expected made-up"):
        index(other, store, lm, tmp_path / "a")
    stranger = FakeLM(D)
    stranger.identity = {"model": "made-up", "tokenizer": "d" * 64}
    with pytest.raises(MismatchError, match=r"another tokenizer than the store's: got the model"):
        index(sae, store, stranger, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_the_same_weights_under_another_name_are_the_same_model(
    store: FakeStore, tmp_path: Path
) -> None:
    renamed = FakeSAE(D, L, 5)
    renamed.provenance["model"] = {**store.identity, "model": "/other/place"}
    assert index(renamed, store, out=tmp_path / "a", n_tokens=20).manifest["n_tokens"] == 20


@pytest.mark.parametrize("bad", [{"n_tokens": 0}, {"n_tokens": -3}, {"batch_size": 0}])
def test_numbers_out_of_range(store: FakeStore, sae: FakeSAE, tmp_path: Path, bad: dict) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        index(sae, store, out=tmp_path / "a", **bad)


def test_more_tokens_than_there_are(store: FakeStore, sae: FakeSAE, tmp_path: Path) -> None:
    atlas = index(sae, store, out=tmp_path / "a", n_tokens=10**9)
    assert atlas.manifest["n_tokens"] == store.n_tokens()
    assert atlas.manifest["n_tokens_asked"] == 10**9


def test_a_folder_that_holds_something_else_is_left_alone(
    store: FakeStore, sae: FakeSAE, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    store.reads = 0
    with pytest.raises(OutputError, match=r"holds something else: got thesis\.txt"):
        index(sae, store, out=tmp_path)
    assert store.reads == 0  # said before the work, not after
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_failed_index_leaves_the_old_atlas(atlas: Atlas, sae: FakeSAE) -> None:
    broken = make_store(n_docs=20, d_in=D)
    broken.rows.acts[17, 0] = torch.nan
    with pytest.raises(DataError):
        index(sae, broken, out=atlas.folder)
    assert load_atlas(atlas.folder).feature(1).examples == atlas.feature(1).examples


@pytest.mark.parametrize("failing", [0, 2, 3])
def test_a_full_disk_leaves_the_old_atlas_whole(
    atlas: Atlas, sae: FakeSAE, store: FakeStore, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    before = {path.name: path.read_bytes() for path in atlas.folder.iterdir()}
    write, calls = pq.write_table, []

    def full(table: object, where: Path, **options: object) -> None:
        calls.append(where)
        if len(calls) > failing:
            where.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(table, where, **options)

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OutputError, match="disk is full"):
        index(sae, store, out=atlas.folder, n_tokens=99)
    assert {path.name: path.read_bytes() for path in atlas.folder.iterdir()} == before
    if failing == 0:
        calls.clear()
        with pytest.raises(OutputError, match="disk is full"):
            atlas.set_labels([{"latent": 0, "label": "x"}])
        assert {path.name: path.read_bytes() for path in atlas.folder.iterdir()} == before


def test_what_a_killed_index_left_is_cleared_away(
    store: FakeStore, sae: FakeSAE, tmp_path: Path
) -> None:
    (tmp_path / ".features.parquet.0123.part").write_bytes(b"half")
    (tmp_path / "examples.parquet").write_bytes(b"from a first run that never finished")
    atlas = index(sae, store, out=tmp_path, n_tokens=99)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*(f"{name}.parquet" for name in (*TABLES, "map")), "atlas.json"]
    )
    assert atlas.manifest["n_tokens"] == 99


# ---------------------------------------------------------------- damage


def test_no_atlas_there(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"is not an atlas.*Make one with `monoscope index`"):
        load_atlas(tmp_path)


def test_a_newer_schema(atlas: Atlas) -> None:
    write(atlas, schema_version=2)
    with pytest.raises(FormatError, match=r"newer monoscope: got schema_version 2; expected at m"):
        load_atlas(atlas.folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "other"}', '{"format":"monoscope.atlas"}'])
def test_a_manifest_that_is_none(atlas: Atlas, text: str) -> None:
    (atlas.folder / "atlas.json").write_text(text)
    with pytest.raises(FormatError, match=r"atlas\.json"):
        load_atlas(atlas.folder)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("damage", ["missing", "truncated", "other columns", "other run"])
def test_a_damaged_table_is_named(atlas: Atlas, name: str, damage: str) -> None:
    path = atlas.folder / f"{name}.parquet"
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "other columns":
        table = pq.read_table(path)
        pq.write_table(table.drop_columns([table.column_names[-1]]), path)
    else:
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata({schema.BUILD: b"0123"}), path)
    with pytest.raises(FormatError, match=rf"{name}\.parquet"):
        load_atlas(atlas.folder)


def test_a_table_that_goes_bad_later_is_named(atlas: Atlas) -> None:
    atlas.feature(0)
    (atlas.folder / "examples.parquet").unlink()
    with pytest.raises(FormatError, match=r"examples\.parquet"):
        atlas.feature(0)


def write(atlas: Atlas, **changes: object) -> None:
    path = atlas.folder / "atlas.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# ---------------------------------------------------------------- pages


def test_a_feature_page(made: Atlas, store: FakeStore, dense: np.ndarray) -> None:
    feature = made.feature(6)
    assert feature.n_active == (dense[:, 6] > 0).sum() and feature.max == dense[:, 6].max()
    assert len(feature.top) == 20
    assert [e.kind for e in feature.examples] == sorted(
        (e.kind for e in feature.examples), reverse=True
    )
    assert feature.top[0].value == feature.max
    assert {e.band for e in feature.examples if e.kind == "band"} <= set(range(5))
    assert feature.band(4) and all(e.value >= 0.8 * feature.max for e in feature.band(4))
    for example in feature.examples:
        document = store.docs[example.doc]
        assert example.text in document.text
        assert example.pieces[example.peak] == example.token
        assert example.values[example.peak] == example.value
        assert len(example.pieces) == len(example.values)
        assert (example.meta, example.split) == (document.meta, "train")
    decoder = [n for n in feature.neighbours if n.kind == "decoder"]
    assert [n.rank for n in decoder] == list(range(10))
    assert feature.label is feature.label_rule is None
    assert json.loads(json.dumps(feature.to_json()))["latent"] == 6


def test_pieces_of_text_that_tokens_cut_in_the_middle_of_a_character(tmp_path: Path) -> None:
    """A token that only continues a character is an empty piece; the pieces join to the text."""
    store = make_store(n_docs=20, d_in=D, longest=9)
    for number, document in list(store.docs.items()):
        ids = document.token_ids
        ends = [min(2 * (i // 3 + 1), 2 * len(ids)) for i in range(len(ids))]
        text = "日本" * len(ids)
        store.docs[number] = type(document)(
            number, "train", text[: ends[-1]], ids, ends, document.meta
        )
    atlas = index(FakeSAE(D, L, 5), store, out=tmp_path / "atlas")
    example = next(e for e in atlas.feature(0).examples if e.pos >= 4)
    assert "" in example.pieces and "日本" in example.pieces
    assert example.text == store.docs[example.doc].text[: len(example.text)]


def test_a_dead_latent_has_a_page_without_examples(made: Atlas) -> None:
    feature = made.feature(3)
    assert feature.n_active == 0 and feature.examples == [] and feature.meta_mass == {}
    assert {n.kind for n in feature.neighbours} == {"decoder"}


@pytest.mark.parametrize("latent", [-1, L, 10**12, "1", 2.0, True])
def test_a_latent_out_of_range(made: Atlas, latent: object) -> None:
    with pytest.raises(
        LatentError,
        match=rf"no such latent: got {latent}; expected 0 to {L - 1}.*features .* lists",
    ):
        made.feature(latent)  # type: ignore[arg-type]


def test_a_latent_may_be_any_whole_number(made: Atlas) -> None:
    assert made.feature(np.int64(5)) == made.feature(5)  # type: ignore[arg-type]


def test_strange_folder_names(made: Atlas, tmp_path: Path) -> None:
    folder = tmp_path / "it's [a] *? folder; DROP"
    shutil.copytree(made.folder, folder)
    assert load_atlas(folder).feature(5).examples == made.feature(5).examples


def test_several_threads_may_ask_at_once(made: Atlas) -> None:
    atlas = load_atlas(made.folder)
    with ThreadPoolExecutor(4) as pool:
        pages = list(pool.map(atlas.feature, list(range(L)) * 2))
    assert [page.latent for page in pages] == list(range(L)) * 2
    assert pages[7] == made.feature(7)


def test_reading_an_atlas_needs_no_torch(made: Atlas) -> None:
    code = (
        "import sys; from monoscope.features.atlas import load_atlas\n"
        f"a = load_atlas({str(made.folder)!r}); a.feature(1); a.search('paris'); a.list()\n"
        "assert 'torch' not in sys.modules and 'numba' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------- lists and search


def test_lists_are_sorted_and_paged(made: Atlas, dense: np.ndarray) -> None:
    density = (dense > 0).mean(0)
    rows = made.list(sort="density", limit=1000)
    assert [r.density for r in rows] == sorted(density[density > 0].tolist(), reverse=True)
    assert len(rows) == L - 1 and all(r.latent != 3 for r in rows)
    assert len(made.list(sort="latent", alive_only=False, limit=1000)) == L
    up = made.list(sort="max", descending=False, limit=5)
    assert [r.max for r in up] == sorted(dense.max(0)[dense.max(0) > 0].tolist())[:5]
    assert made.list(sort="density", limit=3, offset=4) == rows[4:7]
    assert [r.latent for r in made.list(sort="latent", descending=False, limit=3)] == [0, 1, 2]
    assert rows[0].hist == made.feature(rows[0].latent).hist
    peaks = [e.token for e in made.feature(rows[0].latent).top]
    assert rows[0].tokens[0] in peaks
    assert peaks.count(rows[0].tokens[0]) == max(peaks.count(t) for t in peaks)


def test_dense_latents_are_those_active_on_more_than_that_share(
    made: Atlas, dense: np.ndarray
) -> None:
    density = (dense > 0).mean(0)
    for share in (0.1, 0.25, float(np.median(density)), 1.0):
        assert made.dense(share) == set(np.flatnonzero(density > share).tolist())
    assert made.dense() == made.dense(0.1)


def test_an_unknown_order_names_the_nearest(made: Atlas) -> None:
    with pytest.raises(ConfigError, match=r"got 'densty'.*Did you mean density\?"):
        made.list(sort="densty")
    with pytest.raises(ConfigError):
        made.list(sort="latent; DROP TABLE features")


def test_search_finds_tokens_and_logits_whatever_the_case(made: Atlas) -> None:
    rows = made.search("PARIS", limit=100)
    firing = {
        i for i in range(L) if any(e.token == " Paris" for e in made.feature(i).examples)
    }  # fmt: skip
    inside = rows[len(firing) :]  # "comparison" holds "paris" too, so it is found, but last
    rows = rows[: len(firing)]
    assert {r.latent for r in rows} == firing
    assert {(r.match, r.matched) for r in rows} == {("token", " Paris")}
    assert {(r.match, r.matched) for r in inside} == {("token", " comparison")}
    hits = [sum(e.token == " Paris" for e in made.feature(r.latent).examples) for r in rows]
    assert hits == sorted(hits, reverse=True)
    logits = made.search("tok17", limit=100)
    assert {r.match for r in logits} == {"logit"}
    assert all(" tok17" in (made.feature(r.latent).top_tokens or []) for r in logits)
    assert len(made.search("paris", limit=2)) == 2
    assert made.search("nowhere to be found") == made.search("  ") == []


def test_search_puts_labels_before_tokens_before_logits(
    store: FakeStore, sae: FakeSAE, tmp_path: Path
) -> None:
    class Speaking(FakeLM):
        def token_text(self, token_id: int) -> str:
            return PIECES[token_id % len(PIECES)]

    atlas = index(sae, store, Speaking(D), tmp_path / "atlas", n_tokens=120)
    atlas.set_labels(
        [
            {"latent": 0, "label": "of Rome", "label_f1": 0.2},
            {"latent": 1, "label": '" rome"', "label_f1": 0.9},
            {"latent": 3, "label": "chromed", "label_f1": 1.0},
        ]
    )
    rows = atlas.search("rome", limit=100)
    kinds = [row.match for row in rows]
    assert [row.latent for row in rows[:2]] == [1, 0]  # the better label first
    middle = kinds[2:-1] if kinds[-1] == "label" else kinds[2:]
    assert middle == sorted(middle, reverse=True) and set(middle) == {"token", "logit"}
    starts = [row.latent for row in rows if row.matched == "chromed"]
    assert starts in ([], [3]) and (not starts or rows[-1].latent == 3)  # inside a word: last
    atlas.annotate(5, "Rome")
    assert atlas.search("rome")[0].latent == 5  # a human's label before any rule's


def test_words_inside_other_words_come_last(atlas: Atlas) -> None:
    atlas.set_labels([{"latent": 3, "label": "a comparison"}, {"latent": 4, "label": "par avion"}])
    first = atlas.search("par")[0]
    assert (first.latent, first.match) == (4, "label")
    rows = atlas.search("paris", limit=1000)
    words = [row.matched for row in rows]
    assert words == sorted(words, key=lambda word: "comparison" in (word or ""))
    assert words[0] == " Paris" and "a comparison" in words
    assert [row.latent for row in atlas.search("a comparison", limit=1)] == [3]


def test_every_word_must_be_found(atlas: Atlas) -> None:
    atlas.set_labels([{"latent": 9, "label": "capital of Peru"}])
    assert [r.latent for r in atlas.search("peru capital")] == [9]
    both = {r.latent for r in atlas.search("paris rome", limit=100)}
    each = [{r.latent for r in atlas.search(w, limit=100)} for w in ("paris", "rome")]
    assert both == each[0] & each[1]


def test_quotes_find_one_token_exactly(made: Atlas) -> None:
    assert made.search('"paris"') == made.search('" paris"') == made.search('"Paris"') == []
    exact = made.search('" Paris"', limit=100)
    found = made.search("paris", limit=100)
    assert {r.latent for r in exact} == {r.latent for r in found if r.matched == " Paris"}
    assert all(r.matched == "\n" for r in made.search('"\n"', limit=100))


@pytest.mark.parametrize(
    "query", ["%", "_", "'", '"', "'; DROP TABLE features; --", "a\\", "(", "$1"]
)
def test_what_is_searched_for_is_never_code(made: Atlas, query: str) -> None:
    assert made.search(query, limit=5) == []
    assert made.n_features == len(made.list(limit=100, alive_only=False))


def test_interest_prefers_measured_labels_varied_words_of_its_own_and_middling_density(
    atlas: Atlas, dense: np.ndarray
) -> None:
    tops = {i: atlas.feature(i).top for i in range(atlas.n_features)}
    tokens = {i: [e.token.strip(" ").lower() for e in top] for i, top in tops.items()}
    owners = Counter(token for own in tokens.values() for token in set(own))
    for row in atlas.list(sort="interest", limit=100):
        top, own = tops[row.latent], tokens[row.latent]
        variety = len(set(own))
        good = [min(1, 2 / owners[t]) if len(t) > 3 and t.isalpha() else 0 for t in own]
        density = (dense[:, row.latent] > 0).mean()
        commonness = np.exp(-((np.log10(density) + 3) ** 2) / 2)
        evidence = min(len(top) / 20, 1) * min(variety / 4, 1) * np.mean(good)
        expected = 0.05 * commonness * evidence
        assert row.interest == pytest.approx(expected, rel=1e-9)
    before = {r.latent: r.interest for r in atlas.list(limit=100)}
    assert before[5] > 0
    atlas.set_labels(
        [
            {"latent": 5, "label": "good", "label_f1": 0.9, "label_base": 0.1},
            {"latent": 6, "label": "no better than chance", "label_f1": 0.1, "label_base": 0.1},
        ]
    )
    after = {r.latent: r.interest for r in atlas.list(limit=100)}
    assert after[5] == pytest.approx(before[5] * 0.8 / 0.05)
    assert after[6] == 0
    assert min(after.values()) >= 0 and max(after.values()) <= 1


# ---------------------------------------------------------------- labels


def test_set_labels_rewrites_the_label_columns_alone(atlas: Atlas) -> None:
    before = pq.read_table(atlas.folder / "features.parquet")
    row = {
        "latent": 12, "label": "« ünïcode »", "label_rule": '{"kind": "any", "x": [1]}',
        "label_method": "rule", "label_f1": 0.5, "label_auc": 0.75, "label_base": 0.01,
    }  # fmt: skip
    atlas.set_labels([row])
    atlas.set_labels([{"latent": 0, "label": "first"}])
    after = pq.read_table(atlas.folder / "features.parquet")
    kept = [name for name in before.column_names if name not in schema.LABEL_COLUMNS]
    assert after.select(kept).equals(before.select(kept))
    for page in (atlas.feature(12), load_atlas(atlas.folder).feature(12)):
        assert (page.label, page.label_method) == ("« ünïcode »", "rule")
        assert (page.label_f1, page.label_auc, page.label_base) == (0.5, 0.75, 0.01)
        assert page.label_rule == {"kind": "any", "x": [1]}
    assert atlas.feature(0).label == "first" and atlas.feature(1).label is None
    assert [r.latent for r in atlas.list(sort="label_score", limit=1)] == [12]
    assert {i: text for i, text in atlas.labels().items() if text} == {
        0: "first", 12: "« ünïcode »",
    }  # fmt: skip
    near = atlas.feature(12).neighbours[0].other
    atlas.set_labels([{"latent": near, "label": "next door"}])
    assert atlas.feature(12).neighbours[0].label == "next door"


def test_labels_that_cannot_be_set_change_nothing(atlas: Atlas) -> None:
    before = (atlas.folder / "features.parquet").read_bytes()
    with pytest.raises(LatentError):
        atlas.set_labels([{"latent": 1, "label": "a"}, {"latent": L, "label": "b"}])
    with pytest.raises(ConfigError, match="lable"):
        atlas.set_labels([{"latent": 1, "lable": "a"}])
    assert (atlas.folder / "features.parquet").read_bytes() == before


def test_a_humans_label_wins_and_is_kept_apart(atlas: Atlas) -> None:
    atlas.set_labels([{"latent": 8, "label": "rule's", "label_f1": 0.7, "label_method": "rule"}])
    atlas.annotate(8, "  mine ")
    page = load_atlas(atlas.folder).feature(8)
    assert (page.label, page.label_method, page.rule_label) == ("mine", "human", "rule's")
    assert page.label_f1 is None  # the score is the rule's, not the human's
    assert atlas.annotations() == {8: "mine"} and atlas.labels()[8] == "mine"
    assert atlas.search("mine")[0].latent == 8
    assert atlas.search("rule's") == []
    atlas.annotate(8, "")
    assert (atlas.feature(8).label, atlas.feature(8).label_f1) == ("rule's", 0.7)
    with pytest.raises(LatentError):
        atlas.annotate(L, "none such")


def test_reindexing_never_touches_the_annotations(
    atlas: Atlas, store: FakeStore, sae: FakeSAE, lm: FakeLM
) -> None:
    atlas.annotate(8, "mine")
    atlas.set_labels([{"latent": 8, "label": "rule's"}])
    (atlas.folder / "labels.json").write_text("{}")
    path = atlas.folder / "annotations.sqlite"
    before, stamp = path.read_bytes(), path.stat().st_mtime_ns
    again = index(sae, store, lm, atlas.folder, n_tokens=500)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, stamp)
    page = again.feature(8)
    assert (page.label, page.rule_label) == ("mine", None)
    assert again.manifest["n_tokens"] == 500
    assert not (atlas.folder / "labels.json").exists()  # it spoke of labels that are gone


def test_another_saes_latents_do_not_inherit_the_labels(
    atlas: Atlas, store: FakeStore, sae: FakeSAE
) -> None:
    atlas.annotate(8, "mine")
    other = FakeSAE(D, L, 5, seed=1)
    assert index(other, store, out=atlas.folder).annotations() == {}
    assert index(sae, store, out=atlas.folder).annotations() == {8: "mine"}


def test_annotations_are_write_ahead_and_reading_makes_no_file(atlas: Atlas) -> None:
    assert atlas.annotations() == {} and atlas.feature(0).label is None
    assert not (atlas.folder / "annotations.sqlite").exists()
    atlas.annotate(0, "x'); DROP TABLE annotations; --")
    assert atlas.annotations() == {0: "x'); DROP TABLE annotations; --"}
    with sqlite3.connect(atlas.folder / "annotations.sqlite") as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    db.close()


def test_a_damaged_annotations_file_is_named(atlas: Atlas) -> None:
    (atlas.folder / "annotations.sqlite").write_bytes(b"not a database, but long enough" * 9)
    with pytest.raises(FormatError, match=r"annotations\.sqlite is damaged"):
        atlas.annotations()
