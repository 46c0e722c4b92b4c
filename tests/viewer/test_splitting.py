"""Parents and children of real SAEs: by the command line, over the API, on what it links to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

import monoscope as ms
from monoscope import cli
from monoscope.viewer.app import create_app
from monoscope.viewer.config import ViewerConfig


@pytest.fixture(scope="module")
def client(config: ViewerConfig) -> Iterator[TestClient]:
    yield from viewer(config.atlas, config.runs)


def viewer(atlas: Path, runs: Path | None) -> Iterator[TestClient]:
    app = create_app(ViewerConfig(atlas=atlas, runs=runs))
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as made:
        yield made


def ask(client: TestClient, path: str, **params: Any) -> Any:
    answer = client.get(f"/api/v1{path}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def split(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[Any, str, str]:
    with pytest.raises(SystemExit) as left:
        cli.main(["split", *args])
    told = capsys.readouterr()
    return left.value.code, told.out, told.err


def test_the_api_tells_what_the_atlas_holds(client: TestClient, bench: Path) -> None:
    large, small = ms.load_atlas(bench / "atlas"), ms.load_atlas(bench / "atlas-small")
    labels = small.labels()
    ids = [row.latent for row in large.list("latent", descending=False, limit=60)]
    n_told = 0
    for latent in ids:
        told = ask(client, f"/features/{latent}")
        held = large.feature(latent).part_of
        assert held is not None and told["splits_into"] is None
        kin = told["part_of"]["kin"]
        assert kin == [asdict(one) for one in held.kin]
        assert [one["label"] for one in kin] == [labels[one["latent"]] for one in kin]
        assert (told["part_of"]["id"], told["part_of"]["d_sae"]) == ("atlas-small", 256)
        assert told["part_of"]["trouble"] is None
        n_told += len(kin)
    assert n_told > 30
    # The name leads to where the two stand side by side.
    assert ask(client, "/compare", a="atlas", b="atlas-small")["b"]["d_sae"] == 256


def test_children_are_told_by_the_smaller_atlas(bench: Path) -> None:
    rows = pq.read_table(bench / "atlas" / "parents.parquet").to_pylist()
    parent = rows[0]["other"]
    for client in viewer(bench / "atlas-small", bench):
        told = ask(client, f"/features/{parent}")
        assert told["part_of"] is None and told["splits_into"]["id"] == "atlas"
        assert {one["latent"] for one in told["splits_into"]["kin"]} == {
            row["latent"] for row in rows if row["other"] == parent
        }


def test_an_atlas_elsewhere_is_named_without_its_path(bench: Path, tmp_path: Path) -> None:
    shutil.copytree(bench, tmp_path / "home")
    for client in viewer(tmp_path / "home" / "atlas", tmp_path / "home" / "sae"):
        told = ask(client, "/features/3")["part_of"]
        assert (told["id"], told["name"], told["trouble"]) == (None, "atlas-small", None)
    shutil.rmtree(tmp_path / "home" / "atlas-small")
    for client in viewer(tmp_path / "home" / "atlas", tmp_path / "home"):
        told = ask(client, "/features/3")["part_of"]
        assert told["id"] is None and "no atlas is at atlas-small any more" in told["trouble"]


def test_the_command_ties_what_it_finds_beside_the_atlases(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, to in (("atlas", "a"), ("sae", "a"), ("atlas-small", "b"), ("sae-small", "c")):
        shutil.copytree(bench / name, tmp_path / to / name)
    small, large = str(tmp_path / "b" / "atlas-small"), str(tmp_path / "a" / "atlas")
    for atlas, name in ((small, "children"), (large, "parents")):
        (Path(atlas) / f"{name}.parquet").unlink()
    store = str(bench / "store")
    code, out, err = split(capsys, small, large, "--store", store)
    assert (code, out) == (2, "") and "SAE is not here" in err and "--runs" in err
    runs = ("--runs", str(tmp_path / "c"))
    code, out, _ = split(capsys, small, large, "--store", store, *runs, "--json")
    told = json.loads(out)
    kept = pq.read_table(Path(large) / "parents.parquet").drop_columns(["atlas"])
    beside = pq.read_table(bench / "atlas" / "parents.parquet").drop_columns(["atlas"])
    assert code == 0 and kept.equals(beside) and told["n_children"] == len(kept) > 200
    found = ms.load_atlas(large).feature(kept["latent"][0].as_py()).part_of
    assert found is not None and found.atlas == "../../b/atlas-small" and found.trouble is None
