"""A sweep over sites: one pass of the model, each SAE as if its site had been swept alone."""

from __future__ import annotations

import json
import signal
import threading
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest
import torch

from monoscope.artifact import load_sae
from monoscope.data import reading
from monoscope.data.corpus import Document
from monoscope.data.harvest import collect
from monoscope.data.live import Live, LiveStream
from monoscope.data.store import ActivationStore
from monoscope.errors import ConfigError, MismatchError
from monoscope.evals.run import evaluate
from monoscope.sae import SAE
from monoscope.sweep import fit_law, result, sweep
from monoscope.train import grid, train
from monoscope.train.folder import RunFolder
from monoscope.train.job import Job
from tests.unit.data.fake_lm import WORDS, D, FakeCorpus, FakeLM, SitedLM, make_corpus
from tests.viewer.tiny import language_model

BATCH = 16
SITES = ("resid_post.1", "resid_post.0")
READING: dict[str, Any] = {
    "held_out": 0.3, "context_length": 9, "max_doc_tokens": 25, "batch_tokens": 50,
    "buffer_tokens": 60,
}  # fmt: skip
GRID: dict[str, Any] = {
    "d_sae": [8, 12], "k": 2, "n_tokens": [8 * BATCH, 20 * BATCH], "batch_size": BATCH,
}  # fmt: skip
NAMES = [f"batchtopk-d{d}-k2-s0-t{t * BATCH}" for d in (8, 12) for t in (8, 20)]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.setattr(grid, "CALIBRATION_TOKENS", 64)
    monkeypatch.setattr(grid, "SAMPLE_TOKENS", 64)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read ahead is waited for before it is given up, so that passes can be counted."""
    close = LiveStream.close

    def settled(stream: LiveStream) -> None:
        if stream._ahead is not None:
            stream._ahead._thread.join()
        close(stream)

    monkeypatch.setattr(LiveStream, "close", settled)


def lives(lm: SitedLM | None = None, sites: tuple[str, ...] = SITES, n: int = 40) -> list[Live]:
    model, corpus = lm or SitedLM(), make_corpus(n)
    return [Live(model, corpus, site, **READING) for site in sites]


def same(a: SAE, b: SAE) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(one, two) for one, two in pairs)


def singles() -> dict[str, SAE]:
    """Every SAE trained by itself, on a Live of its own."""
    return {
        f"{source.site}-{name}": train(
            source, d_sae=d_sae, k=2, n_tokens=n_tokens, batch_size=BATCH,
        ).sae
        for source in lives()
        for name, (d_sae, n_tokens) in zip(
            NAMES, [(d, t) for d in (8, 12) for t in GRID["n_tokens"]], strict=True
        )
    }  # fmt: skip


def test_saes_of_two_sites_are_those_of_two_runs(tmp_path: Path) -> None:
    made = sweep(lives(), out=tmp_path, budget=1e6, **GRID)
    assert [row["name"] for row in made.rows] == [f"{site}-{n}" for site in SITES for n in NAMES]
    assert [row["site"] for row in made.rows] == [site for site in SITES for _ in NAMES]
    assert {row["measured_on"] for row in made.rows} == {"train"}
    for name, alone in singles().items():
        swept = load_sae(tmp_path / "saes" / name)
        assert same(swept, alone) and swept.provenance["site"] == name.partition("-")[0]
        assert swept.d_in == D + 2 * name.startswith("resid_post.1")
        known, expected = dict(swept.provenance), dict(alone.provenance)
        assert known == json.loads(json.dumps(expected))


def test_batches_read_ahead_are_the_same(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where a thread takes batches of each site while the steps run."""
    monkeypatch.setattr(grid, "reads_ahead", lambda device: True)
    threads = threading.active_count()
    sweep(lives(), out=tmp_path, **GRID)
    assert threading.active_count() == threads
    for file in (whole / "saes").glob("*/sae.safetensors"):
        again = tmp_path / "saes" / file.parent.name
        assert file.read_bytes() == (again / file.name).read_bytes()


def test_saes_of_a_real_model_are_those_of_two_runs(tmp_path: Path) -> None:
    lm, sites = language_model(), ("mlp_post.1", "resid_mid.0")
    texts = FakeCorpus([Document(f"{i} cats on {i * i} mats", {}) for i in range(60)])
    sources = [Live(lm, texts, site, context_length=16, buffer_tokens=200) for site in sites]
    made = sweep(sources, out=tmp_path, d_sae=20, k=3, n_tokens=30 * BATCH, batch_size=BATCH)
    for source, row in zip(sources, made.rows, strict=True):
        alone = train(source, d_sae=20, k=3, n_tokens=30 * BATCH, batch_size=BATCH)
        assert row["site"] == str(source.site) and same(load_sae(row["out"]), alone.sae)


def test_the_model_runs_no_oftener_for_two_sites_than_for_one(
    tmp_path: Path, counted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At one of the sites every third token is a sink, which is left out: its SAEs go through more
    of the corpus. Kept close in it, neither is ever more than a block behind the other.
    """
    monkeypatch.setattr(reading, "KEPT", 2)
    words = " ".join(f"{a} {b} <sink>" for a, b in pairwise(WORDS))
    corpus = FakeCorpus([Document(f"{i} {words}", {}) for i in range(150)])
    how = {**READING, "sink_ratio": 9.0}
    passes = []
    for name, sites in (("a", SITES[:1]), ("b", SITES[1:]), ("both", SITES)):
        lm = SitedLM()
        sweep([Live(lm, corpus, site, **how) for site in sites], out=tmp_path / name, d_sae=8,
              k=2, n_tokens=120 * BATCH, batch_size=BATCH)  # fmt: skip
        passes.append(len(lm.shapes))
    assert passes[2] == passes[1] > 1.3 * passes[0]


def test_nothing_more_is_captured_for_a_site_that_was_finished_before(tmp_path: Path) -> None:
    sweep(lives(sites=SITES[1:]), out=tmp_path, **GRID)
    lm = SitedLM()
    sweep(lives(lm), out=tmp_path, resume=True, **GRID)
    began = lm.asked.index(SITES[:1])
    assert 0 < began < 6, "both are looked at for their first weights"
    assert set(lm.asked[began:]) == {SITES[:1]} and len(lm.asked) > 10


def test_each_site_has_its_law_and_its_plots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result, "fit_law", partial(fit_law, bootstrap=10))
    whole = {**GRID, "k": [1, 2]}
    made = sweep(lives(), out=tmp_path, budget=1e6, **whole)
    assert made.law is None and made.no_law is not None and "for one site" in made.no_law
    assert made.advice is None and made.no_advice == made.no_law
    assert set(made.sites) == set(SITES)
    told = json.loads((tmp_path / "sweep.json").read_text())
    assert told["law"] is None and told["sites"][SITES[0]]["law"]["n_points"] == 8
    table = pq.read_table(tmp_path / "sweep.parquet").to_pylist()
    assert [(row["name"], row["site"]) for row in table] == [
        (row["name"], row["site"]) for row in made.rows
    ]
    page = (tmp_path / "sweep.html").read_text()
    assert page.count("<svg") == 6 and all(f"<h2>{site}</h2>" in page for site in SITES)
    drawn = ElementTree.parse(tmp_path / "scaling-law.svg").getroot()
    assert len(drawn.findall("{*}svg")) == 6
    assert [text.text for text in drawn.findall("{*}g/{*}text")] == list(SITES)
    assert len({(svg.get("x"), svg.get("y")) for svg in drawn.findall("{*}svg")}) == 6
    for site, found in made.sites.items():
        alone = sweep(lives(sites=(site,)), out=tmp_path, resume=True, budget=1e6, **whole)
        assert alone.law is not None and alone.sites == {}
        assert found.to_json() == {
            name: value for name, value in alone.to_json().items() if name in found.to_json()
        }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that nothing happened to."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "CALIBRATION_TOKENS", 64)
        patch.setattr(grid, "SAMPLE_TOKENS", 64)
        sweep(lives(), out=out, **GRID)
    return out


def test_an_error_saves_every_site(whole: Path, tmp_path: Path) -> None:
    """The model fails in the middle; every SAE that had begun stands at its last whole step."""
    lm, out = SitedLM(), tmp_path / "broken"
    lm.fail_after = 10
    with pytest.raises(ConnectionError) as caught:
        sweep(lives(lm), out=out, **GRID)
    (told,) = caught.value.__notes__
    assert "and 3 more; resume goes on from there" in told
    for site in SITES:
        for name in NAMES[1::2]:  # the short ones had ended
            folder = out / "saes" / f"{site}-{name}"
            assert list(folder.glob("checkpoint-*"))
            last = (folder / "events.jsonl").read_text().splitlines()[-1]
            assert json.loads(last)["note"] == "stopped"
    sweep(lives(), out=out, resume=True, **GRID)
    for file in (whole / "saes").glob("*/sae.safetensors"):
        assert file.read_bytes() == (out / "saes" / file.parent.name / file.name).read_bytes()


def test_ctrl_c_saves_every_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """It comes in the middle of a step; no step but that one is done after it."""
    outside = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, outside))
    before, done = Job.take, [0]

    def interrupted(job: Job, *args: Any) -> Any:
        done[0] += 1
        if done[0] == 21:
            signal.raise_signal(signal.SIGINT)
        return before(job, *args)

    monkeypatch.setattr(Job, "take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(lives(), out=tmp_path, **GRID)
    assert 21 <= done[0] <= 24, "a step is one batch for the four SAEs of one site"
    saved = {path.parent.name: path.name for path in tmp_path.glob("saes/*/checkpoint-*")}
    assert set(saved) == {f"{site}-{name}" for site in SITES for name in NAMES}
    steps = {name.partition("-")[0]: int(step.rpartition("-")[2]) for name, step in saved.items()}
    assert 4 * sum(steps.values()) == done[0] and min(steps.values()) > 0


def test_sites_are_added_to_a_sweep_and_what_is_finished_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = sweep(lives(sites=SITES[1:]), out=tmp_path, **GRID)
    assert [row["name"] for row in one.rows] == NAMES
    begun: list[str] = []
    restore = RunFolder.restore

    def noted(folder: RunFolder, *args: Any) -> Any:
        begun.append(folder.path.name)
        return restore(folder, *args)

    monkeypatch.setattr(RunFolder, "restore", noted)
    two = sweep(lives(), out=tmp_path, resume=True, **GRID)
    assert [row["name"] for row in two.rows] == [f"{SITES[0]}-{n}" for n in NAMES] + NAMES
    assert begun == [f"{SITES[0]}-{name}" for name in NAMES]
    begun.clear()
    last = sweep(lives(sites=SITES[:1]), out=tmp_path, resume=True, **GRID)
    assert begun == [] and [row["fvu"] for row in last.rows] == [
        row["fvu"] for row in two.rows[:4]
    ]  # fmt: skip
    with pytest.raises(MismatchError, match="another seed"):
        sweep(lives(), out=tmp_path, resume=True, data_seed=1, **GRID)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[ActivationStore]:
    lm, corpus = SitedLM(), make_corpus(40)
    return [
        collect(lm, corpus, site, 500, tmp_path_factory.mktemp("store"), context_length=16)
        for site in SITES
    ]


def test_stores_of_several_sites_are_swept_each_on_its_own(
    stores: list[ActivationStore], tmp_path: Path
) -> None:
    made = sweep(stores, out=tmp_path, **GRID)
    for store, rows in zip(stores, (made.rows[:4], made.rows[4:]), strict=True):
        for row in rows:
            assert row["site"] == store.site and row["measured_on"] == "held_out"
            sae = load_sae(row["out"])
            alone = train(
                store, d_sae=row["d_sae"], k=2, n_tokens=row["n_tokens"], batch_size=BATCH
            )
            assert same(sae, alone.sae)
            again = evaluate(sae, store, baselines=False, bootstrap=0)
            assert row["fvu"] == pytest.approx(again.fvu)


def test_sources_that_make_no_sweep_are_refused_before_anything_is_written(
    stores: list[ActivationStore], tmp_path: Path
) -> None:
    def other(name: str, lm: FakeLM, corpus: FakeCorpus) -> ActivationStore:
        return collect(lm, corpus, SITES[1], 99, tmp_path / name, context_length=16)

    more = FakeCorpus([*make_corpus(9).documents, Document("one more", {})])
    weights = SitedLM(identity={"model": "fake", "weights": "w1", "tokenizer": "t0"})
    for sources, said in (
        ([stores[0], stores[0]], "each site once: got resid_post.1, resid_post.1"),
        (lives(sites=(SITES[0], SITES[0])), "each site once: got resid_post.1, resid_post.1"),
        ([stores[0], lives()[1]], "several stores, or several models.*got ActivationStore, Live"),
        ([stores[0], other("w", weights, make_corpus(40))], "two weights: got w1 in .*w0, as in"),
        ([stores[0], other("c", SitedLM(), more)], "two corpora"),
        ([lives()[0], lives()[1]], "those of one model"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            sweep(sources, out=tmp_path / "out", **GRID)
        assert "\n" not in str(caught.value)
    # the second site is too narrow for what is asked of its SAEs
    with pytest.raises(ConfigError, match="k"):
        sweep(stores, out=tmp_path / "out", **{**GRID, "k": [1, 99]})
    assert not (tmp_path / "out").exists()


def test_a_list_of_one_source_is_that_source(stores: list[ActivationStore], tmp_path: Path) -> None:
    made = sweep(stores[:1], out=tmp_path / "a", **GRID)
    assert [row["name"] for row in made.rows] == NAMES and made.sites == {}
    x = torch.randn(100, 5, generator=torch.Generator().manual_seed(0))
    parts = sweep([x[:50], x[50:]], out=tmp_path / "b", **GRID)
    assert {row["site"] for row in parts.rows} == {None}
