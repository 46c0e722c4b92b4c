"""Reading a store back: shards, documents, statistics, and what is said when it is not well."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monoscope.data.harvest import collect
from monoscope.data.manifest import Manifest
from monoscope.data.norms import Moments
from monoscope.data.store import ActivationStore
from monoscope.errors import DataError, FormatError
from tests.unit.data.fake_lm import D, FakeLM, make_corpus

SMALL = {"held_out": 0.3, "context_length": 9, "max_doc_tokens": 25, "shard_tokens": 150}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "s"
    return collect(FakeLM(dtype=torch.bfloat16), make_corpus(60), "embed", 600, out, **SMALL)


def test_it_opens_again_as_it_was(store):
    again = ActivationStore.open(store.path)
    assert again.manifest == store.manifest
    assert (again.d_in, again.site, again.dtype) == (D, "embed", torch.bfloat16)
    assert again.identity == FakeLM().identity
    assert torch.equal(again.norm_stats.mean, store.norm_stats.mean)
    assert ActivationStore.open(str(store.path)).n_tokens() == store.n_tokens()
    assert ActivationStore.open(f"file://{store.path}").n_tokens() == store.n_tokens()


def test_counts_are_those_of_the_rows(store):
    for split in ("train", "held_out"):
        shards = [store.read(shard) for shard in store.shards(split)]
        assert len(shards) > 1
        assert sum(map(len, shards)) == store.n_tokens(split) > 0
        docs = [int(doc) for rows in shards for doc in rows.doc]
        assert docs == sorted(docs)
        assert store.n_documents(split) == len(list(store.documents(split)))
        assert set(docs) <= {doc.doc for doc in store.documents(split)}
    assert store.shards() == [*store.manifest.shards]
    assert store.n_documents() == store.n_documents("train") + store.n_documents("held_out")


def test_shards_have_the_promised_types_and_hold_whole_documents(store):
    seen = set()
    for shard in store.shards():
        rows = store.read(shard)
        assert rows.acts.shape == (shard.n_tokens, D)
        assert (rows.acts.dtype, rows.token_ids.dtype) == (torch.bfloat16, torch.int64)
        assert (rows.doc.dtype, rows.pos.dtype) == (torch.int64, torch.int32)
        here = set(rows.doc.tolist())
        assert not here & seen
        seen |= here


@pytest.mark.parametrize("batch_size", [1, 7, 10_000])
def test_batches_are_the_shards_in_order(store, batch_size):
    batches = list(store.batches("train", batch_size))
    assert all(0 < len(batch) <= batch_size for batch in batches)
    for name in ("acts", "token_ids", "doc", "pos"):
        whole = torch.cat([getattr(store.read(shard), name) for shard in store.shards("train")])
        assert torch.equal(torch.cat([getattr(batch, name) for batch in batches]), whole)


def test_documents_are_found_by_number(store):
    by_number = {doc.doc: doc for doc in store.documents()}
    wanted = [17, 3, 3, max(by_number)]
    wanted = [doc for doc in wanted if doc in by_number]
    found = store.get_documents(wanted)
    assert list(found) == sorted(set(wanted))
    assert all(found[doc] == by_number[doc] for doc in found)
    assert store.get_documents([]) == {}
    with pytest.raises(DataError, match="no document 999"):
        store.get_documents([3, 999])


def test_pieces_join_to_the_text(store):
    for doc in store.documents():
        pieces = [doc.text[start:end] for start, end in zip([0, *doc.ends], doc.ends, strict=False)]
        assert "".join(pieces) == doc.text
        assert len(pieces) == len(doc.token_ids)


def test_the_stream_gives_the_train_rows(store):
    stream = store.stream(64, seed=1)
    assert stream.n_rows == store.n_tokens("train")
    acts = torch.cat([store.read(shard).acts for shard in store.shards("train")]).float()
    rows = torch.cat([next(stream) for _ in range(2 + stream.n_rows // 64)])[: stream.n_rows]
    assert sorted(rows.tolist()) == sorted(acts.tolist())


def test_a_path_without_a_store_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "none", "memory://nothing/here"):
        with pytest.raises(FormatError, match="is not an activation store: got no manifest"):
            ActivationStore.open(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "newer monoscope: got schema_version 2; expected at most 1"),
        ({"format": "other"}, "not the manifest of an activation store"),
        ({"d_in": "wide"}, "damaged at d_in"),
        ({"colour": "red"}, "damaged at colour"),
        ({"mask_policy": {}}, "damaged: got 'special_ids'"),
        ({"train_moments": {"n": 1}}, "damaged: got 'mean'"),
    ],
)
def test_a_manifest_that_is_not_ours_or_too_new_is_named(store, tmp_path, change, message):
    data = json.loads((store.path / "manifest.json").read_text()) | change
    (tmp_path / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(FormatError, match=message):
        ActivationStore.open(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00", '"x"'])
def test_a_manifest_that_is_no_json_object_is_named(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(FormatError, match=r"manifest\.json is not"):
        ActivationStore.open(tmp_path)


def test_without_train_tokens_there_are_no_statistics(store):
    none = Moments.none(D).to_dict()
    empty = store.manifest.model_copy(update={"shards": [], "train_moments": none})
    bare = ActivationStore(store._folder, Manifest.model_validate(empty.model_dump()))
    with pytest.raises(DataError, match="no train tokens"):
        _ = bare.norm_stats
    with pytest.raises(DataError, match="got 0 tokens"):
        bare.stream(1, 0)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(0, 10_000))
def test_moments_of_parts_merge_to_those_of_the_whole(sizes, seed):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(sizes), 3, generator=draw, dtype=torch.float64) * 5 + 100
    merged = Moments.none(3)
    for part in x.split(sizes):
        merged = merged.merge(Moments.of(part))
        merged = Moments.from_dict(json.loads(json.dumps(merged.to_dict())))
    assert merged.n == len(x)
    if not len(x):
        return
    stats, norms = merged.stats(), x.norm(dim=1)
    assert torch.allclose(merged.mean, x.mean(0), rtol=1e-12)
    assert stats.mean_norm == pytest.approx(float(norms.mean()), rel=1e-12)
    variance = float((x - x.mean(0)).square().sum() / len(x))
    assert stats.total_variance == pytest.approx(variance, rel=1e-9, abs=1e-9)
    assert merged.norm_bins == Moments.of(x).norm_bins
    low, high = (
        norms.quantile(0.5, interpolation="lower"),
        norms.quantile(0.5, interpolation="higher"),
    )
    assert float(low) * 0.994 <= stats.median_norm <= float(high) * 1.006


def test_rows_of_zeros_have_a_median():
    stats = Moments.of(torch.zeros(4, 3)).stats()
    assert stats.mean_norm == stats.total_variance == 0
    assert stats.median_norm < 1e-30
