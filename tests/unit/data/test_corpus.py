"""Documents from every kind of source: what is read, in what order, with what beside it."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from monoscope.data import listing
from monoscope.data.corpus import Corpus, Document, is_held_out
from monoscope.errors import ConfigError, CorpusError

ROWS = [
    {"text": "one", "lang": "en", "n": 1},
    {"text": "deux é", "lang": "fr", "n": 2},
    {"text": "three\nlines\nhere", "lang": None, "n": 3},
]
TEXTS = [str(row["text"]) for row in ROWS]


def write_jsonl(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data)
    if path.suffix == ".zst":
        data = zstandard.ZstdCompressor().compress(data)
    path.write_bytes(data)
    return path


def texts(corpus: Corpus) -> list[str]:
    return [document.text for document in corpus]


# --- documents and the held-out split


def test_a_key_is_the_hash_of_the_text_unless_given() -> None:
    assert Document("é").key == hashlib.sha256("é".encode()).hexdigest()
    assert Document("é", {}, "mine").key == "mine"
    assert Document("x").meta == {}


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_fraction_holds_out_all_that_a_smaller_does(key: str, a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert is_held_out(key, low) <= is_held_out(key, high)
    assert not is_held_out(key, 0.0)
    assert is_held_out(key, 1.0)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_the_fraction_is_the_share_held_out(fraction: float) -> None:
    n = 20_000
    share = sum(is_held_out(Document(f"text {i}").key, fraction) for i in range(n)) / n
    assert abs(share - fraction) < 4 * (fraction * (1 - fraction) / n) ** 0.5


def test_the_split_never_changes() -> None:
    """Stores on disk depend on it, so these sides are fixed for good."""
    sides = [is_held_out(key, 0.5) for key in "abcdefghij"]
    want = [hashlib.sha256(b"held out\0" + k.encode()).digest()[0] < 128 for k in "abcdefghij"]
    assert sides == want
    assert sides == [bool(int(c)) for c in "0001111011"]


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_fraction_out_of_range_is_an_error(fraction: float) -> None:
    with pytest.raises(ConfigError, match="expected 0 to 1"):
        is_held_out("key", fraction)


# --- files


def test_text_files_are_one_document_each_in_order_of_name(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("bee")
    (tmp_path / "a.MD").write_text("\ufeffa mark", encoding="utf-8")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.py").write_bytes(b"x = 1\r\ny = 2\r\n")
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b"packed"))
    (tmp_path / ".hidden.txt").write_text("hidden")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "e.txt").write_text("hidden too")
    (tmp_path / "f.png").write_bytes(b"\x89PNG\0")
    corpus = Corpus.from_path(tmp_path)
    assert [(d.text, d.meta) for d in corpus] == [
        ("a mark", {"file": "a.MD"}),
        ("bee", {"file": "b.txt"}),
        ("packed", {"file": "d.txt.gz"}),
        ("x = 1\ny = 2\n", {"file": "sub/c.py"}),
    ]
    assert corpus.description == {
        "kind": "files",
        "path": str(tmp_path),
        "n_files": 4,
        "suffixes": {".md": 1, ".py": 1, ".txt": 2},
        "text_column": None,
    }
    json.dumps(corpus.description)


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz", "t.jsonl.zst"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    corpus = Corpus.from_path(write_jsonl(tmp_path / name))
    assert corpus.description["text_column"] == "text"
    assert [(d.text, d.meta) for d in corpus] == [
        ("one", {"lang": "en"}),
        ("deux é", {"lang": "fr"}),
        ("three\nlines\nhere", {}),
    ]


def test_compressed_streams_of_several_frames_are_read_to_the_end(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"{i} " * 5000}).encode() + b"\n" for i in range(40)]
    pack = zstandard.ZstdCompressor().compress
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(pack(line) for line in lines))
    (tmp_path / "b.jsonl.gz").write_bytes(b"".join(gzip.compress(line) for line in lines))
    for name in ("a.jsonl.zst", "b.jsonl.gz"):
        assert texts(Corpus.from_path(tmp_path / name)) == [f"{i} " * 5000 for i in range(40)]


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    long = "long " * 50_000  # longer than the csv module reads unless told
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["id", "content", "topic"], ["1", 'a "b",\nc', "x"], ["2", long, ""]])
    assert [(d.text, d.meta) for d in Corpus.from_path(path)] == [
        ('a "b",\nc', {"id": "1", "topic": "x"}),
        (long, {"id": "2"}),
    ]


def test_parquet_reads_strings_of_every_kind(tmp_path: Path) -> None:
    table = pa.table(
        {
            "n": pa.array([1, 2, 3]),
            "body": pa.array(TEXTS, pa.large_string()),
            "lang": pa.array(["en", "fr", None]).dictionary_encode(),
            "vector": pa.array([[1.0], [2.0], [3.0]]),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    corpus = Corpus.from_path(tmp_path / "t.parquet", text_column="body")
    assert [(d.text, d.meta) for d in corpus] == [
        ("one", {"lang": "en"}),
        ("deux é", {"lang": "fr"}),
        ("three\nlines\nhere", {}),
    ]


def test_patterns(tmp_path: Path) -> None:
    for name in ("a/x.txt", "b/x.txt", "b/y.md", "b/deep/z.txt", "b/w.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert texts(Corpus.from_path(f"{tmp_path}/*/x.*")) == ["a/x.txt", "b/x.txt"]
    deep = Corpus.from_path(f"{tmp_path}/**/*.txt")
    assert texts(deep) == ["a/x.txt", "b/deep/z.txt", "b/x.txt"]
    assert texts(Corpus.from_path(f"{tmp_path}/b/*")) == ["b/x.txt", "b/y.md"]
    (tmp_path / "odd[1].txt").write_text("a name with brackets")
    assert texts(Corpus.from_path(tmp_path / "odd[1].txt")) == ["a name with brackets"]


def test_empty_documents_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"text": "a"}, {"text": ""}, {"text": None}, {"text": " \n\t"}, {"text": "b"}]
    corpus = Corpus.from_path(write_jsonl(tmp_path / "t.jsonl", rows))
    for _ in range(2):
        assert texts(corpus) == ["a", "b"]
        assert corpus.n_empty == 3


def test_tables_are_streamed_not_loaded(tmp_path: Path) -> None:
    """The last line is broken: the first ones can be read only if nobody looks ahead."""
    path = write_jsonl(tmp_path / "t.jsonl", [{"text": f"t{i}"} for i in range(1000)])
    with open(path, "a") as file:
        file.write("{broken\n")
    documents = iter(Corpus.from_path(path))
    assert next(documents).text == "t0"
    with pytest.raises(CorpusError, match=r"t\.jsonl:1001: malformed JSON"):
        list(documents)


def test_a_corpus_reads_the_same_twice_and_side_by_side(tmp_path: Path) -> None:
    corpus = Corpus.from_path(write_jsonl(tmp_path / "t.jsonl.zst"))
    assert [(a.text, b.text) for a, b in zip(corpus, corpus, strict=True)] == [
        (t, t) for t in TEXTS
    ]
    assert list(corpus) == list(corpus)


# --- which column holds the text


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"text": "a", "title": "b"}, "text"),
        ({"content": "a", "title": "b"}, "content"),
        ({"body": "a", "n": 1, "tags": ["x"], "more": {"k": "v"}}, "body"),
        ({"body": "a", "zip": "01234"}, "body"),
        ({"text": "007", "title": "b"}, "text"),
        ({"text": None, "title": "b"}, "text"),
    ],
)
def test_the_text_column_is_guessed_where_it_is_plain(
    tmp_path: Path, row: dict[str, object], column: str
) -> None:
    corpus = Corpus.from_path(write_jsonl(tmp_path / "t.jsonl", [row]))
    assert corpus.description["text_column"] == column


@pytest.mark.parametrize(
    "rows",
    [
        [{"title": "a", "body": "b"}],
        [{"text": "a", "content": "b"}],
        [{"title": "a", "body": None}],
        [{"n": 1, "body": "b"}, {"n": 2, "body": "b", "late": "c"}],
        [{"n": 1}],
    ],
)
def test_the_text_column_is_not_guessed_in_doubt(
    tmp_path: Path, rows: list[dict[str, object]]
) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", rows)
    with pytest.raises(CorpusError, match="cannot tell which column") as caught:
        Corpus.from_path(path)
    for row in rows:
        assert all(name in str(caught.value) for name in row)
    assert "--text-column" in str(caught.value)


def test_an_empty_first_table_does_not_decide(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")
    write_jsonl(tmp_path / "b.jsonl")
    assert texts(Corpus.from_path(tmp_path)) == TEXTS


# --- Python, standard input, names


def test_lists_are_copied_and_iterators_kept() -> None:
    source = ["a", "b"]
    corpus = Corpus.from_texts(source)
    source.append("c")
    assert texts(corpus) == ["a", "b"]
    once = Corpus.from_texts(t for t in "xyz")
    assert texts(once) == texts(once) == ["x", "y", "z"]


def test_other_iterables_are_gone_through_afresh() -> None:
    passes = []

    class Lazy:
        def __iter__(self) -> Iterator[str]:
            passes.append(1)
            return iter(["a", "b"])

    corpus = Corpus.from_texts(Lazy())
    assert not passes
    assert texts(corpus) == texts(corpus) == ["a", "b"]
    assert len(passes) == 2


def test_documents_keep_their_metadata_and_key() -> None:
    document = Document("a", {"lang": "en"}, "k")
    assert list(Corpus.from_texts([document, "b"])) == [document, Document("b")]


def pipe(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.mark.parametrize(
    ("data", "want"),
    [
        (b"one\nstill one\n\n  \ntwo\n", ["one\nstill one", "two"]),
        (b"one\n\nstill one\n\f\ntwo\n", ["one\n\nstill one", "two"]),
        (b'\xef\xbb\xbf{"text": "one"}\n\n{"text": "two"}\n', ["one", "two"]),
        (b"{ not JSON }\r\n\r\ntwo", ["{ not JSON }", "two"]),
    ],
)
def test_standard_input(monkeypatch: pytest.MonkeyPatch, data: bytes, want: list[str]) -> None:
    pipe(monkeypatch, data)
    corpus = Corpus.from_path("-")
    assert texts(corpus) == texts(corpus) == want


def test_standard_input_takes_a_text_column(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, b'{"a": "x", "b": "y"}\n')
    [document] = Corpus.from_path("-", "b")
    assert (document.text, document.meta) == ("y", {"a": "x"})


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Corpus.from_name(str(write_jsonl(tmp_path / "t.jsonl"))).description["kind"] == "files"
    assert Corpus.from_name("demo", seed=3).description["seed"] == 3
    pipe(monkeypatch, b"text")
    assert Corpus.from_name("-").description["kind"] == "stdin"


# --- the hub, with a stand-in for `datasets`


class FakeHub:
    """What `datasets` and the hub's client are asked, and what they answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[dict[str, Any]] = ROWS
        self.asked: list[tuple[object, ...]] = []
        self.sha = "c0ffee"
        module = ModuleType("datasets")
        module.load_dataset = self.load  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "datasets", module)
        monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda _, name: self)

    def load(self, *args: object, **options: object) -> Iterator[dict[str, Any]]:
        self.asked.append((*args, options))
        return iter(self.rows)


def test_hub_datasets_are_streamed_at_a_settled_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeHub(monkeypatch)
    corpus = Corpus.from_name("hf:some/one:config")
    assert texts(corpus) == texts(corpus) == TEXTS
    options = {"split": "train", "revision": "c0ffee", "streaming": True}
    assert fake.asked == [("some/one", "config", options)] * 3  # a look at its columns, two passes
    assert corpus.attribution == [
        "Hugging Face dataset some/one:config: https://huggingface.co/datasets/some/one"
    ]
    before = corpus.fingerprint
    fake.sha = "decade"
    assert Corpus.from_hub("some/one:config").fingerprint != before


def test_hub_failures_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeHub(monkeypatch)
    corpus = Corpus.from_hub("some/one", text_column="text")

    def broken(*_: object, **__: object) -> Iterator[dict[str, Any]]:
        yield ROWS[0]
        raise RuntimeError("connection\nlost")

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", broken)
    with pytest.raises(CorpusError, match=r"cannot read some/one \(train\) after row 1: got conn"):
        list(corpus)
    fake.rows = []
    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", fake.load)
    with pytest.raises(CorpusError, match="no text in some/one"):
        Corpus.from_hub("some/one")


def test_hub_datasets_without_the_library_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CorpusError, match=r'pip install "monoscope\[hub\]"'):
        Corpus.from_hub("some/one")


def test_a_hub_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeHub(monkeypatch)

    def fail(*_: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", fail)
    with pytest.raises(CorpusError, match=r"cannot find the dataset.*some/one \(no network\)"):
        Corpus.from_hub("some/one")


# --- fingerprints


def folder(root: Path, **files: str) -> Path:
    root.mkdir()
    for name, text in files.items():
        (root / f"{name}.txt").write_text(text)
    return root


def test_a_fingerprint_is_of_names_and_content_alone(tmp_path: Path) -> None:
    base = Corpus.from_path(folder(tmp_path / "a", x="one", y="two")).fingerprint
    assert len(base) == 64 and int(base, 16) >= 0
    same = folder(tmp_path / "b", y="two", x="one")
    assert Corpus.from_path(same).fingerprint == base
    assert Corpus.from_path(f"{same}/*.txt").fingerprint == base
    others = [
        folder(tmp_path / "c", x="one", y="twO"),
        folder(tmp_path / "d", x="one", z="two"),
        folder(tmp_path / "e", x="one"),
        folder(tmp_path / "f", x="two", y="one"),
    ]
    assert len({base, *(Corpus.from_path(path).fingerprint for path in others)}) == 5


def test_a_fingerprint_depends_on_the_text_column(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "t.jsonl")
    by_text, by_lang = (Corpus.from_path(path, c).fingerprint for c in ("text", "lang"))
    assert by_text != by_lang
    assert Corpus.from_path(path).fingerprint == by_text


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_large_files_are_sampled_at_both_ends_and_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: float
) -> None:
    monkeypatch.setattr(listing, "_WHOLE_BYTES", 1000)
    monkeypatch.setattr(listing, "_SAMPLE_BYTES", 100)
    path = tmp_path / "t.txt"
    text = bytearray(b"a" * 1503)  # sixteen blocks of 100 bytes leave no gap
    path.write_bytes(text)
    before = Corpus.from_path(path).fingerprint
    text[round(place * 1502)] = ord("b")
    path.write_bytes(text)
    assert Corpus.from_path(path).fingerprint != before


def test_fingerprints_of_texts() -> None:
    def of(*items: str | Document) -> str:
        return Corpus.from_texts(items).fingerprint

    assert of("a", "b") == Corpus.from_texts(iter(["a", "b"])).fingerprint
    assert len({of("a", "b"), of("b", "a"), of("ab"), of("a", "b", ""), of("a")}) == 5
    assert of(Document("a", {}, "k")) != of("a")
    assert of("a", "b") != of("aNone\0b")  # where one text ends and the next begins counts


def test_files_that_are_passed_over_are_counted_in_one_line(tmp_path, caplog):
    (tmp_path / "a.txt").write_text("oak", "utf-8")
    (tmp_path / ".hidden.bin").write_bytes(b"\0")
    Corpus.from_path(tmp_path)
    assert not caplog.messages
    for name in ("x.bin", "deep/y.HTML", "z.bin", "README"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\0")
    assert len(list(Corpus.from_path(tmp_path))) == 1
    Corpus.from_path(str(tmp_path / "*[nt]"))
    assert caplog.messages == [
        "skipped 4 files of other kinds (.bin, .html, without a suffix)",
        "skipped 2 files of other kinds (.bin)",
    ]
