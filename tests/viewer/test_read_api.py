"""The read API in process: lists against brute force, pages, features, documents, annotations."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from monoscope.features.atlas import load_atlas
from monoscope.viewer.app import create_app
from monoscope.viewer.config import ViewerConfig
from monoscope.viewer.find import SORTS
from tests.viewer.made_up import N_LATENTS, SCRIPT, make

BASE = "http://127.0.0.1:8642"
API = "/api/v1"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("viewer") / "atlas")


@pytest.fixture(scope="module")
def client(made: Path) -> Iterator[TestClient]:
    """A viewer of the atlas as it was made; nothing is written through it."""
    with TestClient(create_app(ViewerConfig(atlas=made)), base_url=BASE) as client:
        yield client


@pytest.fixture
def desk(made: Path, tmp_path: Path) -> Iterator[TestClient]:
    """A viewer of a copy that a test may write to."""
    shutil.copytree(made, tmp_path / "atlas")
    with TestClient(create_app(ViewerConfig(atlas=tmp_path / "atlas")), base_url=BASE) as client:
        yield client


@pytest.fixture(scope="module")
def rows(made: Path) -> list[dict[str, Any]]:
    """The features table with what each latent fires on, read without the viewer."""
    tokens: dict[int, set[str]] = {i: set() for i in range(N_LATENTS)}
    for example in pq.read_table(made / "examples.parquet").to_pylist():
        tokens[example["latent"]].add(example["token"])
    table = pq.read_table(made / "features.parquet").to_pylist()
    return [row | {"tokens": tokens[row["latent"]]} for row in table]


def got(client: TestClient, path: str, **params: Any) -> Any:
    answer = client.get(API + path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(client: TestClient, path: str, status: int = 400, **params: Any) -> dict[str, Any]:
    answer = client.get(API + path, params=params)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status and problem["detail"]
    return problem


def order(client: TestClient, **params: Any) -> list[int]:
    answer = client.get(f"{API}/features/order", params=params)
    assert answer.status_code == 200, answer.text
    return np.frombuffer(answer.content, "<u4").tolist()


LANG = "lang=fr"
QUERIES: dict[str, Any] = {
    "": lambda r: True,
    "alive": lambda r: r["n_active"] > 0,
    "dead": lambda r: r["n_active"] == 0,
    "-dead": lambda r: r["n_active"] > 0,
    "unclear": lambda r: r["label"] is None or r["label"].startswith("unclear"),
    "labelled": lambda r: r["label"] is not None and not r["label"].startswith("unclear"),
    "density<0.08": lambda r: r["density"] < 0.08,
    "density>=8%": lambda r: r["density"] >= 0.08,
    "max>3 mean<2": lambda r: r["max"] > 3 and r["mean"] < 2,
    "score>0.3": lambda r: r["label_f1"] is not None and r["label_f1"] > 0.3,
    "-score>0.3": lambda r: r["label_f1"] is None or r["label_f1"] <= 0.3,
    "label:x12": lambda r: "x12" in (r["label"] or ""),
    'token:" Paris"': lambda r: " Paris" in r["tokens"],
    "token:paris": lambda r: any("paris" in t.lower() for t in r["tokens"]),
    '-token:" Paris"': lambda r: " Paris" not in r["tokens"],
    'logit:" tok3"': lambda r: " tok3" in r["top_tokens"],
    "lowers:tok1": lambda r: any("tok1" in t for t in r["bottom_tokens"]),
    "id:3,10-12,999": lambda r: r["latent"] in {3, 10, 11, 12},
    f"meta:{LANG}": lambda r: dict(r["meta_mass"]).get(LANG, 0) >= 0.5,
    f"meta:{LANG}>0.6": lambda r: dict(r["meta_mass"]).get(LANG, 0) >= 0.6,
    "paris": lambda r: (
        "paris" in (r["label"] or "").lower()
        or any("paris" in t.lower() for t in (*r["tokens"], *r["top_tokens"]))
    ),
    "-paris": lambda r: (
        not (
            "paris" in (r["label"] or "").lower()
            or any("paris" in t.lower() for t in (*r["tokens"], *r["top_tokens"]))
        )
    ),
    "alert(1)": lambda r: any("alert(1)" in t for t in r["tokens"]),
    "tok9 alive": lambda r: any("tok9" in t for t in r["top_tokens"]) and r["n_active"] > 0,
    "%": lambda r: False,
    "'; DROP TABLE rows; --": lambda r: False,
}


@pytest.mark.parametrize("q", QUERIES)
def test_a_query_finds_what_brute_force_finds(client, rows, q):
    wanted = {row["latent"] for row in rows if QUERIES[q](row)}
    assert set(order(client, q=q)) == wanted
    page = got(client, "/features", q=q, limit=200)
    assert {item["latent"] for item in page["items"]} == wanted
    assert page["total"] == len(wanted) and page["next_cursor"] is None
    assert got(client, "/features/facets", q=q)["total"] == len(wanted)


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("way", ["", "asc", "desc"])
def test_pages_by_cursor_are_the_whole_order_and_nothing_twice(client, sort, way):
    seen: list[int] = []
    cursor = ""
    for _ in range(N_LATENTS):
        page = got(client, "/features", sort=sort, order=way, limit=7, cursor=cursor)
        seen += [item["latent"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == order(client, sort=sort, order=way)
    assert sorted(seen) == list(range(N_LATENTS))


def test_sorts_put_unknown_values_last_either_way(client, rows):
    by = {row["latent"]: row["label_f1"] for row in rows}
    for way, sign in (("asc", 1), ("desc", -1)):
        values = [by[i] for i in order(client, sort="score", order=way)]
        known = [v for v in values if v is not None]
        assert values[: len(known)] == known == sorted(known, key=lambda v: sign * v)


def test_words_in_labels_rank_before_tokens_and_both_before_logits(client, rows):
    found = order(client, q="paris")
    kind = [2 if "Paris" in (rows[i]["label"] or "") else 1 for i in found]
    assert kind == sorted(kind, reverse=True) and set(kind) == {1, 2}


def test_rows_come_in_the_order_asked_for_with_their_context(client, rows):
    items = got(client, "/features/rows", ids=[9, 2, 55, 100_000])
    assert [item["latent"] for item in items] == [9, 2, 55]
    top = {e["latent"]: e for e in reversed(examples_of(client, 9)) if e["kind"] == "top"}[9]
    context = items[0]["context"]
    assert context["values"][context["peak"]] == top["value"] == max(top["values"])
    cut = top["peak"] - context["peak"]
    stop = cut + len(context["pieces"])
    assert 0 < len(context["pieces"]) <= len(top["pieces"])
    assert context["pieces"] == top["pieces"][cut:stop]
    assert context["values"] == top["values"][cut:stop]
    hist = items[0]["hist"]
    assert sum(hist["counts"]) == rows[9]["n_active"] and hist["counts"][0] > 0
    assert rows[9]["hist"][hist["start"]] == hist["counts"][0]


def examples_of(client: TestClient, latent: int) -> list[dict[str, Any]]:
    examples = got(client, f"/features/{latent}")["examples"]
    return [example | {"latent": latent} for example in examples]


def test_a_feature_is_what_the_atlas_says(client, made):
    for latent in (0, 3, 17):
        page, feature = got(client, f"/features/{latent}"), load_atlas(made).feature(latent)
        assert page["label"]["text"] == feature.label
        assert [e["pieces"] for e in page["examples"]] == [e.pieces for e in feature.examples]
        assert [n["latent"] for n in page["neighbours"]] == [n.other for n in feature.neighbours]
        assert [r["token"] for r in page["raises"]] == feature.top_tokens
        assert page["n_tokens"] == load_atlas(made).manifest["n_tokens"]


def test_a_dead_feature_has_a_page(client, rows):
    page = got(client, "/features/3")
    assert rows[3]["n_active"] == 0
    assert page["examples"] == [] and page["hist"]["counts"] == [] and page["max"] == 0


def test_hostile_text_arrives_as_text_and_never_as_a_page(client):
    found = order(client, q=f'"{SCRIPT}"')
    assert found
    answer = client.get(f"{API}/features/{found[0]}")
    assert answer.headers["content-type"] == "application/json"
    assert SCRIPT in answer.json()["examples"][0]["pieces"] or SCRIPT in answer.text
    shell = client.get(f"/f/{found[0]}")
    assert "alert(1)" not in shell.text
    assert "script-src 'self'" in shell.headers["content-security-policy"]
    assert "unsafe" not in shell.headers["content-security-policy"]


def test_a_document_holds_its_recorded_values_and_null_elsewhere(client):
    example = examples_of(client, 9)[0]
    document = got(client, f"/documents/{example['doc']}", latent=9)
    assert len(document["pieces"]) == len(document["values"]) == example["n_tokens"]
    stop = example["start"] + len(example["pieces"])
    assert document["pieces"][example["start"] : stop] == example["pieces"]
    assert document["values"][example["start"] : stop] == example["values"]
    plain = got(client, f"/documents/{example['doc']}")
    assert plain["n_recorded"] == 0 and set(plain["values"]) == {None}


def test_around_walks_the_list(client):
    whole = order(client, q="alive", sort="density")
    for place in (0, 5, len(whole) - 1):
        near = got(client, f"/features/{whole[place]}/around", q="alive", sort="density")
        assert near["rank"] == place + 1 and near["total"] == len(whole)
        assert near["previous"] == (whole[place - 1] if place else None)
        assert near["next"] == (whole[place + 1] if place + 1 < len(whole) else None)
    outside = got(client, "/features/3/around", q="alive")
    assert outside["rank"] is outside["next"] is None and outside["total"] == len(whole)


def test_facets_count_what_the_filters_find(client):
    facets = got(client, "/features/facets", q="alive")
    values = [value for group in facets["meta"].values() for value in group]
    assert facets["status"] and values
    for facet in (*facets["status"], *values):
        assert facet["count"] == len(order(client, q=f"alive {facet['term']}")), facet
    for figure in facets["figures"]:
        assert len(figure["edges"]) == len(figure["counts"]) + 1
        assert sum(figure["counts"]) + figure["unknown"] == facets["total"]


# ---------------------------------------------------------------- the map


def test_the_map_in_binary_is_the_map_on_disk(client, made):
    table = pq.read_table(made / "map.parquet")
    data = client.get(f"{API}/map/points").content
    assert len(data) == 5 * N_LATENTS
    x, y = (np.frombuffer(data, "<u2", N_LATENTS, 2 * N_LATENTS * axis) / 65535 for axis in (0, 1))
    np.testing.assert_allclose(x, table["x"], atol=1 / 65535)
    np.testing.assert_allclose(y, table["y"], atol=1 / 65535)
    assert np.frombuffer(data, "u1")[4 * N_LATENTS + 3] == 0  # the latent that never fires


def test_a_box_selects_by_place(client, made):
    table = pq.read_table(made / "map.parquet").to_pylist()
    inside = {p["latent"] for p in table if p["x"] <= 0.5 and 0.25 <= p["y"] <= 1}
    assert set(order(client, box="0.5,1,0,0.25")) == inside
    assert 0 < len(inside) < N_LATENTS


def test_an_atlas_without_a_map_says_so_and_can_make_one(desk, tmp_path):
    made = (tmp_path / "atlas" / "map.parquet").read_bytes()
    (tmp_path / "atlas" / "map.parquet").unlink()
    assert "monoscope index" in got(desk, "/map")["hint"]
    assert "no map" in refused(desk, "/map/points")["detail"]
    assert order(desk, box="0,0,1,1") == []
    assert desk.post(f"{API}/map").json() == {"available": True, "n": N_LATENTS, "hint": None}
    assert (tmp_path / "atlas" / "map.parquet").read_bytes() == made
    assert len(order(desk, box="0,0,1,1")) == N_LATENTS


# ---------------------------------------------------------------- annotations


def test_a_label_is_kept_ranks_first_and_has_a_history(desk, tmp_path):
    put = desk.put(f"{API}/features/7/label", json={"text": "  colour\nnames "})
    assert put.json()["text"] == "colour names" and put.json()["method"] == "human"
    desk.put(f"{API}/features/7/label", json={"text": "colours"})
    assert order(desk, q="human") == order(desk, q="colours") == [7]
    row = got(desk, "/features/rows", ids=7)[0]
    assert (row["label"], row["label_f1"]) == ("colours", None)
    again = TestClient(create_app(ViewerConfig(atlas=tmp_path / "atlas")), base_url=BASE)
    assert got(again, "/features/7")["label"]["text"] == "colours"
    assert order(again, q="human") == [7]
    back = desk.put(f"{API}/features/7/label", json={"text": " "}).json()
    assert back["method"] == "rule" and back["text"] == back["rule_text"] == "unclear"
    assert order(desk, q="human") == []
    texts = [change["text"] for change in got(desk, "/features/7/history")["items"]]
    assert texts == [None, "colours", "colour names"]


def test_notes_and_lists(desk):
    assert desk.put(f"{API}/features/5/note", json={"text": "look\n"}).json() == {"text": "look"}
    for latent in (5, 2):
        assert desk.put(f"{API}/lists/to do/{latent}").status_code == 200
    assert got(desk, "/lists") == {"lists": {"to do": [5, 2]}}
    assert order(desk, q='list:"to do"', sort="latent") == [2, 5]
    assert order(desk, q="note:LOOK") == [5]
    page = got(desk, "/features/5")
    assert (page["note"], page["lists"]) == ("look", ["to do"])
    desk.delete(f"{API}/lists/to do/5")
    everything = got(desk, "/annotations")
    assert everything["lists"] == {"to do": [2]} and everything["notes"] == {"5": "look"}


def test_annotations_that_cannot_be_written_are_a_problem_and_not_a_crash(desk, tmp_path):
    (tmp_path / "atlas" / "annotations.sqlite").mkdir()
    answer = desk.put(f"{API}/features/7/label", json={"text": "x"})
    assert answer.status_code == 409 and "cannot use" in answer.json()["detail"]


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("path", "params", "status", "told"),
    [
        ("/features/60", {}, 404, "0 to 59"),
        ("/features/60/around", {}, 404, "0 to 59"),
        ("/features/60/history", {}, 404, "0 to 59"),
        ("/features/abc", {}, 422, "latent"),
        ("/features/-1", {}, 422, "latent"),
        ("/features/99999999999999999999", {}, 422, "latent"),
        ("/documents/1", {}, 404, "document"),
        ("/documents/0", {"latent": 60}, 404, "0 to 59"),
        ("/features", {"cursor": "nonsense"}, 400, "next_cursor"),
        ("/features", {"cursor": "bnVsbA"}, 400, "next_cursor"),
        ("/features", {"cursor": "é"}, 400, "next_cursor"),
        ("/features", {"q": "densty<3"}, 400, "Did you mean density"),
        ("/features", {"q": "x" * 2001}, 422, "2000"),
        ("/features", {"sort": "densty"}, 400, "Did you mean density"),
        ("/features", {"order": "up"}, 422, "order"),
        ("/features", {"limit": 0}, 422, "limit"),
        ("/features", {"limit": 201}, 422, "limit"),
        ("/features", {"box": "1,2,3"}, 400, "x0,y0,x1,y1"),
        ("/features", {"box": "0,0,nan,1"}, 400, "x0,y0,x1,y1"),
        ("/features/rows", {}, 422, "ids"),
        ("/nothing", {}, 404, "Not Found"),
    ],
)
def test_a_mistake_is_a_clear_4xx(client, path, params, status, told):
    problem = refused(client, path, status, **params)
    assert told in " ".join(str(value) for value in problem.values())


def test_a_cursor_of_another_question_is_refused(client):
    cursor = got(client, "/features", q="alive", limit=3)["next_cursor"]
    assert "query" in refused(client, "/features", q="dead", cursor=cursor)["detail"]
    assert got(client, "/features", q="alive", limit=3, cursor=cursor)["items"]


@pytest.mark.parametrize("table", ["features", "examples", "contexts"])
def test_a_table_damaged_under_the_viewer_is_a_problem_that_names_the_atlas(made, tmp_path, table):
    shutil.copytree(made, tmp_path / "atlas")
    path = tmp_path / "atlas" / f"{table}.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :])
    with TestClient(create_app(ViewerConfig(atlas=tmp_path / "atlas")), base_url=BASE) as client:
        problem = refused(client, "/features/rows", 400, ids=9)
    assert "is damaged" in problem["detail"] and str(tmp_path) in problem["detail"]


def test_the_wrong_method_is_a_problem_too(client):
    answer = client.post(f"{API}/features/3")
    assert answer.status_code == 405
    assert answer.headers["content-type"] == "application/problem+json"


# ---------------------------------------------------------------- nothing heavy is loaded


@pytest.mark.slow
def test_the_atlas_is_browsed_without_torch(made):
    code = f"""
import sys
from pathlib import Path
from starlette.testclient import TestClient
from monoscope.viewer.app import create_app
from monoscope.viewer.config import ViewerConfig
assert "torch" not in sys.modules
with TestClient(create_app(ViewerConfig(atlas=Path({str(made)!r}))), base_url={BASE!r}) as c:
    for path in ("/", "/f/3", "/api/docs", "/api/openapi.json", "/api/v1/status", "/api/v1/atlas",
                 "/api/v1/features?q=paris", "/api/v1/features/9", "/api/v1/map/points"):
        answer = c.get(path)
        assert answer.status_code == 200, (path, answer.text)
print(*sorted({{"torch", "transformers"}} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == ""


def test_the_examples_of_the_search_box_find_what_they_promise(client) -> None:
    told = client.get("/api/v1/features/examples").json()
    assert told["word"] == "paris"
    for name, term in told.items():
        if term is not None:
            found = client.get("/api/v1/features", params={"q": term}).json()
            assert found["total"] > 0, name
    whole = " ".join(told[name] for name in ("word", "score", "logit") if told[name])
    assert client.get("/api/v1/features", params={"q": whole}).json()["total"] > 0
