"""A sweep over a real store: its files, its rows, resumed and enlarged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from monoscope.artifact import load_sae
from monoscope.cli import app
from monoscope.data.harvest import collect
from monoscope.data.store import ActivationStore
from monoscope.errors import ConfigError, MismatchError, OutputError
from monoscope.evals.run import evaluate
from monoscope.sweep import run, sweep
from monoscope.train import grid, train
from tests.unit.data.fake_lm import FakeLM, make_corpus

BATCH = 16
GRID: dict[str, Any] = {
    "d_sae": [8, 16], "k": [1, 2], "n_tokens": [10 * BATCH, 20 * BATCH], "batch_size": BATCH,
    "n_eval_tokens": None,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.setattr(grid, "CALIBRATION_TOKENS", 128)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    out = tmp_path_factory.mktemp("store")
    return collect(FakeLM(), make_corpus(40), "resid_post.0", 500, out, context_length=16)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    """Another layer of the same model."""
    out = tmp_path_factory.mktemp("other")
    return collect(FakeLM(), make_corpus(40), "resid_post.1", 500, out, context_length=16)


def test_a_larger_sweep_on_another_store_trains_nothing(
    store: ActivationStore, other: ActivationStore, tmp_path: Path
) -> None:
    small = {**GRID, "d_sae": [8], "n_tokens": [4 * BATCH]}
    sweep(store, out=tmp_path, **small)
    with pytest.raises(MismatchError, match=r"on other data \(another site"):
        sweep(other, out=tmp_path, resume=True, **{**small, "d_sae": [16, 8]})
    left = {path.name for path in (tmp_path / "saes").glob("*/*")}
    assert not [name for name in left if name.startswith("checkpoint")]
    assert len(list((tmp_path / "saes").glob("*/sae.json"))) == 2


def test_a_grid_that_cannot_be_trained_writes_nothing(
    store: ActivationStore, tmp_path: Path
) -> None:
    """The last of its SAEs has fewer latents than k."""
    out = tmp_path / "sweep"
    with pytest.raises(ConfigError, match="k"):
        sweep(store, out=out, **{**GRID, "k": [1, 99]})
    assert not out.exists()


def test_the_command_needs_no_folder(
    store: ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["sweep", str(store.path), "--d-sae", "8,16", "--k", "2", "--json"]
    done = CliRunner().invoke(app, [*command, "--tokens", "64", "--batch-size", "16"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["out"] == "runs/sweep"
    assert len(list(Path("runs/sweep/saes").glob("*/sae.json"))) == 2


def test_the_table_says_whether_the_target_was_reached(
    store: ActivationStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A target of all latents but a few is out of reach in four steps."""
    with caplog.at_level("WARNING"):
        made = sweep(
            store, out=tmp_path, d_sae=16, k=15, recipe=["topk", "templeton"],
            n_tokens=4 * BATCH, batch_size=BATCH,
        )  # fmt: skip
    table = pq.read_table(tmp_path / "sweep.parquet").to_pylist()
    assert [row["target_reached"] for row in table] == [None, False]
    assert [row["target_reached"] for row in made.rows] == [None, False]
    assert "target_l0 15 was not reached" in caplog.text
    assert "<td>no</td>" in (tmp_path / "sweep.html").read_text()


def test_a_grid_becomes_a_table_a_page_and_a_law(
    store: ActivationStore, other: ActivationStore, tmp_path: Path
) -> None:
    made = sweep(store, out=tmp_path, budget=1e6, **GRID)
    assert len(made.rows) == 8 and {row["status"] for row in made.rows} == {"finished"}
    for reader, name in ((pq.read_table, "sweep.parquet"), (pacsv.read_csv, "sweep.csv")):
        table = reader(tmp_path / name).to_pylist()
        assert [row["name"] for row in table] == [row["name"] for row in made.rows]
        assert [row["fvu"] for row in table] == pytest.approx([row["fvu"] for row in made.rows])
    row = made.rows[-1]
    sae = load_sae(row["out"])
    again = evaluate(sae, store, baselines=False, bootstrap=0)
    assert (row["fvu"], row["l0"]) == pytest.approx((again.fvu, again.l0))
    assert row["measured_on"] == "held_out"
    assert row["flop"] == pytest.approx(row["n_tokens"] * (2 * 5 * 16 + 8 * 5 * row["l0"]))
    alone = train(store, d_sae=16, k=2, n_tokens=20 * BATCH, batch_size=BATCH)
    assert all(torch.equal(a, b) for a, b in zip(sae.parameters(), alone.sae.parameters(),
                                                 strict=True))  # fmt: skip
    assert made.law is not None and made.law.has_tokens and made.law.n_points == 8
    assert made.advice is not None or made.no_advice is not None
    page = (tmp_path / "sweep.html").read_text()
    assert (
        page.count("<svg") == 3
        and page.count("<circle") == 12
        and "<script" not in page
        and "http:" not in page
    )
    drawn = ElementTree.parse(tmp_path / "scaling-law.svg").getroot()
    assert len(drawn.findall("{*}svg")) == 3 and len(drawn.findall(".//{*}circle")) == 12
    assert len(drawn.findall(".//{*}polyline")) == 6, "the law along each group's points"
    told = json.loads((tmp_path / "sweep.json").read_text())
    assert told["status"] == "finished" and told["rows"][-1]["name"] == row["name"]

    files = sorted((tmp_path / "saes").glob("*/sae.safetensors"))
    before = {path: path.stat().st_mtime_ns for path in files}
    note = (tmp_path / "sweep.json").read_bytes()
    with pytest.raises(OutputError, match=r"already holds a sweep.*--resume"):
        sweep(store, out=tmp_path, **GRID)
    with pytest.raises(MismatchError, match="on other data"):
        sweep(other, out=tmp_path, resume=True, **GRID)
    with pytest.raises(ConfigError, match="k"):
        sweep(store, out=tmp_path, resume=True, **{**GRID, "k": [1, 9]})
    assert (tmp_path / "sweep.json").read_bytes() == note
    larger = sweep(store, out=tmp_path, resume=True, **{**GRID, "k": [1, 2, 3]})
    assert len(larger.rows) == 12
    assert {path: path.stat().st_mtime_ns for path in files} == before, "finished ones are kept"


def test_recipes_take_k_each_in_its_way(store: ActivationStore, tmp_path: Path) -> None:
    made = sweep(
        store, out=tmp_path, d_sae=4, k=[1, 2], recipe=["topk", "jumprelu", "autoencoder"],
        n_tokens=4 * BATCH, batch_size=BATCH,
    )  # fmt: skip
    assert [(row["recipe"], row["k"]) for row in made.rows] == [
        ("topk", 1), ("topk", 2), ("jumprelu", 1), ("jumprelu", 2), ("autoencoder", None),
    ]  # fmt: skip
    config = json.loads((Path(made.rows[3]["out"]) / "run.json").read_text())["config"]
    assert config["train"]["target_l0"] == 2
    assert made.law is None and made.no_law is not None and "one recipe" in made.no_law


def test_what_is_measured_is_not_measured_again(
    store: ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(sae: Any, *args: Any, **given: Any) -> Any:
        calls.append(sae.d_sae)
        if len(calls) == 2 and sae.d_sae == 16:
            raise KeyboardInterrupt  # killed between two of them
        return evaluate(sae, *args, **given)

    monkeypatch.setattr(run, "evaluate", counted)
    asked: dict[str, Any] = GRID | {"k": 2, "n_tokens": 4 * BATCH, "out": tmp_path / "o"}
    with pytest.raises(KeyboardInterrupt):
        sweep(store, **asked)
    told: list[Any] = []
    made = sweep(store, resume=True, measured=told.append, **asked)
    assert calls == [8, 16, 16] and told == made.rows
    for kept in (tmp_path / "o" / "measured").iterdir():
        kept.write_text('{"x": 1}')  # damaged
    again = sweep(store, resume=True, **asked)
    assert calls == [8, 16, 16, 8, 16] and again.rows == made.rows
    sweep(store, resume=True, **asked | {"n_eval_tokens": 20})
    assert len(calls) == 7


def test_without_held_out_tokens_the_table_says_what_was_measured(tmp_path: Path) -> None:
    x = torch.randn(100, 5, generator=torch.Generator().manual_seed(0))
    made = sweep(x, out=tmp_path, d_sae=8, k=2, n_tokens=4 * BATCH, batch_size=BATCH)
    assert made.rows[0]["measured_on"] == "train"
    assert made.no_law is not None and "too few runs" in made.no_law


def test_a_grid_names_each_value_once(tmp_path: Path) -> None:
    x = torch.zeros(9, 2)
    for bad in ([], [8, 8]):
        with pytest.raises(ConfigError, match="each value once"):
            sweep(x, out=tmp_path / "s", d_sae=bad, n_tokens=9)
    assert not (tmp_path / "s").exists()
