"""Corpus: documents to read, from wherever text is kept, streamed and readable again and again."""

from __future__ import annotations

import hashlib
import io
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from monoscope.data import demo_corpus, hub, listing, readers
from monoscope.data.readers import TABLE_SUFFIXES, Row
from monoscope.errors import ConfigError, CorpusError

_STDIN = "standard input"
_HASHED_TEXTS = 10_000  # of an iterable that is only streamed, this many texts are hashed


@dataclass(frozen=True)
class Document:
    """One text, what is known about it, and the key that decides whether it is held out.

    key: by default the SHA-256 of the text, in hex.

    Raises CorpusError if the text holds a lone surrogate, which no encoding can write.
    """

    text: str
    meta: dict[str, str] = field(default_factory=dict)
    key: str = ""

    def __post_init__(self) -> None:
        try:
            digest = hashlib.sha256(self.text.encode("utf-8")).hexdigest()
        except UnicodeEncodeError as exc:
            raise CorpusError(
                "a document is not valid Unicode",
                got=f"a lone surrogate U+{ord(self.text[exc.start]):04X} at character {exc.start}",
            ) from exc
        if not self.key:
            object.__setattr__(self, "key", digest)


def is_held_out(key: str, fraction: float) -> bool:
    """Whether the document with this key belongs to the held-out part: hash(key) < fraction.

    It depends on nothing else, so a document never changes side, and what is held out at a
    smaller fraction is held out at every larger one.

    Raises ConfigError unless 0 <= fraction <= 1.
    """
    if not 0 <= fraction <= 1:
        raise ConfigError("held_out is out of range", got=fraction, expected="0 to 1")
    digest = hashlib.sha256(b"held out\0" + key.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


class Corpus:
    """A sequence of documents that can be gone through any number of times.

    description: where the text comes from, ready for JSON.  attribution: whom it is owed to.
    n_empty: documents without text that the latest pass left out.
    """

    def __init__(
        self,
        rows: Callable[[], Iterator[Row]],
        description: dict[str, object],
        fingerprint: Callable[[], str],
        attribution: Sequence[str] = (),
    ) -> None:
        self._rows = rows
        self._make_fingerprint = fingerprint
        self._fingerprint: str | None = None
        self.description = description
        self.attribution = list(attribution)
        self.n_empty = 0

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) that tells this text from other text, worked out when first asked for."""
        if self._fingerprint is None:
            self._fingerprint = self._make_fingerprint()
        return self._fingerprint

    def __iter__(self) -> Iterator[Document]:
        """The documents in order, those without text left out.

        Raises CorpusError where the text is damaged, and at the end if there was no text at all.
        """
        n_empty = n_documents = 0
        self.n_empty = 0
        for row in self._rows():
            if row.text is None or not row.text.strip():
                n_empty += 1
                self.n_empty = n_empty
                continue
            n_documents += 1
            yield _document(row)
        if n_documents == 0:
            name = self.description.get("path") or self.description.get("name")
            raise CorpusError(
                f"there is no text in {name}",
                got=f"{n_empty} empty documents" if n_empty else "no documents",
                expected="at least one document with text",
            )

    def __repr__(self) -> str:
        return f"Corpus({self.description})"

    @classmethod
    def from_name(cls, name: str, text_column: str | None = None, seed: int = 0) -> Corpus:
        """What the command line calls a corpus: "demo", "hf:NAME", "-", a path or a pattern.

        Raises CorpusError as from_path and from_hub do.
        """
        if name == "demo":
            if text_column is not None:
                raise _no_tables("the demo corpus", text_column)
            return cls.demo(seed)
        if name.startswith("hf:"):
            return cls.from_hub(name.removeprefix("hf:"), text_column=text_column)
        return cls.from_path(name, text_column)

    @classmethod
    def from_path(cls, path: str | Path, text_column: str | None = None) -> Corpus:
        """A file, a folder with its subfolders, a glob pattern, or "-" for standard input.

        Text files (.txt .md .py) are one document each, tables (.jsonl .csv .parquet) one a row.
        Standard input is read at once: JSON lines if it starts with {" and otherwise texts parted
        by lines holding only a form feed, or, where there is no such line, by blank lines.

        Raises CorpusError if there is nothing to read, or the text column is unknown or in doubt.
        """
        if str(path) == "-":
            return cls._from_stdin(text_column)
        files = listing.find(path)
        tables = [file for file in files if readers.suffix_of(file.path) in TABLE_SUFFIXES]
        column = _column_of(tables, text_column)
        if text_column is not None and not tables:
            raise _no_tables(str(path), text_column)

        def rows() -> Iterator[Row]:
            for file in files:
                if readers.suffix_of(file.path) not in TABLE_SUFFIXES:
                    yield readers.text_row(file.path, file.name)
                elif column is not None:
                    yield from readers.table_rows(readers.records(file.path, column), column)

        suffixes = Counter(str(readers.suffix_of(file.path)) for file in files)
        description: dict[str, object] = {
            "kind": "files",
            "path": str(path),
            "n_files": len(files),
            "suffixes": dict(sorted(suffixes.items())),
            "text_column": column,
        }
        return cls(rows, description, lambda: listing.fingerprint(files, [str(column)]))

    @classmethod
    def from_texts(cls, texts: Iterable[str | Document], name: str = "texts") -> Corpus:
        """Strings (or Documents, to give metadata and keys) from Python.

        A list, a tuple or an iterator is taken into memory at once, since it could change or be
        used up; any other iterable is gone through afresh each time, and only its first 10,000
        texts count for the fingerprint.

        Raises CorpusError if it is empty, a single string, or holds anything but text.
        """
        if isinstance(texts, str | bytes):
            raise CorpusError(
                "a corpus is made of many texts",
                got=f"one {type(texts).__name__}",
                expected="an iterable of strings",
                hint="Use Corpus.from_path to read a file, or put the text into a list.",
            )
        kept = isinstance(texts, list | tuple | Iterator)
        source: Iterable[str | Document] = tuple(texts) if kept else texts

        def rows() -> Iterator[Row]:
            for number, item in enumerate(source):
                yield _python_row(item, f"{name}, text {number}")

        description: dict[str, object] = {"kind": "texts", "name": name}
        if isinstance(source, tuple):
            description["n_texts"] = len(source)
            if not source:
                raise CorpusError(f"there is no text in {name}", got="no documents")
        return cls(rows, description, lambda: _hash_rows(rows(), None if kept else _HASHED_TEXTS))

    @classmethod
    def from_hub(cls, name: str, split: str = "train", text_column: str | None = None) -> Corpus:
        """A dataset of the Hugging Face hub, streamed; "NAME:CONFIG" picks a configuration.

        The revision is settled now, so that every pass reads the same text.

        Raises CorpusError if `datasets` is not installed, the dataset cannot be reached, or the
        text column is unknown or in doubt.
        """
        dataset = hub.open_dataset(name, split)
        column = readers.choose_column(dataset.records(), text_column, dataset.title)
        if column is None:
            raise CorpusError(f"there is no text in {dataset.title}", got="no rows")
        description: dict[str, object] = {
            "kind": "hub",
            "name": name,
            "split": split,
            "revision": dataset.revision,
            "text_column": column,
        }
        mark = repr(("hub", name, split, dataset.revision, column))
        return cls(
            lambda: readers.table_rows(dataset.records(), column),
            description,
            lambda: hashlib.sha256(mark.encode()).hexdigest(),
            [f"Hugging Face dataset {name}: https://huggingface.co/datasets/{dataset.repository}"],
        )

    @classmethod
    def demo(cls, seed: int = 0) -> Corpus:
        """The embedded mixture: Wikipedia leads in three languages, speeches and Python source.

        Any beginning of it has about the same mixture; `seed` sets the order.

        Raises AssetError if an embedded text is altered, or neither installed nor to be fetched.
        """
        sources = demo_corpus.find_sources()
        return cls(
            lambda: demo_corpus.mixture(sources, seed),
            {"name": "the demo corpus", **demo_corpus.describe(seed)},
            lambda: demo_corpus.fingerprint(sources, seed),
            demo_corpus.attribution(),
        )

    @classmethod
    def _from_stdin(cls, text_column: str | None) -> Corpus:
        data = sys.stdin.buffer.read()
        is_json = data.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b'{"')
        column = None
        if is_json:
            column = readers.choose_column(_stdin_records(data), text_column, _STDIN)
        elif text_column is not None:
            raise _no_tables(_STDIN, text_column)

        def rows() -> Iterator[Row]:
            if column is not None:
                return readers.table_rows(_stdin_records(data), column)
            return readers.piped_texts(data, _STDIN)

        digest = hashlib.sha256(repr(("stdin", column)).encode() + data).hexdigest()
        description: dict[str, object] = {"kind": "stdin", "name": _STDIN, "text_column": column}
        return cls(rows, description, lambda: digest)


def _document(row: Row) -> Document:
    try:
        return Document(row.text or "", row.meta, row.key or "")
    except CorpusError as exc:
        raise CorpusError(f"{row.origin}: {exc.what}", got=exc.got) from exc


def _python_row(item: object, origin: str) -> Row:
    if isinstance(item, Document):
        return Row(item.text, item.meta, origin, item.key)
    if isinstance(item, str):
        return Row(item, {}, origin)
    got = type(item).__name__
    raise CorpusError(f"{origin}: not a text", got=got, expected="a string or a Document")


def _hash_rows(rows: Iterator[Row], most: int | None) -> str:
    total = hashlib.sha256(b"texts")
    for number, row in enumerate(rows):
        if number == most:
            break
        text = (row.text or "").encode("utf-8", "surrogatepass")
        total.update(f"\n{len(text)}\0{row.key}\0".encode() + text)
    return total.hexdigest()


def _column_of(tables: Sequence[listing.Found], asked: str | None) -> str | None:
    """The text column, from the first table that has rows."""
    for file in tables:
        column = readers.choose_column(readers.records(file.path), asked, str(file.path))
        if column is not None:
            return column
    return None


def _stdin_records(data: bytes) -> Iterator[readers.Record]:
    return readers.json_records(io.BytesIO(data), _STDIN)


def _no_tables(where: str, column: str) -> CorpusError:
    return CorpusError(
        f"--text-column {column} has no use: {where} has no tables",
        expected=f"files of {', '.join(TABLE_SUFFIXES)}",
    )
