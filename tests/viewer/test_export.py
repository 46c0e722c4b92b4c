"""What an exported page is made of: modules joined to a script, searching without a server."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import made_up
import pytest
import queries
import tools
from starlette.testclient import TestClient

from monoscope.errors import FormatError
from monoscope.viewer import bundle
from monoscope.viewer.app import create_app
from monoscope.viewer.config import ViewerConfig
from monoscope.viewer.export import _rounded, _table, export_html
from monoscope.viewer.pages import STATIC

QUERIES = [
    "", "the", "president", '" the"', "-the", "density<1e-2 score>0.3", "meta:lang=es", "unclear",
    'token:" of" -alive', "the of", "python max>20", "id:3-40,7", "label:capital", "logit:e",
    "-unclear -dead", 'meta:lang=fr>60% mean>=2', "list:kept", "note:odd", "fires=0", "dense",
    '"of the"', "É", "lowers:an human",
]  # fmt: skip
NODE = """
import { selected } from "STATIC/disk/search.js";
import { facets } from "STATIC/disk/facets.js";
import { QueryError } from "STATIC/disk/grammar.js";
import { readFileSync } from "node:fs";
const { table, asked, lists } = JSON.parse(readFileSync(0, "utf8"));
const told = asked.map((query) => {
  try {
    const { rows, sort } = selected(table, query);
    return { latents: rows.map((row) => row.latent), sort, facets: facets(table, rows, lists) };
  } catch (error) {
    if (!(error instanceof QueryError)) throw error;
    return { problem: { detail: error.message, ...error.more } };
  }
});
console.log(JSON.stringify(told));
"""


def test_searching_the_files_finds_what_the_server_finds(slide: Path, tmp_path: Path) -> None:
    if shutil.which("node") is None:
        tools.missing("node", "apt-get install nodejs npm")
    shutil.copytree(slide / "atlas", tmp_path / "atlas")
    app = create_app(ViewerConfig(atlas=tmp_path / "atlas", runs=tmp_path))
    client = TestClient(app, base_url="http://127.0.0.1")
    client.put("/api/v1/lists/kept/5")
    client.put("/api/v1/features/9/note", json={"text": "an odd one"})
    client.put("/api/v1/features/11/label", json={"text": "Éire, an island"})
    notes = client.get("/api/v1/annotations").json()
    state = app.state.viewer
    table = _table(state.catalogue, list(range(state.atlas.n_features)), notes)
    asked = [{"q": q, "sort": sort} for q in QUERIES for sort in ("", "density", "latent", "score")]
    asked += [{"q": "the", "order": "asc"}, {"q": "", "sort": "max", "order": "asc"}]
    told = in_node({"table": table, "asked": asked, "lists": notes["lists"]})
    n_found = 0
    for query, mine in zip(asked, told, strict=True):
        theirs = ordered(client, query)
        assert mine["latents"] == theirs, query
        n_found += len(theirs)
        facets = client.get("/api/v1/features/facets", params={"q": query["q"]}).json()
        for figure, other in zip(mine["facets"].pop("figures"), facets.pop("figures"), strict=True):
            assert figure["counts"] == other["counts"], query
            assert figure["edges"] == pytest.approx(other["edges"])
        assert mine["facets"] == facets, query
    assert n_found > 5000


def test_the_page_takes_the_same_for_mistakes_and_tells_the_same(tmp_path: Path) -> None:
    if shutil.which("node") is None:
        tools.missing("node", "apt-get install nodejs npm")
    client = TestClient(
        create_app(ViewerConfig(atlas=made_up.make(tmp_path / "atlas"), runs=tmp_path)),
        base_url="http://127.0.0.1",
    )
    asked = [{"q": q} for q in queries.MISTAKES]
    asked += [{"sort": "size"}, {"sort": "densitty"}, {"box": "0,1"}, {"box": "0,0,1,x"}]
    for query, told in zip(asked, in_node({"table": [], "asked": asked, "lists": {}}), strict=True):
        for path in ("order", "facets") if "sort" not in query else ("order",):
            answer = client.get(f"/api/v1/features/{path}", params=query)
            assert answer.status_code == 400, query
            assert answer.headers["content-type"] == "application/problem+json"
            theirs = answer.json()
            assert (theirs.pop("status"), theirs.pop("title")) == (400, "Bad Request")
            assert told["problem"] == theirs, query
        if "q" in query:
            assert told["problem"] == queries.problem(query["q"])
    words = [{"q": q} for q in queries.WORDS]
    for told in in_node({"table": [], "asked": words, "lists": {}}):
        assert "problem" not in told


def in_node(given: dict[str, Any]) -> Any:
    """Run the page's own modules in node."""
    script = NODE.replace("STATIC", STATIC.as_posix())
    command = ["node", "--no-warnings", "--input-type=module", "--eval", script]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def ordered(client: TestClient, query: dict[str, str]) -> list[int]:
    answer = client.get("/api/v1/features/order", params=query)
    assert answer.status_code == 200, answer.text
    data = answer.content
    return [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("export const { a, b } = x;", "cannot be joined"),
        ("export * from './other.js';", "cannot be joined"),
        ("console.log(\nimport.meta.url);", "cannot be joined"),
        ("import { b } from './b.js';", "import each other"),
    ],
)
def test_a_module_that_cannot_be_joined_is_an_error(tmp_path: Path, source: str, said: str) -> None:
    (tmp_path / "a.js").write_text(source)
    (tmp_path / "b.js").write_text("import { a } from './a.js';\n")
    (tmp_path / "other.js").write_text("")
    with pytest.raises(FormatError, match=said):
        bundle.script(tmp_path, ["a.js"])


def test_joined_modules_do_what_they_do_apart(tmp_path: Path) -> None:
    if shutil.which("node") is None:
        tools.missing("node", "apt-get install nodejs npm")
    sources = {
        "main.js": 'import whole, { twice as double } from "./a.js";\n'
        'import "./side.js";\nimport { three } from "./deep/b.js";\n'
        'globalThis.told = [whole(2), double(4), three, globalThis.side];\n'
        'import("./late.js").then((m) => console.log(JSON.stringify([...told, m.late])));',
        "a.js": "export default function whole(x) { return x + 1; }\n"
        "export const twice = (x) => 2 * x;\n",
        "deep/b.js": 'import { twice } from "../a.js";\nexport { twice, half as three } ;\n'
        "const half = twice(1.5);",
        "side.js": "globalThis.side = (globalThis.side || 0) + 1;",
        "late.js": 'export async function* g() {}\nexport class C {}\n'
        "export let late = 1;\nlate = 7;",
    }  # fmt: skip
    (tmp_path / "deep").mkdir()
    for name, text in sources.items():
        (tmp_path / name).write_text(text)
    joined = bundle.script(tmp_path, ["main.js"])
    for command in (["node", "--eval", joined], ["node", str(tmp_path / "main.js")]):
        (tmp_path / "package.json").write_text('{"type": "module"}')
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == [3, 8, 3, 1, 7]


def test_the_whole_page_is_in_the_script() -> None:
    text = bundle.script(STATIC, ["disk.js", "app.js"])
    for path in STATIC.rglob("*.js"):
        name = path.relative_to(STATIC).as_posix()
        if name not in ("theme.js", "docs.js"):
            assert f'modules["{name}"] =' in text, f"{name} is not reached from app.js"


def given(folder: Path, kind: str) -> dict[str, Any]:
    """What the scripts of one kind hand over, by number."""
    held: dict[str, Any] = {}
    for path in (folder / "data").glob(f"{kind}-*.js"):
        text = path.read_text(encoding="utf-8")
        held |= json.loads(text[text.index(",") + 1 : text.rindex(")")])
    return held


def test_features_and_documents_are_the_api_s_own_and_progress_is_told(tmp_path: Path) -> None:
    made_up.make(tmp_path / "atlas")
    told: list[tuple[int, int]] = []
    done = export_html(tmp_path / "atlas", tmp_path / "page", progress=lambda *at: told.append(at))
    client = TestClient(
        create_app(ViewerConfig(atlas=tmp_path / "atlas")), base_url="http://127.0.0.1"
    )
    for kind, n in (("features", done["n_features"]), ("documents", done["n_documents"])):
        held = given(tmp_path / "page", kind)
        assert len(held) == n > 20
        for number, record in held.items():
            assert record == _rounded(client.get(f"/api/v1/{kind}/{number}").json())
    whole = done["n_features"] + done["n_documents"]
    assert told[-1] == (whole, whole) and told == sorted(told) and len(told) > 3


def test_an_export_that_is_broken_off_leaves_the_page_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up.make(tmp_path / "atlas")
    page = tmp_path / "page"

    def held() -> dict[str, bytes]:
        files = (p for p in page.rglob("*") if p.is_file())
        return {str(p.relative_to(page)): p.read_bytes() for p in files}

    def stop(*at: int) -> None:
        raise KeyboardInterrupt

    export_html(tmp_path / "atlas", page)
    before = held()
    with pytest.raises(KeyboardInterrupt):
        export_html(tmp_path / "atlas", page, n_features=20, progress=stop)
    assert held() == before
    with monkeypatch.context() as patch:  # killed: it cannot clean up after itself
        patch.setattr("shutil.rmtree", lambda *a, **k: None)
        with pytest.raises(KeyboardInterrupt):
            export_html(tmp_path / "atlas", page, n_features=20, progress=stop)
    assert {k: v for k, v in held().items() if not k.startswith(".")} == before
    export_html(tmp_path / "atlas", page, n_features=20)
    after = held()
    assert len(given(page, "features")) == 20 and not [k for k in after if k.startswith(".")]
    assert after["data/table.js"] != before["data/table.js"]
