"""The viewer as a folder of files that opens from disk: the page joined, the answers beside it.

Every answer is the API's own, asked in this process, so an exported page shows what the live page
would. Data lie in scripts that hand over one JSON value each, since a page from disk may not fetch;
they hold no markup, and the page puts text in as text only.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import FastAPI

from monoscope.errors import ConfigError, MonoscopeError
from monoscope.features.compare import THRESHOLD
from monoscope.files import require_folder, write_atomic
from monoscope.viewer import bundle, reading
from monoscope.viewer.app import create_app
from monoscope.viewer.catalogue import Catalogue, integers
from monoscope.viewer.config import ViewerConfig
from monoscope.viewer.examples import examples
from monoscope.viewer.pages import STATIC
from monoscope.viewer.state import ViewerState

MARKER = "monoscope-export.json"
_OURS = ("index.html", "*.js", "*.css", "icon.svg", "data", "LICENSES.txt")
_PER_FILE = {"rows": 256, "features": 16, "documents": 64}
_AT_ONCE = 64  # features or documents read with one question
_TOLD_EVERY = 16
_PART = ".part"  # ends the name of a write that never finished, as `files.py` has it
_Record = tuple[int, Any]
Progress = Callable[[int, int], None]
_POINTS = 800  # of a training curve, as the page asks for
_CONTEXTS = 12  # places of a family, as the page asks for
_FAMILIES_WITH_CONTEXTS = 200
_DIGITS = 6
# 'self' is nothing to a page from disk: its own scripts are files, which it names itself.
_POLICY = (
    "default-src 'none'; script-src 'self' file:; style-src 'self' file:; "
    "img-src 'self' file: data:; base-uri 'none'; form-action 'none'"
)
_INDEX = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>monoscope</title>
<link rel="icon" href="icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="page.css">
<script src="theme.js"></script>
<script defer src="page.js"></script>
</head>
<body>
<div id="app"><p class="boot">monoscope</p></div>
<noscript><p class="boot">This page is drawn by JavaScript, from this folder alone.</p></noscript>
</body>
</html>
"""


def export_html(
    atlas: str | Path,
    out: str | Path,
    *,
    runs: str | Path | None = None,
    n_features: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the viewer of an atlas as static files; open out/index.html.

    runs: folder of runs and other atlases, default the one around the atlas. n_features: at most so
    many, those a person labelled first, then the most interesting; default all. progress: called
    with (features and documents written, in all).

    A page that is there stays whole until the new one is: the data are written aside, then swapped.

    Returns n_features, n_documents, bytes, out.

    Raises FormatError for a bad atlas, OutputError for a folder that holds something else,
    ConfigError for n_features below 1.
    """
    if n_features is not None and n_features < 1:
        raise ConfigError("n_features is out of range", got=n_features, expected="at least 1")
    place = Path(atlas)
    home = Path(runs) if runs is not None else place.resolve().parent
    app = create_app(ViewerConfig(atlas=place, runs=home))
    folder = require_folder(out, MARKER, also=_OURS)
    with _aside(folder / "data") as data:
        writer = _Writer(_Asker(app), app.state.viewer, data, home, progress)
        told = writer.write(n_features)
    _write_page(folder)
    write_atomic(folder / MARKER, json.dumps(told | {"atlas": place.name}, indent=1) + "\n")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return told | {"bytes": size, "out": str(folder)}


@contextlib.contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of `folder` once it is written; on any failure it goes."""
    for left in folder.parent.glob(f".{folder.name}.*{_PART}"):  # of an export that was killed
        shutil.rmtree(left)
    mark = secrets.token_hex(4)
    new, old = (folder.parent / f".{folder.name}.{mark}{end}{_PART}" for end in ("", ".old"))
    new.mkdir()
    try:
        yield new
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    finally:
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)


def _write_page(folder: Path) -> None:
    write_atomic(folder / "page.js", bundle.script(STATIC, ["disk.js", "app.js"]))
    names = ("base.css", "parts.css", "pages.css")
    write_atomic(folder / "page.css", "".join(bundle.styles(STATIC / "css" / n) for n in names))
    for name in ("theme.js", "icon.svg"):
        write_atomic(folder / name, (STATIC / name).read_bytes())
    licences = sorted((STATIC / "vendor").glob("LICENSE-*"))
    text = "\n\n".join(f"{p.name[8:]}\n\n{p.read_text(encoding='utf-8')}" for p in licences)
    write_atomic(folder / "LICENSES.txt", text)
    write_atomic(folder / "index.html", _INDEX)


def _spans(numbers: list[int]) -> Iterator[list[int]]:
    for first in range(0, len(numbers), _AT_ONCE):
        yield numbers[first : first + _AT_ONCE]


class _Writer:
    """Asks the API and writes what it says."""

    def __init__(
        self, ask: _Asker, state: ViewerState, folder: Path, home: Path, progress: Progress | None
    ) -> None:
        self.ask, self.state, self.folder, self.home = ask, state, folder, home
        self.progress = progress
        self.files: dict[str, list[int]] = {}

    def write(self, n_features: int | None) -> dict[str, Any]:
        latents = self._chosen(n_features)
        documents: set[int] = set()
        catalogue, atlas, root = self.state.catalogue, self.state.atlas, self.state.config.root

        # As the API reads them, many at once: one by one, each would open the files anew.
        def features() -> Iterator[tuple[int, Any]]:
            for some in _spans(latents):
                for told in reading.details(catalogue, atlas, some, root):
                    documents.update(example.doc for example in told.examples)
                    yield told.latent, told.model_dump(mode="json")

        def texts(docs: list[int]) -> Iterator[tuple[int, Any]]:
            for some in _spans(docs):
                for told in reading.documents(catalogue, some):
                    yield told.doc, told.model_dump(mode="json")

        n = len(latents)
        self._chunks("features", self._counted(features(), 0, n + self._n_documents(latents)))
        self._chunks("rows", ((row["latent"], row) for row in self._rows(latents)))
        docs = sorted(documents)
        self._chunks("documents", self._counted(texts(docs), n, n + len(docs)))
        self._give("table", _table(self.state.catalogue, latents, self.ask("/annotations")))
        of = self.state.atlas.n_features
        self._give("index", self._index(latents, of))
        return {"n_features": len(latents), "of": of, "n_documents": len(documents)}

    def _counted(self, records: Iterator[_Record], done: int, whole: int) -> Iterator[_Record]:
        for n, record in enumerate(records, done + 1):
            yield record
            if self.progress is not None and (n % _TOLD_EVERY == 0 or n == whole):
                self.progress(n, whole)

    def _n_documents(self, latents: list[int]) -> int:
        """Documents that the examples of these latents are from."""
        query = "SELECT count(DISTINCT doc) AS n FROM examples WHERE latent IN ({ids})"
        return int(self.state.catalogue.ask(query.format(ids=integers(latents)))[0]["n"])

    def _chosen(self, n: int | None) -> list[int]:
        # What somebody labelled comes before what might interest somebody.
        human = "label_method IS NOT DISTINCT FROM 'human'"
        limit = "" if n is None else f"LIMIT {int(n)}"
        order = f"ORDER BY {human} DESC, interest DESC, latent {limit}"
        rows = self.state.catalogue.ask(f"SELECT latent FROM rows {order}")
        return sorted(row["latent"] for row in rows)

    def _rows(self, latents: list[int]) -> Iterator[Any]:
        for first in range(0, len(latents), 200):
            yield from self.ask("/features/rows", ids=latents[first : first + 200])

    def _index(self, latents: list[int], of: int) -> dict[str, Any]:
        told = self.ask("/atlas")
        answers = {path: self.ask(path) for path in ("/lists", "/runs", "/atlases", "/map")}
        answers["/features/examples"] = examples(self.state.catalogue, latents).model_dump()
        # Where things lay on the machine that exported is nobody else's business.
        told["folder"] = Path(told["folder"]).name
        told["sae_folder"] = None
        for path in ("/runs", "/atlases"):
            answers[path]["root"] = self.home.resolve().name
        status = {
            "state": "absent",
            "detail": "An exported page has no model: `monoscope view` has.",
        }
        ids = [run["id"] for run in answers["/runs"]["runs"]]
        if answers["/map"]["available"]:
            self._give("map", base64.b64encode(self.ask.binary("/map/points")).decode())
        comparisons = self._comparisons(answers)  # puts contexts among the answers
        return {
            "answers": answers | {"/atlas": told, "/status": {"version": "", "model": status}},
            "lists": answers["/lists"]["lists"], "n_features": len(latents), "of": of,
            "curves": {i: self.ask("/runs/curve", id=i, points=_POINTS) for i in ids},
            "runs": {i: _unplaced(self.ask("/runs/one", id=i)) for i in ids},
            "comparisons": comparisons, "files": self.files,
            **{f"{kind}_per_file": n for kind, n in _PER_FILE.items()},
        }  # fmt: skip

    def _comparisons(self, answers: dict[str, Any]) -> dict[str, str]:
        """The names of the files that hold this atlas beside each that can be compared."""
        rows = answers["/atlases"]["atlases"]
        own = next(row["id"] for row in rows if row["here"])
        names = {}
        for i, row in enumerate(row for row in rows if not row["here"] and not row["trouble"]):
            pair = {"a": own, "b": row["id"]}
            try:
                told = self._comparison(pair)
            except MonoscopeError:  # its SAE is not here: the page says that it is not held
                continue
            for family in told["items"][:_FAMILIES_WITH_CONTEXTS]:
                address = _contexts_address(pair, family)
                answers[address] = self.ask(address)
            names["|".join(pair.values())] = f"compare-{i}"
            self._give(f"compare-{i}", told)
        return names

    def _comparison(self, pair: Mapping[str, str]) -> Any:
        told = self.ask("/compare", **pair, threshold=THRESHOLD, limit=200)
        items, cursor = told["items"], told["next_cursor"]
        while cursor is not None:
            page = self.ask("/compare", **pair, threshold=THRESHOLD, limit=200, cursor=cursor)
            items, cursor = items + page["items"], page["next_cursor"]
        return told | {"items": items, "next_cursor": None}

    def _chunks(self, kind: str, records: Iterable[tuple[int, Any]]) -> None:
        """Write numbered records, ascending, a fixed span of numbers to a file."""
        held: dict[int, Any] = {}
        at: int | None = None
        numbers = self.files[kind] = []
        for number, record in records:
            file = number // _PER_FILE[kind]
            if at is not None and file != at:
                self._give(f"{kind}-{at}", held)
                numbers.append(at)
                held = {}
            at = file
            held[number] = record
        if at is not None:
            self._give(f"{kind}-{at}", held)
            numbers.append(at)

    def _give(self, name: str, value: Any) -> None:
        text = json.dumps(_rounded(value), ensure_ascii=True, separators=(",", ":"))
        write_atomic(self.folder / f"{name}.js", f"monoscopeGive({json.dumps(name)},{text});\n")


class _Asker:
    """Puts GET requests to the app in this process."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    def __call__(self, path: str, **query: Any) -> Any:
        return json.loads(self.binary(path, **query))

    def binary(self, path: str, **query: Any) -> bytes:
        path, _, given = path.partition("?")
        text = given or urlencode(query, doseq=True)
        status, body = asyncio.run(self._send("/api/v1" + path, text))
        if status != 200:
            problem = json.loads(body)
            raise MonoscopeError(
                problem.get("detail", f"{path} failed"),
                got=problem.get("got"),
                hint=problem.get("hint"),
            )
        return body

    async def _send(self, path: str, query: str) -> tuple[int, bytes]:
        status, body = 0, b""

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status, body
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                body += message.get("body", b"")

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
            "scheme": "http", "path": path, "raw_path": path.encode(), "root_path": "",
            "query_string": query.encode(), "headers": [(b"host", b"127.0.0.1")],
            "client": None, "server": ("127.0.0.1", 80),
        }  # fmt: skip
        await self.app(scope, receive, send)
        return status, body


def _contexts_address(pair: Mapping[str, str], family: Mapping[str, Any]) -> str:
    """Exactly as the Compare page asks for a family's contexts."""
    tie = family["links"][0]
    sides = [[row["latent"] for row in family[side]][:2] or [tie[side]] for side in ("a", "b")]
    query = {**pair, "left": sides[0], "right": sides[1], "limit": _CONTEXTS}
    return f"/compare/contexts?{urlencode(query, doseq=True)}"


def _table(
    catalogue: Catalogue, latents: list[int], notes: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What searching needs of every latent, as `static/disk/search.js` reads it."""
    wanted = set(latents)
    terms: dict[int, list[list[Any]]] = {}
    for row in catalogue.ask(
        "SELECT latent, text, tier, n FROM terms JOIN vocabulary USING (word)"
    ):
        if row["latent"] in wanted:
            terms.setdefault(row["latent"], []).append([row["text"], row["tier"], row["n"]])
    metas: dict[int, list[list[Any]]] = {}
    for row in catalogue.ask("SELECT latent, name, share FROM metas"):
        metas.setdefault(row["latent"], []).append([row["name"], row["share"]])
    columns = (
        "latent, label, label_method, label_f1, label_auc, n_active, density, peak, mean, "
        "interest, x, y, reads, writes"
    )
    return [
        row | {
            "terms": terms.get(row["latent"], []), "metas": metas.get(row["latent"], []),
            "lists": [name for name, ids in notes["lists"].items() if row["latent"] in ids],
            "note": notes["notes"].get(str(row["latent"]), ""),
        }
        for row in catalogue.ask(f"SELECT {columns} FROM rows ORDER BY latent")
        if row["latent"] in wanted
    ]  # fmt: skip


def _unplaced(run: dict[str, Any]) -> dict[str, Any]:
    """A run without the paths it was written to and read from."""
    if run["metrics"] is not None:
        run["metrics"].pop("out", None)
    source = (run["asked"] or {}).get("source")
    if isinstance(source, dict):
        for name in source.keys() & {"store", "model"}:
            source[name] = Path(str(source[name])).name
        if isinstance(source.get("corpus"), dict):
            source["corpus"].pop("path", None)
    return run


def _rounded(value: Any) -> Any:
    """Floats to six digits: more is not drawn, and it halves the files."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
