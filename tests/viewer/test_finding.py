"""Features found at the terminal and in Python: the latents and the order of the page's table."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from test_read_api import QUERIES

import monoscope as ms
from monoscope import cli
from monoscope.errors import ConfigError
from monoscope.viewer.app import create_app
from monoscope.viewer.catalogue import Catalogue
from monoscope.viewer.config import ViewerConfig
from monoscope.viewer.find import SORTS
from monoscope.viewer.finding import find_features
from monoscope.viewer.state import ModelStatus
from tests.viewer.made_up import N_LATENTS, make

BASE = "http://127.0.0.1:8642"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("finding") / "atlas")


@pytest.fixture(scope="module")
def client(made: Path) -> TestClient:
    return TestClient(create_app(ViewerConfig(atlas=made)), base_url=BASE)


def test_a_list_without_words_does_not_wait_for_the_tables_of_words(made: Path) -> None:
    def tables(atlas: ms.Atlas) -> set[str]:
        shown = atlas.database.cursor().execute("SELECT table_name FROM duckdb_tables()")
        return {name for (name,) in shown.fetchall()}

    atlas = ms.load_atlas(made)
    find_features(atlas, "alive density<0.5", sort="max")
    assert "rows" in tables(atlas) and not {"terms", "metas"} & tables(atlas)
    catalogue = Catalogue(atlas)
    assert catalogue.ask("SELECT count(*) AS n FROM rows")[0]["n"] == N_LATENTS
    assert catalogue.ask("SELECT count(*) AS n FROM terms")[0]["n"] > N_LATENTS
    assert {"rows", "terms", "vocabulary", "metas"} <= tables(atlas)


def test_a_list_is_answered_while_the_words_are_being_made(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, enough = threading.Event(), threading.Event()
    whole = Catalogue._make_words

    def slow(self: Catalogue, cursor: Any) -> None:
        begun.set()
        assert enough.wait(60)
        whole(self, cursor)

    monkeypatch.setattr(Catalogue, "_make_words", slow)
    catalogue = Catalogue(ms.load_atlas(made))
    try:
        catalogue.prepare()
        assert begun.wait(60)
        assert catalogue.ask("SELECT count(*) AS n FROM rows")[0]["n"] == N_LATENTS
    finally:
        enough.set()
    assert catalogue.ask("SELECT count(*) AS n FROM terms")[0]["n"] > N_LATENTS
    catalogue.close()


def order(client: TestClient, **asked: str) -> list[int]:
    answer = client.get("/api/v1/features/order", params=asked)
    assert answer.status_code == 200, answer.text
    return np.frombuffer(answer.content, "<u4").tolist()


@pytest.mark.parametrize("q", QUERIES)
def test_a_query_finds_in_python_what_the_page_lists(client, made, q):
    found = find_features(ms.load_atlas(made), q, limit=None)
    assert [row.latent for row in found] == order(client, q=q)


@pytest.mark.parametrize(
    ("sort", "way"), [*((sort, "") for sort in SORTS), ("density", "asc"), ("latent", "desc")]
)
def test_orders_and_a_box_of_the_map_are_the_page_s(client, made, sort, way):
    box = "0.1,0.9,0.7,0.2"
    found = find_features(ms.load_atlas(made), "alive", sort=sort, order=way, box=box, limit=None)
    assert [row.latent for row in found] == order(client, q="alive", sort=sort, order=way, box=box)
    assert 0 < len(found) < N_LATENTS - 1


def test_rows_are_the_atlas_s_own_and_say_where_a_word_was_found(made):
    atlas = ms.load_atlas(made)
    listed = {row.latent: row for row in atlas.list(limit=100, alive_only=False)}
    for row in find_features(atlas, "", limit=None):
        assert row == listed[row.latent]
    told = {row.latent: (row.match, row.matched) for row in atlas.search("paris", limit=100)}
    found = find_features(atlas, "paris", limit=None)
    assert {row.latent: (row.match, row.matched)[:1] for row in found} == {
        latent: match[:1] for latent, match in told.items()
    }
    assert len(find_features(atlas, "paris", limit=2)) == 2


def test_the_terminal_takes_the_page_s_query(client, made, capsys):
    asked = {"q": "-dead paris", "sort": "max", "order": "asc", "box": "0,0,0.8,0.8"}
    args = ["--search=-dead paris", "--sort", "max", "--order", "asc", "--box", "0,0,0.8,0.8"]
    with pytest.raises(SystemExit) as left:
        cli.main(["features", str(made), *args, "--limit", "100", "--json"])
    assert left.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["latent"] for row in told["features"]] == order(client, **asked) != []


@pytest.mark.parametrize(
    ("asked", "said"),
    [({"q": "density<"}, "compared with no number"), ({"order": "up"}, "bad order"),
     ({"box": "1,2"}, "bad box"), ({"sort": "densty"}, "Did you mean density")],
)  # fmt: skip
def test_mistakes_are_named(made, asked, said):
    with pytest.raises(ConfigError, match=said):
        find_features(ms.load_atlas(made), **asked)


def test_the_folders_that_copies_name_hold_from_any_folder(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "runs" / "atlas")
    monkeypatch.chdir(tmp_path)

    class Standing:
        """A model that is there, named by a path from here."""

        def start(self) -> None: ...
        def close(self) -> None: ...
        def status(self) -> ModelStatus:
            return ModelStatus(state="ready", model="models/own")

    (tmp_path / "models" / "own").mkdir(parents=True)
    config = ViewerConfig(atlas=Path("runs/atlas"), sae=Path("runs/sae"))
    with TestClient(create_app(config, engine=Standing()), base_url=BASE) as client:
        told = client.get("/api/v1/atlas").json()
        model = client.get("/api/v1/status").json()["model"]
    assert told["folder"] == str(tmp_path / "runs" / "atlas")
    assert told["sae_folder"] == model["sae"] == str(tmp_path / "runs" / "sae")
    assert model["model"] == str(tmp_path / "models" / "own")
