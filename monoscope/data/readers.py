"""Reads text out of files, one row at a time: what each format is, and where it can be broken.

Text files (.txt .md .py) are one document each. Tables (.jsonl .csv .parquet) are one document a
row, their text in one column, their other columns of strings kept as metadata. All but Parquet
may be compressed as .gz or .zst. Everything is streamed, except that a text file is read whole.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

from monoscope.errors import CorpusError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

TEXT_SUFFIXES = (".txt", ".md", ".py")
TABLE_SUFFIXES = (".jsonl", ".csv", ".parquet")
COMPRESSIONS = (".gz", ".zst")
READABLE = ", ".join((*TEXT_SUFFIXES, *TABLE_SUFFIXES)) + ", all but the last also .gz or .zst"
PEEK_ROWS = 64  # rows looked at to tell which columns hold text

_TEXT_NAMES = ("text", "content")
_LONGEST_CSV_FIELD = 2**31 - 1
_PARQUET_ROWS = 1024


class Row(NamedTuple):
    """One text as it was read; origin: the file, or file:line, for messages about it."""

    text: str | None
    meta: dict[str, str]
    origin: str
    key: str | None = None


class Record(NamedTuple):
    """One row of a table, before its text column is picked out."""

    values: Mapping[str, object]
    origin: str


def suffix_of(path: Path) -> str | None:
    """The suffix that says how to read a file, compression left off; None if it cannot be read."""
    plain = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    suffix = plain.suffix.lower()
    if suffix == ".parquet" and plain is not path:
        return None
    return suffix if suffix in TEXT_SUFFIXES + TABLE_SUFFIXES else None


def text_row(path: Path, name: str) -> Row:
    """A text file as one document; line ends become \\n.

    Raises CorpusError if the file is unreadable, binary, cut short or not UTF-8.
    """
    with _reading(path), _open(path) as file:
        data = file.read()
    text = decode(data, str(path)).removeprefix("\ufeff").replace("\r\n", "\n")
    return Row(text, {"file": name}, str(path))


def records(path: Path, column: str | None = None) -> Iterator[Record]:
    """The rows of a table in order; of Parquet only its columns of strings, and `column`.

    Raises CorpusError if the file is unreadable, malformed, binary, cut short or not UTF-8.
    """
    if suffix_of(path) == ".parquet":
        yield from _parquet_records(path, column)
        return
    with _reading(path), _open(path) as file:
        read = json_records if suffix_of(path) == ".jsonl" else csv_records
        yield from read(file, str(path))


def table_rows(table: Iterable[Record], column: str) -> Iterator[Row]:
    """Pick the text out of each record; its other strings are the metadata.

    Raises CorpusError if a record lacks the column, or holds something there that is not text.
    """
    for record in table:
        if column not in record.values:
            raise _unknown_column(column, list(record.values), record.origin)
        text = record.values[column]
        if not (text is None or isinstance(text, str)):
            raise CorpusError(
                f"{record.origin}: column {column!r} holds no text",
                got=type(text).__name__,
                expected="a string",
            )
        others = ((k, v) for k, v in record.values.items() if k != column)
        yield Row(text, {k: v for k, v in others if isinstance(v, str) and v}, record.origin)


def choose_column(table: Iterable[Record], asked: str | None, where: str) -> str | None:
    """The column that holds the text, judged by the first rows; None if there are no rows.

    Guessed only if a single column is called text or content, or a single one could hold text:
    one that so far is empty could, one of nothing but numbers could not.

    Raises CorpusError naming the columns if `asked` is not there or the guess is not safe.
    """
    first = list(itertools.islice(table, PEEK_ROWS))
    if not first:
        return None
    names = list(dict.fromkeys(name for record in first for name in record.values))
    if asked is not None:
        if asked not in names:
            raise _unknown_column(asked, names, where)
        return asked
    columns = {name: [record.values.get(name) for record in first] for name in names}
    strings = [name for name in names if all(isinstance(v, str | None) for v in columns[name])]
    named = [name for name in strings if name in _TEXT_NAMES]
    candidates = named or [name for name in strings if not _all_numbers(columns[name])]
    if len(candidates) == 1:
        return candidates[0]
    raise CorpusError(
        f"cannot tell which column of {where} holds the text",
        got=f"columns {_listed(names)}" + ("" if candidates else ", none of them of strings"),
        hint="Name it with --text-column COLUMN (text_column= in Python).",
    )


def json_records(lines: Iterable[bytes], origin: str) -> Iterator[Record]:
    """One JSON object a line; blank lines are skipped."""
    for number, line in _decoded_lines(lines, origin):
        if not line.strip():
            continue
        where = f"{origin}:{number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as exc:
            raise CorpusError(f"{where}: malformed JSON", got=exc) from exc
        if not isinstance(values, dict):
            got = type(values).__name__
            raise CorpusError(f"{where}: not a JSON object", got=got, expected='{"text": …}')
        yield Record(values, where)


def csv_records(lines: Iterable[bytes], origin: str) -> Iterator[Record]:
    """Comma-separated values with a header line; every value is a string."""
    csv.field_size_limit(_LONGEST_CSV_FIELD)  # documents are longer than the default 131,072
    reader = csv.reader((line for _, line in _decoded_lines(lines, origin)), strict=True)
    try:
        header = next(reader, [])
        _check_header(header, origin)
        for cells in reader:
            where = f"{origin}:{reader.line_num}"
            if not cells:
                continue
            if len(cells) != len(header):
                raise CorpusError(
                    f"{where}: a row of the wrong width",
                    got=f"{len(cells)} fields",
                    expected=f"{len(header)}, as in the header",
                )
            yield Record(dict(zip(header, cells, strict=True)), where)
    except csv.Error as exc:
        raise CorpusError(f"{origin}:{reader.line_num}: malformed CSV", got=exc) from exc


def piped_texts(data: bytes, origin: str) -> Iterator[Row]:
    """Texts in one stream, parted by lines of a form feed alone, else by blank lines."""
    text = decode(data, origin).removeprefix("\ufeff").replace("\r\n", "\n")
    parts = re.split(r"(?m)^\f[ \t]*$", text)
    if len(parts) == 1:
        parts = re.split(r"\n(?:[ \t]*\n)+", text)
    for number, part in enumerate(parts, 1):
        yield Row(part.strip("\n"), {}, f"{origin}, text {number}")


def decode(data: bytes, origin: str, start: int = 0) -> str:
    """Bytes as text; `start` is where they stood in their file, for the message.

    Raises CorpusError if they are binary (hold NUL) or not UTF-8, with the offset in bytes.
    """
    zero = data.find(b"\0")
    if zero >= 0:
        raise CorpusError(
            f"{origin} is not text: it holds a NUL byte",
            got=f"0x00 at byte {start + zero}",
            expected="UTF-8 text",
            hint="Convert it first if it is UTF-16; leave it out if it is binary.",
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise CorpusError(
            f"{origin} is not valid UTF-8",
            got=f"0x{data[exc.start]:02x} at byte {start + exc.start}",
            expected="UTF-8 text",
            hint="Convert it first, for example with iconv.",
        ) from exc


def _decoded_lines(lines: Iterable[bytes], origin: str) -> Iterator[tuple[int, str]]:
    offset = 0
    for number, line in enumerate(lines, 1):
        text = decode(line, origin, offset)
        yield number, text.removeprefix("\ufeff") if number == 1 else text
        offset += len(line)


def _parquet_records(path: Path, column: str | None) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            if column is not None and column not in schema.names:
                raise _unknown_column(column, schema.names, str(path))
            # while choosing a column, all are shown, so that a message can name them
            wanted = [f.name for f in schema if column is None or _is_text(f.type)]
            wanted += [column] if column is not None and column not in wanted else []
            batch_rows = PEEK_ROWS if column is None else _PARQUET_ROWS
            rows = file.iter_batches(batch_rows, columns=wanted)
            values = itertools.chain.from_iterable(batch.to_pylist() for batch in rows)
            for number, record in enumerate(values, 1):
                yield Record(record, f"{path} row {number}")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as exc:
        raise CorpusError(f"cannot read {path} as Parquet", got=exc) from exc


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    inner = kind.value_type if types.is_dictionary(kind) else kind
    return str(inner) in ("string", "large_string", "string_view")


def _all_numbers(values: Sequence[object]) -> bool:
    present = [value for value in values if isinstance(value, str) and value.strip()]
    try:
        return bool([float(value) for value in present])
    except ValueError:
        return False


def _check_header(header: list[str], origin: str) -> None:
    for delimiter in (";", "\t"):
        if len(header) == 1 and delimiter in header[0]:
            raise CorpusError(
                f"{origin}: the columns are not parted by commas", got=repr(header[0])
            )
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise CorpusError(f"{origin}: two columns have the same name", got=repr(twice[0]))


def _unknown_column(column: str, names: Sequence[str], where: str) -> CorpusError:
    close = nearest(column, names)
    return CorpusError(
        f"no column {column!r} in {where}",
        expected=f"one of {_listed(names)}",
        hint=f"Use --text-column {close}?" if close else "Name one of them with --text-column.",
    )


def _listed(names: Sequence[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what a file system or a decompressor can raise into one clear line."""
    from zstandard import ZstdError

    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, ZstdError) as exc:
        raise CorpusError(
            f"{path} is cut short or damaged", got=exc, hint="Copy or download it again."
        ) from exc
    except OSError as exc:
        raise CorpusError(f"cannot read {path}", got=exc.strerror or exc) from exc


def _open(path: Path) -> BinaryIO:
    if path.suffix.lower() == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix.lower() == ".zst":
        return cast(BinaryIO, io.BufferedReader(_ZstdFile(path), 2**17))
    return open(path, "rb")


class _ZstdFile(io.RawIOBase):
    """A zstd file as a stream of bytes that, unlike the library's own, notices a missing end."""

    def __init__(self, path: Path) -> None:
        import zstandard

        # frames written with --long need up to 2 GiB of window
        self._codec = zstandard.ZstdDecompressor(max_window_size=2**31)
        self._file = open(path, "rb")  # noqa: SIM115  (closed by close)
        self._frame = self._codec.decompressobj()
        self._inside = False
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        while not self._ready:
            data = self._file.read(2**16)
            if not data:
                if self._inside:
                    raise EOFError("the last zstd frame has no end")
                return 0
            self._feed(data)
        count = min(len(view), len(self._ready))
        view[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _feed(self, data: bytes) -> None:
        while data:
            self._ready += self._frame.decompress(data)
            self._inside, data = not self._frame.eof, self._frame.unused_data
            if self._frame.eof:
                self._frame = self._codec.decompressobj()

    def close(self) -> None:
        self._file.close()
        super().close()
