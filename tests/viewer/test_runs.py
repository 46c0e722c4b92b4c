"""The API of runs: what is found, curves, evaluations with their owner, and news as they come."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import tools
from starlette.testclient import TestClient

from monoscope.artifact import load_sae, save_sae
from monoscope.artifact.checks import weights_hash
from monoscope.sae import SAE, SAEConfig
from monoscope.viewer import found, runs
from monoscope.viewer.app import create_app
from monoscope.viewer.config import ViewerConfig
from monoscope.viewer.pages import STATIC


def event(step: int, **more: Any) -> str:
    row = {"step": step, "n_tokens": 10 * step, "loss": 1 / step, "fvu": 0.5, "l0": 8.0,
           "dead_fraction": 0.0, "lr": 1e-3, "terms": {}, **more}  # fmt: skip
    return json.dumps(row) + "\n"


def make_run(folder: Path, *events: str, status: str = "running", **sae: Any) -> Path:
    folder.mkdir(parents=True)
    config = {
        "sae": {"d_in": 4, "d_sae": 8, "activation": "topk", "k": 2, **sae},
        "train": {"n_tokens": 100, "recipe": "topk", "seed": 3, "lr": 0.01},
    }
    (folder / "run.json").write_text(json.dumps({"config": config, "status": status}))
    (folder / "events.jsonl").write_text("".join(events))
    return folder


@pytest.fixture
def home(tmp_path: Path, slide: Path) -> Path:
    shutil.copytree(slide / "atlas", tmp_path / "runs" / "atlas")
    return tmp_path / "runs"


@pytest.fixture
def client(home: Path) -> Iterator[TestClient]:
    app = create_app(ViewerConfig(atlas=home / "atlas", runs=home))
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as made:
        yield made


def test_every_run_below_the_folder_is_listed(client: TestClient, home: Path) -> None:
    make_run(home / "a", event(1), event(2, fvu=0.25))
    make_run(home / "deep" / "er" / "b", status="finished")
    make_run(home / ".hidden" / "c", event(1))
    make_run(home.parent / "outside", event(1))
    (home / "link").symlink_to(home.parent / "outside")
    told = client.get("/api/v1/runs").json()
    assert [row["id"] for row in told["runs"]] == ["a", "deep/er/b"]
    first = told["runs"][0]
    assert (first["status"], first["n_tokens"], first["total_tokens"]) == ("running", 20, 100)
    assert (first["fvu"], first["d_sae"], first["recipe"]) == (0.25, 8, "topk")
    assert told["runs"][1]["status"] == "finished"


def test_a_run_without_news_is_quiet(client: TestClient, home: Path) -> None:
    folder = make_run(home / "a", event(1))
    long_ago = time.time() - runs.QUIET_SECONDS - 5
    for path in folder.iterdir():
        os.utime(path, (long_ago, long_ago))
    assert client.get("/api/v1/runs").json()["runs"][0]["status"] == "quiet"


def test_curves_are_thinned_and_keep_their_end(client: TestClient, home: Path) -> None:
    lines = [event(i) for i in range(1, 1001)]
    folder = make_run(home / "a", *lines, json.dumps({"step": 5, "diagnosis": "slow"}) + "\n")
    with (folder / "events.jsonl").open("a") as file:
        file.write('{"step": 1001, "n_tok')  # still being written
    told = client.get("/api/v1/runs/curve", params={"id": "a", "points": 100}).json()
    steps = told["columns"]["step"]
    assert len(steps) == 100
    assert steps[-1] == 1000
    assert len({b - a for a, b in pairwise(steps)}) == 1
    assert told["n_events"] == 1000
    assert told["notes"] == [{"step": 5, "diagnosis": "slow"}]
    assert told["end"] == (folder / "events.jsonl").stat().st_size - len('{"step": 1001, "n_tok')


def test_damaged_files_are_no_server_error(client: TestClient, home: Path) -> None:
    folder = make_run(home / "a", event(1, loss=float("nan")), "not json\n", "[1]\n", event(2))
    (folder / "run.json").write_text('{"config": 7, "metrics": [], "status": NaN}')
    (folder / "eval.json").write_text('{"figures": {"fvu": Infinity, "ci": null, "baselines": {}}}')
    make_run(home / "b")
    (home / "b" / "run.json").write_text("[")
    for path in ("", "/one?id=a", "/curve?id=a", "/one?id=b", "/curve?id=b"):
        answer = client.get(f"/api/v1/runs{path}")
        assert answer.status_code == 200, path
    columns = client.get("/api/v1/runs/curve?id=a").json()["columns"]
    assert columns["loss"] == [None, 0.5]
    assert client.get("/api/v1/runs/one?id=a").json()["evaluation"]["figures"]["fvu"] is None


@pytest.mark.parametrize(
    "name", ["..", "../outside", "a/../../outside", "/etc", "a\0", "x" * 999, "atlas", "", "\ud800"]
)
def test_no_name_leads_out_of_the_folder(client: TestClient, home: Path, name: str) -> None:
    make_run(home.parent / "outside", event(1))
    with pytest.raises(found.NotFoundError, match="no such run"):
        found.inside(home, name, found.RUN)
    quoted = name.encode("utf-8", "surrogatepass")
    url = httpx.URL("/api/v1/runs/one", params={"id": quoted.decode("latin-1")})
    assert 400 <= client.get(str(url)).status_code < 500


def test_an_evaluation_beside_two_runs_goes_to_the_sae_it_names(slide: Path) -> None:
    seen = found.look(slide)
    named = json.loads((slide / "eval.json").read_text())["asked"]["sae"]
    assert named == weights_hash(load_sae(slide / "sae"))
    measured = runs.evaluation(slide / "sae", seen)
    assert measured is not None
    assert measured[1]["baselines"].keys() == {"random", "neurons", "pca", "mean"}
    assert runs.evaluation(slide / "sae-small", seen) is None


def test_a_file_that_eval_wrote_goes_to_the_sae_it_names(slide: Path) -> None:
    seen = found.look(slide)
    core = json.loads((slide / "eval.json").read_text())["figures"]
    for sae, whose in (("sae-small", "sae-small"), ("sae", "sae")):
        ours = {"key": {"sae": found.weights_hash(slide / sae)}, "families": {"core": core}}
        told = {"eval_type_id": "core", "eval_result_unstructured": {"monoscope": ours}}
        (slide / "eval.json").write_text(json.dumps(told))
        measured = {name: runs.evaluation(slide / name, seen) for name in ("sae", "sae-small")}
        assert measured.pop(whose) == (slide / "eval.json", core)
        assert list(measured.values()) == [None]


def test_an_evaluation_that_names_no_sae_goes_to_the_only_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "one" / "sae", status="finished")
    (folder.parent / "eval.json").write_text('{"fvu": 0.5, "baselines": {}}')
    measured = runs.evaluation(folder, found.look(tmp_path))
    assert measured == (folder.parent / "eval.json", {"fvu": 0.5, "baselines": {}})
    make_run(tmp_path / "one" / "other", status="finished")
    assert runs.evaluation(folder, found.look(tmp_path)) is None


def test_the_hash_without_torch_is_the_hash_with_it(slide: Path) -> None:
    for name in ("sae", "sae-small"):
        assert found.weights_hash(slide / name) == weights_hash(load_sae(slide / name))
    seen = found.look(slide)
    for atlas, sae in (("atlas", "sae"), ("atlas-small", "sae-small")):
        manifest = json.loads((slide / atlas / "atlas.json").read_text())
        assert found.sae_of(seen, manifest) == (slide / sae).resolve()


def test_the_hash_without_torch_is_of_every_weight_too(tmp_path: Path) -> None:
    sae = SAE(SAEConfig(d_in=4, d_sae=6, activation="gated", k=None))
    save_sae(sae, tmp_path / "a")
    sae.b_mag.data[0] = 1
    save_sae(sae, tmp_path / "b")
    assert found.weights_hash(tmp_path / "b") == weights_hash(sae)
    assert found.weights_hash(tmp_path / "a") != weights_hash(sae)


def read_news(text: str) -> list[tuple[str, dict[str, Any]]]:
    blocks = [b.split("\n") for b in text.strip().split("\n\n") if b.startswith("event:")]
    return [(b[0].removeprefix("event: "), json.loads(b[1].removeprefix("data: "))) for b in blocks]


def test_news_bring_each_event_once_and_end_with_the_run(client: TestClient, home: Path) -> None:
    folder = make_run(home / "a", event(1), event(2))
    start = client.get("/api/v1/runs/curve?id=a").json()["end"]

    def train() -> None:
        for step in (3, 4):
            with (folder / "events.jsonl").open("a") as file:
                file.write(event(step)[:20])
                file.flush()
                time.sleep(runs_beat)
                file.write(event(step)[20:])
        note = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(note | {"status": "finished"}))

    runs_beat = 0.3
    thread = threading.Thread(target=train)
    thread.start()
    said = read_news(client.get(f"/api/v1/runs/follow?id=a&start={start}").text)
    thread.join()
    steps = [s for kind, data in said if kind == "figures" for s in data["columns"]["step"]]
    assert steps == [3, 4]
    assert [data["status"] for kind, data in said if kind == "status"] == ["running", "finished"]


def test_a_run_begun_anew_is_read_from_its_beginning(home: Path) -> None:
    folder = make_run(home / "a", *[event(i) for i in range(1, 9)])
    end = runs.read_from(folder).end
    (folder / "events.jsonl").write_text(event(1))
    again = runs.read_from(folder, end)
    assert [e["step"] for e in again.events] == [1]
    assert again.end < end


def test_checkpoints_are_told_by_the_figures_of_the_log(client: TestClient, home: Path) -> None:
    every = {"checkpoint_every_tokens": 30}
    folder = make_run(home / "a", *[event(i, fvu=1 / i) for i in range(1, 11)])
    (folder / "checkpoint-9").mkdir()
    note = json.loads((folder / "run.json").read_text())
    note["config"]["train"] |= every
    (folder / "run.json").write_text(json.dumps(note))
    told = client.get("/api/v1/runs/one?id=a").json()["checkpoints"]
    assert [row["n_tokens"] for row in told] == [30, 60, 90, 100]
    assert [row["fvu"] for row in told] == [1 / 3, 1 / 6, 1 / 9, 1 / 10]
    assert [(row["saved"], row["kept"]) for row in told] == [
        (True, False), (True, False), (True, True), (False, False),
    ]  # fmt: skip
    make_run(home / "b", *[event(i) for i in range(1, 9)])  # it never saved itself: its quarters
    told = client.get("/api/v1/runs/one?id=b").json()["checkpoints"]
    assert [row["n_tokens"] for row in told] == [20, 40, 60, 80]
    assert not any(row["saved"] for row in told)
    make_run(home / "c")
    assert client.get("/api/v1/runs/one?id=c").json()["checkpoints"] == []


AGAIN = """
import { again } from "STATIC/pages/run/again.js";
import { readFileSync } from "node:fs";
const { runs, root } = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(runs.map((run) => again(run, root))));
"""


def in_node(runs_told: list[Any], root: str) -> list[dict[str, str]]:
    """What the page makes of runs for copying."""
    script = AGAIN.replace("STATIC", STATIC.as_posix())
    command = ["node", "--no-warnings", "--input-type=module", "--eval", script]
    given = json.dumps({"runs": runs_told, "root": root})
    done = subprocess.run(command, input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


@pytest.mark.slow
def test_the_copied_command_trains_such_a_run_again(slide: Path, tmp_path: Path) -> None:
    if shutil.which("node") is None:
        tools.missing("node", "apt-get install nodejs npm")
    shutil.copytree(slide / "atlas", tmp_path / "atlas")
    shutil.copytree(slide / "sae-small", tmp_path / "sae-small")
    note = json.loads((slide / "sae-small" / "run.json").read_text())
    app = create_app(ViewerConfig(atlas=tmp_path / "atlas", runs=tmp_path))
    with TestClient(app, base_url="http://127.0.0.1") as made:
        told = made.get("/api/v1/runs/one?id=sae-small").json()
    (copied,) = in_node([told], str(tmp_path))
    # The slide was made under another name and then moved.
    theirs = note["asked"]["source"]["store"]
    command, code = (copied[k].replace(theirs, str(slide / "store")) for k in ("command", "python"))
    words = shlex.split(command)
    assert words[:2] == ["monoscope", "train"]
    done = subprocess.run(
        [sys.executable, "-m", "monoscope", *words[1:]], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    again = json.loads((tmp_path / "sae-small-again" / "run.json").read_text())
    assert again["config"] == note["config"]
    assert again["asked"]["source"] == {"store": str(slide / "store")}
    assert again["metrics"]["fvu"] == pytest.approx(note["metrics"]["fvu"], rel=0.02)
    compile(code, "copied", "exec")
    assert f"load_store({json.dumps(str(slide / 'store'))})" in code


def test_a_run_that_cannot_be_repeated_says_why() -> None:
    if shutil.which("node") is None:
        tools.missing("node", "apt-get install nodejs npm")
    run: dict[str, Any] = {
        "row": {"id": "a"}, "config": {"sae": {"d_sae": 8, "k": 2}, "train": {"seed": 3}},
    }  # fmt: skip
    live = {"model": "m", "site": "resid_post.1", "corpus": {"kind": "texts", "name": "mine"}}
    cases = [None, {"source": None}, {"source": live}]
    told = in_node([run | {"asked": asked} for asked in cases], "/r")
    assert all("command" not in made and "python" not in made for made in told)
    assert ["before runs kept" in told[0]["lacks"], "in memory" in told[1]["lacks"]] == [True] * 2
    assert "(mine)" in told[2]["lacks"]
    asked = {"source": {"store": "/a b/it's"}, "k": 0.5, "settings": {"x": "a b", "p": [1, 2]}}
    (made,) = in_node([run | {"asked": asked}], "/r")
    words = shlex.split(made["command"])
    assert words == [
        "monoscope", "train", "/a b/it's", "--d-sae", "8", "--k", "0.5", "--seed", "3",
        "--set", "x=a b", "--set", "p=[1,2]", "--out", "/r/a-again",
    ]  # fmt: skip
    read = live | {"corpus": {"kind": "demo", "seed": 0}, "max_doc_tokens": 200}
    (made,) = in_node([run | {"asked": {"source": read}}], "/r")
    assert "--site resid_post.1 --max-doc-tokens 200 " in made["command"]
    assert '"resid_post.1", max_doc_tokens=200)' in made["python"]
