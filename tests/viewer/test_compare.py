"""The API of comparisons, against the tables themselves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file
from starlette.testclient import TestClient

import monoscope as ms
from monoscope import cli
from monoscope.errors import MismatchError
from monoscope.viewer.app import create_app
from monoscope.viewer.comparison import open_comparison
from monoscope.viewer.config import ViewerConfig

PAIR = {"a": "atlas", "b": "atlas-small"}


@pytest.fixture(scope="module")
def client(config: ViewerConfig) -> Iterator[TestClient]:
    app = create_app(ViewerConfig(atlas=config.atlas, runs=config.runs))
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as made:
        yield made


def ask(client: TestClient, path: str, **params: Any) -> Any:
    answer = client.get(f"/api/v1{path}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def everything(client: TestClient, **params: Any) -> list[dict[str, Any]]:
    """All pages of a comparison."""
    items, cursor = [], ""
    while True:
        page = ask(client, "/compare", **PAIR, limit=120, cursor=cursor, **params)
        items += page["items"]
        if page["next_cursor"] is None:
            assert len(items) == page["total"]
            return items
        cursor = page["next_cursor"]


def test_both_atlases_are_listed(client: TestClient) -> None:
    rows = ask(client, "/atlases")["atlases"]
    assert [(r["id"], r["here"], r["d_sae"], r["trouble"]) for r in rows] == [
        ("atlas", True, 512, None), ("atlas-small", False, 256, None),
    ]  # fmt: skip


def test_the_families_are_those_of_the_decoders(client: TestClient, bench: Path) -> None:
    W = [load_file(bench / f"{sae}/sae.safetensors")["W_dec"] for sae in ("sae", "sae-small")]
    unit = [w / np.linalg.norm(w, axis=1, keepdims=True) for w in W]
    cosine = unit[0] @ unit[1].T
    alive = [
        [r.latent for r in ms.load_atlas(bench / name).list(sort="latent", limit=999)]
        for name in ("atlas", "atlas-small")
    ]
    items = everything(client, threshold=0.6)
    assert sorted(r["latent"] for f in items for r in f["a"]) == sorted(alive[0])
    assert sorted(r["latent"] for f in items for r in f["b"]) == sorted(alive[1])
    matched = {
        (i, j)
        for i in alive[0]
        for j in alive[1]
        if cosine[i, j] >= 0.6
        and i == alive[0][int(cosine[alive[0], j].argmax())]
        and j == alive[1][int(cosine[i, alive[1]].argmax())]
    }
    told = {(f["a"][0]["latent"], f["b"][0]["latent"]) for f in items if f["kind"] == "matched"}
    assert told  # the SAEs see the same data: some must agree
    assert told <= matched
    for f in items:
        for link in f["links"]:
            assert link["cosine"] == pytest.approx(cosine[link["a"], link["b"]], abs=1e-5)
    lost = {f["a"][0]["latent"] for f in items if f["kind"] == "lost"}
    assert lost == {i for i in alive[0] if cosine[i, alive[1]].max() < 0.6}


def test_shared_contexts_are_counted_as_the_atlases_hold_them(
    client: TestClient, bench: Path
) -> None:
    left, right = (ms.load_atlas(bench / name) for name in ("atlas", "atlas-small"))
    kept = [
        set(pq.read_table(bench / name / "contexts.parquet").column("doc").to_pylist())
        for name in ("atlas", "atlas-small")
    ]
    both = kept[0] & kept[1]
    assert both
    items = [f for f in everything(client) if f["kind"] == "matched"][:5]
    for f in items:
        # One store, so the documents have the same numbers on either side.
        a, b = left.feature(f["a"][0]["latent"]), right.feature(f["b"][0]["latent"])
        places = [{(e.doc, e.pos) for e in feature.top if e.doc in both} for feature in (a, b)]
        assert f["shared"] == [len(places[0] & places[1]), min(map(len, places))]


def test_the_same_contexts_carry_what_either_atlas_recorded(
    client: TestClient, bench: Path
) -> None:
    f = next(f for f in everything(client) if f["kind"] == "matched" and f["shared"][0] > 2)
    i, j = f["a"][0]["latent"], f["b"][0]["latent"]
    shown = ask(client, "/compare/contexts", **PAIR, left=i, right=j, limit=30)
    a, b = (
        ms.load_atlas(bench / "atlas").feature(i),
        ms.load_atlas(bench / "atlas-small").feature(j),
    )
    strongest = a.top[0]
    place = shown[0]
    assert "a" in place["sides"]
    assert place["pieces"][place["peak"]] == strongest.pieces[strongest.peak]
    assert place["a"][0][place["peak"]] == pytest.approx(strongest.value)
    both = [p for p in shown if p["sides"] == ["a", "b"]]
    assert len(both) == f["shared"][0]
    values = {e.value for e in b.top}
    assert all(any(p["b"][0][p["peak"]] == pytest.approx(v) for v in values) for p in both)
    assert any(None in p["b"][0] for p in shown) or len(both) == len(shown)


def test_one_kind_and_words_of_a_label_narrow_the_list(client: TestClient) -> None:
    assert {f["kind"] for f in everything(client, kind="new")} == {"new"}
    words = "GUESS unclear"
    found = everything(client, q=words)
    assert 0 < len(found) < len(everything(client))
    for f in found:
        labels = [(r["label"] or "").lower() for r in f["a"] + f["b"]]
        assert any("guess" in text and "unclear" in text for text in labels)


def test_an_atlas_with_itself_is_all_matched(client: TestClient) -> None:
    page = ask(client, "/compare", a="atlas", b="atlas", threshold=0.999)
    assert {k for k, n in page["counts"].items() if n["families"]} == {"matched"}
    assert page["chance"] < 0.6


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"model": {"model": "other", "weights": "f" * 64}}, 409, "different models"),
        ({"site": "mlp_out.15"}, 409, "different sites"),
        ({"sae": {"hash": "0" * 64, "config": {"d_in": 576}}}, 409, "SAE is not here"),
        ({"build": "another"}, 400, "another run"),
        ({"sae": None}, 400, "is damaged"),
    ],
)
def test_atlases_that_do_not_belong_together_are_refused(
    client: TestClient, bench: Path, change: dict[str, Any], status: int, said: str
) -> None:
    folder = bench / "other"
    shutil.copytree(bench / "atlas-small", folder)
    try:
        path = folder / "atlas.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        answer = client.get("/api/v1/compare", params={"a": "atlas", "b": "other"})
        assert 400 <= answer.status_code < 500
        problem = answer.json()
        assert answer.status_code == status
        assert said in problem["detail"] + problem.get("got", "")
        row = [r for r in ask(client, "/atlases")["atlases"] if r["id"] == "other"]
        if said.startswith("different"):
            assert said in row[0]["trouble"]
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["..", "/etc", "sae", "../slide/atlas", "nowhere", "a\0b"])
def test_no_atlas_but_those_found_is_opened(client: TestClient, name: str) -> None:
    answer = client.get("/api/v1/compare", params={"a": "atlas", "b": name})
    assert answer.status_code == 404


def test_unknown_latents_are_a_clear_error(client: TestClient) -> None:
    answer = client.get("/api/v1/compare/contexts", params={**PAIR, "left": 512})
    assert (answer.status_code, answer.json()["expected"]) == (404, "0 to 511")


def test_a_label_edited_here_is_seen_in_the_comparison(client: TestClient) -> None:
    first = everything(client)[0]["a"][0]["latent"]
    client.app.state.viewer.catalogue.relabel(first, "edited by hand")  # type: ignore[attr-defined]
    assert everything(client, q="edited hand")[0]["a"][0]["latent"] == first


def test_an_atlas_outside_the_folder_of_runs_can_still_be_compared(
    slide: Path, tmp_path: Path
) -> None:
    shutil.copytree(slide, tmp_path / "away")
    app = create_app(ViewerConfig(atlas=tmp_path / "away" / "atlas", runs=slide))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        rows = ask(client, "/atlases")["atlases"]
        own = next(r["id"] for r in rows if r["here"])
        assert own == str(tmp_path / "away" / "atlas")
        page = ask(client, "/compare", a=own, b="atlas", threshold=0.99)
        assert page["counts"]["matched"]["a"] == page["a"]["n_alive"]


def test_the_command_line_tells_what_the_api_tells(
    client: TestClient, bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*flags: str) -> str:
        with pytest.raises(SystemExit) as left:
            cli.main(["compare", str(bench / "atlas"), str(bench / "atlas-small"), *flags])
        assert left.value.code == 0
        return capsys.readouterr().out

    told = json.loads(said("--threshold=0.6", "--kind=merged", "--limit=500", "--json"))
    page = ask(client, "/compare", **PAIR, threshold=0.6, kind="merged", limit=200)
    assert told["counts"] == page["counts"] and told["n_families"] == page["total"] > 0
    assert [[[m["latent"], m["label"]] for m in f["a"]] for f in told["families"]] == [
        [[m["latent"], m["label"]] for m in f["a"]] for f in page["items"]
    ]
    lost = ask(client, "/compare", **PAIR, kind="lost", limit=1)["items"][0]
    name = f"{lost['a'][0]['latent']}-"
    one = json.loads(said("--family", name, "--json"))
    near = lost["links"][0]["b"]
    params = {"left": [lost["a"][0]["latent"]], "right": [near], "limit": 6}
    assert one["contexts"] == ask(client, "/compare/contexts", **PAIR, **params)
    assert "lost" in said("--family", name) and "matched" in said("--limit", "1")


def test_atlases_that_lie_apart_find_their_saes_by_runs(bench: Path, tmp_path: Path) -> None:
    for name, folder in (("atlas", "one"), ("sae", "one"), ("atlas-small", "two")):
        shutil.copytree(bench / name, tmp_path / folder / name)
    folders = (tmp_path / "one" / "atlas", tmp_path / "two" / "atlas-small")
    shutil.copytree(bench / "sae-small", tmp_path / "weights" / "sae")
    with pytest.raises(MismatchError, match="SAE is not here"):
        open_comparison(*folders)
    pair = open_comparison(*folders, tmp_path / "weights")
    beside = open_comparison(bench / "atlas", bench / "atlas-small")
    assert pair.found(kind="matched") == beside.found(kind="matched") != []
    words = next(label for label in pair.labels[0].values() if label).split()[0]
    for family in pair.found(words=words):
        held = [pair.labels[n].get(i) for n, ids in enumerate((family.a, family.b)) for i in ids]
        assert any(words.lower() in (label or "").lower() for label in held)
