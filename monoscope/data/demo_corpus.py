"""The demo's text: Wikipedia leads in three languages, State of the Union addresses, Python source.

Each source is put in an order set by the seed, then they are interleaved so that any beginning of
the corpus has about the shares below.
"""

from __future__ import annotations

import hashlib
import json
import sysconfig
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from monoscope import assets
from monoscope.data.readers import Row

SHARES = {"wiki-en": 0.45, "wiki-fr": 0.15, "wiki-es": 0.15, "sotu": 0.12, "python": 0.13}
"""Part of each source in the text, counted in characters, for as long as none has run out."""

MAX_CHARS = 2500
"""Longest passage, in characters, that a speech or a source file is cut into."""

_TABLES = ("encodings", "pydoc_data")  # character tables and help texts stored as .py
_WIKIPEDIA, _SPEECHES, _PYTHON = "Wikipedia", "State of the Union", "Python source"
_CUTS = ("\n\n", "\n", ". ", " ")


def find_sources() -> dict[str, list[Path]]:
    """The files of each source, in the order of SHARES.

    Raises AssetError if one is altered, or neither installed nor to be fetched.
    """
    root = _library()
    library = assets.python_stdlib_paths()
    return {
        **{f"wiki-{lang}": [assets.wiki_path(lang)] for lang in ("en", "fr", "es")},
        "sotu": assets.sotu_paths(),
        "python": [path for path in library if path.relative_to(root).parts[0] not in _TABLES],
    }


def mixture(sources: Mapping[str, Sequence[Path]], seed: int) -> Iterator[Row]:
    """All rows of all sources, shuffled by `seed` and interleaved by SHARES."""
    rows = {
        name: shuffled(list(_rows(name, paths)), f"{seed}/{name}")
        for name, paths in sources.items()
    }
    return interleave(rows, SHARES)


def describe(seed: int) -> dict[str, object]:
    return {"kind": "demo", "seed": seed, "shares": dict(SHARES), "max_chars": MAX_CHARS}


def fingerprint(sources: Mapping[str, Sequence[Path]], seed: int) -> str:
    """SHA-256 over the packages' pins, the recipe, and the names and sizes of Python's files."""
    library = [(path.name, path.stat().st_size) for path in sources["python"]]
    pins = sorted({**assets.WIKI.parts, **assets.SOTU.parts}.items())
    mark = repr(("demo", seed, sorted(SHARES.items()), MAX_CHARS, pins, library))
    return hashlib.sha256(mark.encode()).hexdigest()


def attribution() -> list[str]:
    return [str(a) for a in assets.attributions() if a.name in (_WIKIPEDIA, _SPEECHES, _PYTHON)]


def interleave(rows: Mapping[str, Sequence[Row]], shares: Mapping[str, float]) -> Iterator[Row]:
    """Take from whichever source is furthest behind its share of the characters so far.

    A source that has run out is passed over; the others go on by their shares.
    """
    given = {name: 0 for name in rows}
    waiting = {name: iter(source) for name, source in rows.items()}
    while waiting:
        name = min(waiting, key=lambda n: given[n] / shares[n])
        row = next(waiting[name], None)
        if row is None:
            del waiting[name]
            continue
        given[name] += len(row.text or "")
        yield row


def shuffled(rows: Sequence[Row], seed: str) -> list[Row]:
    """Rows in the order of a hash of the seed and their origin: the same on every machine."""
    return sorted(rows, key=lambda row: hashlib.sha256(f"{seed}\0{row.origin}".encode()).digest())


def passages(text: str, max_chars: int) -> Iterator[str]:
    """Cut a text into slices of at most `max_chars` characters, at blank lines where it can be.

    A paragraph that is too long itself is cut at a line end, else after a sentence, else at a
    space, else anywhere. Line ends around a slice are left off; slices without text are dropped.
    """
    start = 0
    while start < len(text):
        end = len(text)
        if end - start > max_chars:
            end = start + max_chars
            for mark in _CUTS:
                found = text.rfind(mark, start + 1, end)
                if found > start and text[start:found].strip():
                    end = found + len(mark)
                    break
        piece = text[start:end].strip("\n").rstrip()
        if piece:
            yield piece
        start = end


def _rows(name: str, paths: Sequence[Path]) -> Iterator[Row]:
    if name.startswith("wiki-"):
        return _wiki_rows(paths[0], name.removeprefix("wiki-"))
    return _speech_rows(paths) if name == "sotu" else _python_rows(paths)


def _wiki_rows(path: Path, lang: str) -> Iterator[Row]:
    for article in json.loads(path.read_text("utf-8")).values():
        title, topic = article["title"], article["topic"]
        url = f"https://{lang}.wikipedia.org/wiki/{quote(title.replace(' ', '_'))}"
        meta = {"lang": lang, "source": _WIKIPEDIA, "title": title}
        meta |= {"topic": topic} if topic and topic != "Uncategorized" else {}
        meta |= {"licence": "CC BY-SA 4.0", "url": url}
        yield Row(article["extract"], meta, url)


def _speech_rows(paths: Sequence[Path]) -> Iterator[Row]:
    for path in paths:
        year, president, _ = path.stem.split("-")
        title = f"{year} {president}"
        meta = {"lang": "en", "source": _SPEECHES, "title": title, "licence": "public domain"}
        for number, piece in enumerate(passages(path.read_text("utf-8"), MAX_CHARS)):
            yield Row(piece, meta, f"{path.stem}#{number}", key=f"sotu/{path.stem}")


def _python_rows(paths: Sequence[Path]) -> Iterator[Row]:
    for path in paths:
        module = path.relative_to(_library()).as_posix()
        meta = {"lang": "python", "source": _PYTHON, "title": module, "licence": "PSF-2.0"}
        with tokenize.open(path) as file:  # heeds a declared encoding
            text = file.read()
        for number, piece in enumerate(passages(text, MAX_CHARS)):
            yield Row(piece, meta, f"{module}#{number}", key=f"python/{module}")


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))
