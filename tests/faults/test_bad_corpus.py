"""Every way text can be bad: one clear line that names the file, the place and what to do."""

from __future__ import annotations

import gzip
import io
import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from monoscope.data.corpus import Corpus
from monoscope.errors import CorpusError

GOOD = b'{"text": "one"}\n{"text": "two"}\n'


def problem(path: Path | str, text_column: str | None = None) -> str:
    """The message that reading the corpus ends with; what could be read comes first."""
    with pytest.raises(CorpusError) as caught:
        list(Corpus.from_path(path, text_column))
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    put(tmp_path / "letters.txt", b"x")
    message = problem(tmp_path / "leters.txt")
    assert message.startswith(f"no such file or folder: got {tmp_path}/leters.txt")
    assert f"Did you mean {tmp_path}/letters.txt?" in message
    assert "hf:NAME" in problem(tmp_path / "nowhere" / "zzz.txt")


def test_an_empty_folder_names_what_is_read(tmp_path: Path) -> None:
    message = problem(tmp_path)
    assert "an empty folder" in message
    for suffix in (".txt", ".md", ".py", ".jsonl", ".csv", ".parquet", ".gz", ".zst"):
        assert suffix in message


def test_a_folder_of_other_files_names_what_is_read(tmp_path: Path) -> None:
    put(tmp_path / "a.png", b"x")
    put(tmp_path / "b.docx", b"x")
    message = problem(tmp_path)
    assert "got 2 files of other kinds; expected .txt, .md" in message
    assert "got 2 files of other kinds" in problem(f"{tmp_path}/*")


def test_a_pattern_that_matches_nothing(tmp_path: Path) -> None:
    assert problem(f"{tmp_path}/*.txt") == f"no file matches the pattern: got {tmp_path}/*.txt"


@pytest.mark.parametrize("name", ["a.docx", "a", "a.txt.bz2", "a.parquet.gz", "a.gz"])
def test_an_unsupported_kind_of_file(tmp_path: Path, name: str) -> None:
    message = problem(put(tmp_path / name, b"x"))
    assert name in message and "expected .txt, .md, .py, .jsonl" in message


def test_something_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    assert "neither a file nor a folder" in problem(tmp_path / "pipe.txt")


@pytest.mark.parametrize(
    "column, expected",
    [
        ("bodi", "no column 'bodi' in {}: expected one of id, body. Use --text-column body?"),
        ("zzz", "no column 'zzz' in {}: expected one of id, body. Name one of them with"),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_an_unknown_column_names_those_there(
    tmp_path: Path, suffix: str, column: str, expected: str
) -> None:
    path = tmp_path / f"t{suffix}"
    if suffix == ".jsonl":
        put(path, b'{"id": "x", "body": "one"}\n')
    elif suffix == ".csv":
        put(path, b"id,body\nx,one\n")
    else:
        pq.write_table(pa.table({"id": ["x"], "body": ["one"]}), path)
    assert problem(path, column).startswith(expected.format(path))
    ambiguous = problem(path)
    assert ambiguous.startswith(f"cannot tell which column of {path} holds the text")
    assert "got columns id, body" in ambiguous and "--text-column" in ambiguous


def test_a_later_table_without_the_column(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl", GOOD)
    put(tmp_path / "b.jsonl", b'{"body": "three"}\n')
    assert f"no column 'text' in {tmp_path}/b.jsonl:1: expected one of body" in problem(tmp_path)
    (tmp_path / "b.jsonl").unlink()
    pq.write_table(pa.table({"body": ["three"]}), tmp_path / "b.parquet")
    assert f"no column 'text' in {tmp_path}/b.parquet: expected one of body" in problem(tmp_path)


def test_a_column_without_text(tmp_path: Path) -> None:
    path = put(tmp_path / "t.jsonl", GOOD + b'{"text": 3}\n')
    assert f"{path}:3: column 'text' holds no text: got int" in problem(path, "text")
    pq.write_table(pa.table({"n": [1, 2]}), tmp_path / "t.parquet")
    assert "t.parquet row 1: column 'n' holds no text: got int" in problem(
        tmp_path / "t.parquet", "n"
    )
    assert "none of them of strings" in problem(tmp_path / "t.parquet")


def test_a_column_asked_of_files_that_have_none(tmp_path: Path) -> None:
    assert "has no tables" in problem(put(tmp_path / "a.txt", b"x"), "body")
    with pytest.raises(CorpusError, match="has no tables"):
        Corpus.from_name("demo", "body")


@pytest.mark.parametrize("suffix", [".txt", ".md", ".py", ".txt.gz", ".csv", ".jsonl"])
def test_a_binary_file(tmp_path: Path, suffix: str) -> None:
    head = b"text\n" if suffix == ".csv" else GOOD if suffix == ".jsonl" else b"words\n"
    data = head + b"\x7fELF\0\0\xff\n"
    path = put(tmp_path / f"a{suffix}", gzip.compress(data) if "gz" in suffix else data)
    message = problem(path)
    assert message.startswith(f"{path} is not text: it holds a NUL byte")
    assert f"0x00 at byte {len(head) + 4}" in message


def test_utf16_is_told_apart(tmp_path: Path) -> None:
    assert "UTF-16" in problem(put(tmp_path / "a.txt", "words".encode("utf-16")))


@pytest.mark.parametrize("suffix", [".txt", ".txt.zst", ".csv", ".jsonl"])
def test_invalid_utf8_names_file_and_byte(tmp_path: Path, suffix: str) -> None:
    head = {".csv": b"text\n\xc3\xa9 fine\n", ".jsonl": GOOD}.get(suffix, b"\xc3\xa9 fine\n")
    data = head + b"caf\xe9 au lait\n"
    packed = zstandard.ZstdCompressor().compress(data) if "zst" in suffix else data
    path = put(tmp_path / f"a{suffix}", packed)
    message = problem(path)
    assert message.startswith(f"{path} is not valid UTF-8: got 0xe9 at byte {len(head) + 3};")


@pytest.mark.parametrize("suffix", [".jsonl", ".txt", ".csv"])
@pytest.mark.parametrize("compression", ["gz", "zst"])
@pytest.mark.parametrize("left", [0.99, 0.5, 0.1])
def test_a_compressed_file_cut_short(
    tmp_path: Path, suffix: str, compression: str, left: float
) -> None:
    noise = "".join(f"{i * 7919 % 10007} words in line {i}" for i in range(3000))
    lines = f'{{"text": "{noise}"}}\n' if suffix == ".jsonl" else f"text\n{noise}\n"
    pack = gzip.compress if compression == "gz" else zstandard.ZstdCompressor().compress
    whole = pack(lines.encode())
    path = tmp_path / f"a{suffix}.{compression}"
    assert len(list(Corpus.from_path(put(path, whole)))) == 1
    message = problem(put(path, whole[: int(len(whole) * left)]))
    assert message.startswith(f"{path} is cut short or damaged: got ")
    assert message.endswith("Copy or download it again.")


@pytest.mark.parametrize("compression", ["gz", "zst"])
def test_a_compressed_file_cut_inside_its_first_bytes(tmp_path: Path, compression: str) -> None:
    pack = gzip.compress if compression == "gz" else zstandard.ZstdCompressor().compress
    path = put(tmp_path / f"a.jsonl.{compression}", pack(GOOD)[:3])
    assert "cut short or damaged" in problem(path)


@pytest.mark.parametrize("compression", ["gz", "zst"])
def test_a_file_that_is_not_compressed_as_it_says(tmp_path: Path, compression: str) -> None:
    path = put(tmp_path / f"a.jsonl.{compression}", GOOD)
    assert f"{path} is cut short or damaged" in problem(path)


def test_what_was_read_before_a_cut_is_not_lost(tmp_path: Path) -> None:
    lines = b"".join(b'{"text": "document %d"}\n' % i for i in range(50_000))
    whole = zstandard.ZstdCompressor().compress(lines)
    path = put(tmp_path / "a.jsonl.zst", whole[:-5])
    seen = 0
    with pytest.raises(CorpusError, match="cut short"):
        for seen, document in enumerate(Corpus.from_path(path), 1):
            assert document.text == f"document {seen - 1}"
    assert seen > 1000


@pytest.mark.parametrize(
    "line, what",
    [
        (b'{"text": "three"\n', "malformed JSON: got Expecting"),
        (b"three\n", "malformed JSON"),
        (b'["three"]\n', "not a JSON object: got list"),
        (b"[" * 100_000 + b"\n", "malformed JSON"),
    ],
)
def test_a_bad_json_line_names_file_and_line(tmp_path: Path, line: bytes, what: str) -> None:
    path = put(tmp_path / "t.jsonl", GOOD + b"\n" + line)
    assert problem(path).startswith(f"{path}:4: {what}")


def test_a_lone_surrogate_names_its_line(tmp_path: Path) -> None:
    path = put(tmp_path / "t.jsonl", GOOD + b'{"text": "a\\ud800"}\n')
    message = problem(path)
    assert message.startswith(f"{path}:3: a document is not valid Unicode")
    assert "U+D800 at character 1" in message


@pytest.mark.parametrize(
    "data, what",
    [
        (b"text,n\none,1\ntwo\n", ":3: a row of the wrong width: got 1 fields; expected 2"),
        (b'text,n\none,1\n"two,2\n', ":3: malformed CSV"),
        (b"text,text\none,two\n", ": two columns have the same name: got 'text'"),
        (b"id;body\n1;one\n", ": the columns are not parted by commas"),
        (b"id\tbody\n1\tone\n", ": the columns are not parted by commas"),
    ],
)
def test_a_bad_csv_names_file_and_line(tmp_path: Path, data: bytes, what: str) -> None:
    path = put(tmp_path / "t.csv", data)
    assert problem(path).startswith(f"{path}{what}")


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": [f"document {i}" for i in range(5000)]}), path)
    whole = path.read_bytes()
    assert len(list(Corpus.from_path(path))) == 5000
    for data in (whole[:-20], whole[: len(whole) // 2], b"", b"text"):
        assert problem(put(path, data)).startswith(f"cannot read {path} as Parquet: got ")


@pytest.mark.parametrize(
    "name, data",
    [
        ("a.txt", b""),
        ("a.txt", b" \n\t\n"),
        ("a.jsonl", b'{"text": ""}\n{"text": null}\n'),
        ("a.csv", b"text,n\n  ,1\n"),
    ],
)
def test_documents_that_are_all_empty(tmp_path: Path, name: str, data: bytes) -> None:
    path = put(tmp_path / name, data)
    count = 2 if name == "a.jsonl" else 1
    assert problem(path).startswith(f"there is no text in {path}: got {count} empty documents")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.jsonl.gz", "a.jsonl.zst"])
def test_tables_without_rows(tmp_path: Path, name: str) -> None:
    path = put(tmp_path / name, b"")
    assert problem(path).startswith(f"there is no text in {path}: got no documents")


def test_a_file_that_went_away(tmp_path: Path) -> None:
    path = put(tmp_path / "a.txt", b"x")
    corpus = Corpus.from_path(path)
    path.unlink()  # between finding it and reading it
    with pytest.raises(CorpusError, match=r"cannot read .*a\.txt: got No such file"):
        list(corpus)
    with pytest.raises(CorpusError, match=r"cannot read .*a\.txt"):
        _ = corpus.fingerprint


@pytest.mark.parametrize(
    "data, what",
    [
        (b"", "there is no text in standard input"),
        (b" \n\n \n", "there is no text in standard input"),
        (b'{"text": "one"}\n{"text"\n', "standard input:2: malformed JSON"),
        (b'{"a": "one", "b": "two"}\n', "cannot tell which column of standard input"),
        (b"caf\xe9\n", "standard input is not valid UTF-8: got 0xe9 at byte 3"),
        (b"a\0b\n", "standard input is not text"),
    ],
)
def test_bad_standard_input(monkeypatch: pytest.MonkeyPatch, data: bytes, what: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert problem("-").startswith(what)


def test_bad_python_texts() -> None:
    with pytest.raises(CorpusError, match="there is no text in texts"):
        Corpus.from_texts([])
    with pytest.raises(CorpusError, match="there is no text in mine: got 2 empty"):
        list(Corpus.from_texts(["", " "], name="mine"))
    with pytest.raises(CorpusError, match="got one str; expected an iterable"):
        Corpus.from_texts("a whole book")
    with pytest.raises(CorpusError, match="texts, text 1: not a text: got int"):
        list(Corpus.from_texts(["a", 3]))  # type: ignore[list-item]
    with pytest.raises(CorpusError, match="texts, text 0: a document is not valid Unicode"):
        list(Corpus.from_texts(["\ud800"]))
