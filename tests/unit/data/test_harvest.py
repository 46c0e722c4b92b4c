"""What `collect` stores, against activations worked out one document at a time."""

from __future__ import annotations

import dataclasses
import math
import statistics

import pytest
import torch

from monoscope.data.corpus import Corpus, Document
from monoscope.data.harvest import HarvestProgress, collect
from monoscope.data.windows import Window, batch_windows, cut_windows
from monoscope.errors import (
    ConfigError,
    CorpusError,
    DataError,
    FormatError,
    MismatchError,
    OutputError,
    SiteError,
)
from monoscope.files import LOCK
from monoscope.locks import folder_lock
from tests.unit.data.fake_lm import SINK, D, FakeCorpus, FakeLM, by_hand, make_corpus

SITE = "resid_post.0"
SMALL = {
    "held_out": 0.3,
    "context_length": 9,
    "max_doc_tokens": 25,
    "batch_tokens": 50,
    "shard_tokens": 150,
}


def stored_rows(store, split):
    rows = {}
    for batch in store.batches(split, 7):
        for i in range(len(batch)):
            key = int(batch.doc[i]), int(batch.pos[i])
            assert key not in rows
            rows[key] = batch.acts[i], int(batch.token_ids[i])
    return rows


@pytest.mark.parametrize("prefix", [(), (1,), (1, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_kept_token_has_the_activation_of_its_own_window(tmp_path, prefix, dtype):
    lm, corpus = FakeLM(prefix_ids=prefix, dtype=dtype), make_corpus(60)
    store = collect(lm, corpus, SITE, 700, tmp_path / "s", **SMALL)
    n_read = store.manifest.n_documents_read
    expected = by_hand(lm, corpus, n_read, 9 - len(prefix), 25, 0.3)

    first = [len(lm.encode_one(d.text).ids[:25]) for d in corpus.documents]
    size = next(n for n in range(1, 61) if sum(first[:n]) >= 150)
    norms = sorted(float(x.float().norm()) for (doc, _), x in expected.rows.items() if doc < size)
    limit = 10 * norms[(len(norms) - 1) // 2]
    assert store.mask_policy.max_norm == pytest.approx(limit, rel=1e-6)
    kept = {key: x for key, x in expected.rows.items() if float(x.float().norm()) <= limit}
    dropped = expected.rows.keys() - kept.keys()
    assert dropped
    assert {expected.token_ids[key] for key in dropped} == {SINK}

    for split in ("train", "held_out"):
        rows = stored_rows(store, split)
        assert list(rows) == sorted(rows)
        assert rows.keys() == {key for key in kept if expected.split[key[0]] == split}
        for key, (x, token) in rows.items():
            assert token == expected.token_ids[key]
            assert x.dtype == dtype
            assert torch.equal(x, kept[key])


def test_documents_are_stored_with_all_their_tokens_and_the_text_these_cover(tmp_path):
    lm, corpus = FakeLM(), make_corpus(40)
    store = collect(lm, corpus, SITE, 400, tmp_path / "s", **SMALL)
    docs = {doc.doc: doc for doc in store.documents()}
    for number, document in enumerate(corpus.documents[: store.manifest.n_documents_read]):
        tokens = lm.encode_one(document.text)
        if number not in docs:  # nothing was kept of its whole group and split
            continue
        assert docs[number].token_ids == tokens.ids[:25]
        assert docs[number].ends == tokens.ends[:25]
        assert docs[number].text == document.text[: tokens.ends[:25][-1]]
        assert docs[number].meta == document.meta
    assert {s.doc for s in store.documents("held_out")}.isdisjoint(
        {s.doc for s in store.documents("train")}
    )
    long = sum(len(lm.encode_one(d.text).ids) > 25 for d in corpus.documents[: len(docs)])
    assert store.manifest.n_documents_cut == long > 0
    assert len(docs) == store.manifest.n_documents()


def test_the_manifest_says_where_everything_comes_from(tmp_path):
    lm, corpus = FakeLM(), make_corpus(40)
    store = collect(lm, corpus, SITE, 300, tmp_path / "s", seed=5, **SMALL)
    manifest = store.manifest
    assert (manifest.identity, manifest.site, manifest.d_in) == (lm.identity, SITE, D)
    assert manifest.corpus == corpus.description
    assert manifest.corpus_fingerprint == corpus.fingerprint
    assert manifest.attribution == ["nobody"]
    assert manifest.prefix_ids == [1]
    assert manifest.arguments.seed == 5
    assert manifest.complete
    assert not manifest.exhausted
    assert store.mask_policy.special_ids == (0, 1, 2)


@pytest.mark.parametrize("n_tokens", [1, 149, 151, 700])
def test_it_stops_soon_after_enough_tokens_were_kept(tmp_path, n_tokens):
    store = collect(FakeLM(), make_corpus(80), SITE, n_tokens, tmp_path / "s", **SMALL)
    surplus = max(25, math.ceil(0.3 * n_tokens))
    assert n_tokens <= store.n_tokens() <= n_tokens + surplus
    assert store.n_tokens() == store.n_tokens("train") + store.n_tokens("held_out")


def test_a_mask_that_drops_much_is_allowed_for(tmp_path):
    """Half of the tokens are special: groups are sized by what is kept, not by what is read."""
    corpus = FakeCorpus([Document(f"oak{i} <eos> elm{i} <eos>") for i in range(400)])
    arguments = SMALL | {"held_out": 0.0}
    store = collect(FakeLM(), corpus, SITE, 290, tmp_path / "s", **arguments)
    assert 290 <= store.n_tokens() <= 300
    assert len(store.shards()) == 4  # 3 of 75 and the rest, not ever smaller ones


def test_norm_statistics_are_those_of_the_train_rows_in_fp64(tmp_path):
    store = collect(FakeLM(), make_corpus(80), SITE, 700, tmp_path / "s", **SMALL)
    x = torch.cat([store.read(s).acts for s in store.shards("train")]).double()
    norms = x.norm(dim=1)
    stats = store.norm_stats
    assert torch.allclose(stats.mean, x.mean(0).float(), atol=1e-6)
    assert stats.mean_norm == pytest.approx(float(norms.mean()), rel=1e-12)
    assert stats.median_norm == pytest.approx(statistics.median(norms.tolist()), rel=0.01)
    variance = float((x - x.mean(0)).square().sum(1).mean())
    assert stats.total_variance == pytest.approx(variance, rel=1e-12)


def test_windows_tile_documents_and_batches_stay_within_their_size():
    lengths = [0, 1, 8, 9, 16, 25, 3]
    windows = cut_windows(lengths, 8)
    assert [w.length for w in windows] == [1, 8, 8, 1, 8, 8, 8, 8, 8, 1, 3]
    assert [w.start for w in windows] == [0, 1, 9, 17, 18, 26, 34, 42, 50, 58, 59]
    batches = batch_windows(windows, 2, 30)
    assert sorted((w for b in batches for w in b), key=lambda w: w.start) == windows
    for batch in batches:
        assert len(batch) * (2 + max(w.length for w in batch)) <= 30
    assert batch_windows([Window(0, 50)], 1, 30) == [[Window(0, 50)]]


def test_forward_passes_are_full_and_hardly_padded(tmp_path):
    lm = FakeLM()
    store = collect(
        lm, make_corpus(80), SITE, 900, tmp_path / "s", **(SMALL | {"shard_tokens": 900})
    )
    assert all(b * s <= 50 for b, s in lm.shapes)
    n_windows = sum(b for b, _ in lm.shapes)
    padded = sum(b * s for b, s in lm.shapes)
    assert padded <= 1.05 * (store.manifest.n_tokens_read + n_windows)


def test_a_very_long_document_is_tokenised_only_as_far_as_needed(tmp_path):
    lm = FakeLM()
    corpus = FakeCorpus([Document("oak " * 50_000), Document("a" * 30_000 + " elm" * 40)])
    store = collect(lm, corpus, SITE, 50, tmp_path / "s", **(SMALL | {"held_out": 0.0}))
    assert lm.encoded_chars < 40_000
    docs = store.get_documents([0, 1])
    assert len(docs[0].token_ids) == len(docs[1].token_ids) == 25
    assert docs[1].text == "a" * 30_000 + " elm" * 24


def test_a_finished_store_is_reused_without_touching_model_or_files(tmp_path):
    corpus = make_corpus(40)
    collect(FakeLM(), corpus, SITE, 300, tmp_path / "s", **SMALL)
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "s").iterdir()}
    heard: list[HarvestProgress] = []
    lm = FakeLM(fail_after=0)
    again = collect(lm, corpus, SITE, 300, tmp_path / "s", seed=9, progress=heard.append, **SMALL)
    assert again.manifest.complete
    assert [event.phase for event in heard] == ["reused"]
    after = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "s").iterdir()}
    assert after == before


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("name", "lm", "change"),
    [
        ("another model", {"identity": {"model": "gpt9", "weights": "w0", "tokenizer": "t0"}}, {}),
        ("weights", {"identity": {"model": "fake", "weights": "w1", "tokenizer": "t0"}}, {}),
        ("tokenizer", {"identity": {"model": "fake", "weights": "w0", "tokenizer": "t1"}}, {}),
        ("model dtype", {"dtype": torch.bfloat16}, {}),
        ("prefix", {"prefix_ids": ()}, {}),
        ("special tokens", {"special_ids": frozenset({0, 1})}, {}),
        ("site", {}, {"site": "resid_post.1"}),
        ("corpus", {}, {"corpus": make_corpus(80, seed=1)}),
        ("n_tokens", {}, {"n_tokens": 701}),
        ("held_out", {}, {"held_out": 0.2}),
        ("context_length", {}, {"context_length": 10}),
        ("max_doc_tokens", {}, {"max_doc_tokens": 24}),
        ("batch_tokens", {}, {"batch_tokens": 51}),
        ("shard_tokens", {}, {"shard_tokens": 149}),
        ("sink_ratio", {}, {"sink_ratio": 9.0}),
    ],
)
def test_going_on_with_something_else_names_the_difference(tmp_path, finished, name, lm, change):
    arguments = {"corpus": make_corpus(80), "site": SITE, "n_tokens": 700, **SMALL}
    arguments["out"] = tmp_path / "s"
    if finished:
        collect(FakeLM(), **arguments)
    else:
        with pytest.raises(ConnectionError):
            collect(FakeLM(fail_after=9), **arguments)
    before = {p.name: p.read_bytes() for p in (tmp_path / "s").iterdir()}
    with pytest.raises(MismatchError, match=name):
        collect(FakeLM(**lm), **(arguments | change))
    assert {p.name: p.read_bytes() for p in (tmp_path / "s").iterdir()} == before


def test_a_corpus_that_ends_early_gives_all_it_has_and_says_so(tmp_path, caplog):
    corpus, heard = make_corpus(10), []
    store = collect(FakeLM(), corpus, SITE, 10_000, tmp_path / "s", progress=heard.append, **SMALL)
    assert store.manifest.exhausted
    assert store.manifest.complete
    assert store.manifest.arguments.n_tokens == 10_000
    assert store.manifest.n_documents_read == 10
    assert heard[-1].phase == "exhausted"
    assert f"{store.n_tokens()} of the 10,000 tokens" in heard[-1].message
    assert not caplog.records
    collect(FakeLM(), corpus, SITE, 10_000, tmp_path / "s", progress=heard.append, **SMALL)
    assert heard[-1].phase == "reused"
    assert "all that its corpus gave of 10,000" in heard[-1].message

    collect(FakeLM(), corpus, SITE, 10_000, tmp_path / "t", **SMALL)
    assert "of the 10,000 tokens" in caplog.text


def test_progress_counts_up_to_what_was_kept(tmp_path):
    heard: list[HarvestProgress] = []
    store = collect(
        FakeLM(), make_corpus(80), SITE, 700, tmp_path / "s", progress=heard.append, **SMALL
    )
    assert {event.phase for event in heard} == {"harvest", "done"}
    assert heard[-1].phase == "done"
    assert heard[-1].n_tokens == store.n_tokens()
    assert all(event.total == 700 and event.tokens_per_s > 0 for event in heard)


@pytest.mark.parametrize("texts", [[], ["<eos> <eos>", "<eos>"]])
def test_nothing_to_keep_is_a_corpus_error(tmp_path, texts):
    corpus = FakeCorpus([Document(text) for text in texts])
    with pytest.raises(CorpusError, match="no token"):
        collect(FakeLM(), corpus, SITE, 10, tmp_path / "s", **SMALL)
    # and the folder is not spoilt for another corpus
    assert collect(FakeLM(), make_corpus(9), SITE, 10, tmp_path / "s", **SMALL).n_tokens() >= 10


@pytest.mark.parametrize("texts", [["oak"], ["<eos>", "oak <eos>"]])
def test_a_corpus_of_one_token_is_refused_and_the_folder_takes_another(tmp_path, texts):
    with pytest.raises(CorpusError, match="a single token"):
        collect(FakeLM(), Corpus.from_texts(texts), SITE, 10, tmp_path / "s", **SMALL)
    assert collect(FakeLM(), make_corpus(9), SITE, 10, tmp_path / "s", **SMALL).n_tokens() >= 10
    two = collect(FakeLM(), Corpus.from_texts(["oak elm"]), SITE, 10, tmp_path / "t", **SMALL)
    assert two.n_tokens() == 2


@pytest.mark.parametrize("shard_tokens", [10, 1000])
def test_what_is_left_out_of_long_documents_is_counted_and_said(tmp_path, caplog, shard_tokens):
    texts = ["oak elm"] * 5 + ["oak " * 149 + "oak", "elm " * 5000 + "elm"]
    heard, given = [], SMALL | {"shard_tokens": shard_tokens}

    def harvest(name, n_tokens, **more):
        corpus = FakeCorpus([Document(text) for text in texts])
        return collect(FakeLM(), corpus, SITE, n_tokens, tmp_path / name, **given, **more)

    store = harvest("s", 10_000, progress=heard.append)
    assert store.n_tokens() == 10 + 25 + 25
    assert store.manifest.n_documents_cut == 2
    assert store.manifest.n_tokens_cut == pytest.approx(125 + 4976, rel=0.01)
    said = f"2 documents were cut at 25 tokens, about {store.manifest.n_tokens_cut:,} tokens left"
    assert said in heard[-1].message
    assert "60 of the 10,000" in heard[-1].message
    assert "holds" not in heard[-1].message  # it does not hold all that the corpus has
    harvest("s", 10_000, progress=heard.append)
    assert heard[-1].phase == "reused" and said in heard[-1].message

    harvest("t", 12, progress=heard.append)
    assert heard[-1].phase == "done"
    assert "1 document was cut at 25 tokens, about 125 tokens left out" in heard[-1].message
    harvest("u", 12)
    assert "1 document was cut" in caplog.text


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_or_inf_names_site_document_and_token(tmp_path, bad):
    class Broken(FakeLM):
        def activations(self, ids):
            x = super().activations(ids)
            x[(ids == SINK)[:, :, None] & (torch.arange(D) == 2)] = bad
            return x

    texts = ["oak elm"] * 4 + ["oak elm fir gum oak elm fir gum oak elm <sink> fir"]
    corpus = FakeCorpus([Document(text) for text in texts])
    with pytest.raises(DataError, match=r"resid_post\.0: got document 4, token 10"):
        collect(Broken(), corpus, SITE, 100, tmp_path / "s", **SMALL)


def test_a_norm_that_overflows_is_a_sink_and_no_error(tmp_path):
    class Huge(FakeLM):
        def activations(self, ids):
            x = super().activations(ids)
            x[ids == SINK] = 3e38
            return x

    corpus = FakeCorpus([Document("oak elm <sink> fir")])
    store = collect(Huge(), corpus, SITE, 100, tmp_path / "s", **SMALL)
    assert store.n_tokens() == 3


@pytest.mark.parametrize(
    "change",
    [
        {"n_tokens": 0},
        {"n_tokens": -5},
        {"held_out": 1.0},
        {"held_out": -0.1},
        {"context_length": 1},
        {"context_length": 65},
        {"max_doc_tokens": 0},
        {"batch_tokens": 0},
        {"shard_tokens": -1},
        {"sink_ratio": 0.0},
        {"sink_ratio": math.inf},
    ],
)
def test_numbers_out_of_range_are_named_before_anything_is_written(tmp_path, change):
    arguments = {"n_tokens": 100, **SMALL} | change
    with pytest.raises(ConfigError, match=next(iter(change))):
        collect(FakeLM(), make_corpus(5), SITE, out=tmp_path / "s", **arguments)
    assert not (tmp_path / "s").exists()


def test_an_unknown_site_is_named(tmp_path):
    with pytest.raises(SiteError, match="resid_pots"):
        collect(FakeLM(), make_corpus(5), "resid_pots.0", 100, tmp_path / "s")


def test_a_folder_of_something_else_is_never_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        collect(FakeLM(), make_corpus(5), SITE, 100, tmp_path, **SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_foreign_manifest_is_never_overwritten(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "a web app"}')
    with pytest.raises(FormatError, match="not the manifest of an activation store"):
        collect(FakeLM(), make_corpus(5), SITE, 100, tmp_path, **SMALL)
    assert (tmp_path / "manifest.json").read_text() == '{"name": "a web app"}'


def test_without_resume_a_store_is_never_overwritten(tmp_path):
    collect(FakeLM(), make_corpus(9), SITE, 20, tmp_path / "s", **SMALL)
    with pytest.raises(OutputError, match="already holds a store"):
        collect(FakeLM(), make_corpus(9), SITE, 20, tmp_path / "s", resume=False, **SMALL)


def test_a_wrong_dtype_from_the_model_is_refused(tmp_path):
    class Liar(FakeLM):
        def activations(self, ids):
            return super().activations(ids).half()

    with pytest.raises(DataError, match="float16 of width 5"):
        collect(Liar(), make_corpus(5), SITE, 10, tmp_path / "s", **SMALL)


def test_a_harvest_to_a_url_equals_one_to_a_folder(tmp_path):
    corpus, where = make_corpus(40), f"memory://{tmp_path.name}/s"
    local = collect(FakeLM(), corpus, SITE, 300, tmp_path / "s", **SMALL)
    with pytest.raises(ConnectionError):
        collect(FakeLM(fail_after=9), corpus, SITE, 300, where, **SMALL)
    remote = collect(FakeLM(), corpus, SITE, 300, where, **SMALL)
    assert remote.path == where
    assert remote.manifest == local.manifest
    for shard in local.shards():
        assert torch.equal(remote.read(shard).acts, local.read(shard).acts)
    assert list(remote.documents()) == list(local.documents())


def test_an_unknown_kind_of_url_is_named():
    with pytest.raises(ConfigError, match="nowhere://x"):
        collect(FakeLM(), make_corpus(5), SITE, 10, "nowhere://x", **SMALL)


@pytest.fixture(scope="module")
def tiny_llama():
    """A random Llama of two layers behind the least adapter that a harvest needs."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=211,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config).eval()


class LlamaLM(FakeLM):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def width(self, site):
        return 24

    def capture_many(self, ids, mask, sites):
        with torch.no_grad():
            states = self.model(
                ids, attention_mask=mask.long(), output_hidden_states=True
            ).hidden_states
        return [states[site.layer + 1] for site in sites]


def test_stored_rows_are_the_hidden_states_of_a_real_model(tmp_path, tiny_llama):
    lm, corpus = LlamaLM(tiny_llama), make_corpus(30)
    store = collect(lm, corpus, SITE, 150, tmp_path / "s", **(SMALL | {"context_length": 16}))
    docs = {doc.doc: doc for doc in store.documents()}
    rows = stored_rows(store, "train") | stored_rows(store, "held_out")
    assert len(rows) == store.n_tokens() >= 150
    states = {}
    for (doc, pos), (x, token) in rows.items():
        ids, start = docs[doc].token_ids, pos - pos % 15
        assert ids[pos] == token
        if (doc, start) not in states:  # each window alone, without padding
            row = torch.tensor([[1, *ids[start : start + 15]]])
            with torch.no_grad():
                states[doc, start] = tiny_llama(row, output_hidden_states=True).hidden_states[1][0]
        assert torch.allclose(x, states[doc, start][1 + pos - start], atol=1e-5)


def test_progress_events_are_plain_values():
    event = HarvestProgress("harvest", 1, 2, 3.0)
    assert dataclasses.asdict(event)["message"] is None


def test_two_harvests_into_one_folder_are_refused(tmp_path):
    with folder_lock(tmp_path, "collect"), pytest.raises(OutputError, match="another process"):
        collect(FakeLM(), make_corpus(5), "resid_post.0", 50, tmp_path, context_length=16)
    assert [p.name for p in tmp_path.iterdir()] == []
    collect(FakeLM(), make_corpus(5), "resid_post.0", 50, tmp_path, context_length=16)
    assert not (tmp_path / LOCK).exists()
