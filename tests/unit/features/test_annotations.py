"""What humans write: kept across versions of the file, with every change of a label."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from monoscope.errors import FormatError, OutputError
from monoscope.features.annotations import BOOKMARKS, SCHEMA_VERSION, Annotations

V1 = """
CREATE TABLE annotations (
    sae TEXT NOT NULL, latent INTEGER NOT NULL, text TEXT NOT NULL,
    changed TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (sae, latent)
);
INSERT INTO annotations VALUES ('s', 3, 'old', '2025-01-02 03:04:05'), ('other', 3, 'theirs', '');
"""


@pytest.fixture
def book(tmp_path: Path) -> Annotations:
    return Annotations(tmp_path / "a.sqlite", "s")


def test_a_file_of_the_first_version_is_taken_over_whole(book):
    with sqlite3.connect(book.path) as db:
        db.executescript(V1)
    db.close()
    assert book.read() == {3: "old"}
    assert [(c.text, c.changed) for c in book.history(3)] == [("old", "2025-01-02T03:04:05Z")]
    book.write(3, "new")
    assert [c.text for c in book.history(3)] == ["new", "old"]
    assert Annotations(book.path, "other").read() == {3: "theirs"}
    with sqlite3.connect(book.path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    db.close()


def test_a_file_of_a_newer_version_is_not_touched(book):
    with sqlite3.connect(book.path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        db.execute("CREATE TABLE labels_of_the_future (x)")
    db.close()
    before = book.path.read_bytes()
    for ask in (book.read, lambda: book.write(1, "x"), book.lists):
        with pytest.raises(FormatError, match="newer monoscope"):
            ask()
    assert book.path.read_bytes() == before


def test_the_history_has_changes_only_and_removals_too(book):
    for text in ("a", " a ", "b", "", ""):
        book.write(1, text)
    assert [c.text for c in book.history(1)] == [None, "b", "a"]
    assert book.history(2) == [] and book.read() == {}


def test_notes_and_lists_belong_to_their_sae(book):
    other = Annotations(book.path, "t")
    book.set_note(4, " see 5\nand 6 ")
    other.set_note(4, "no")
    for latent in (9, 2, 9):
        book.put(latent)
    book.put(2, "später")
    other.put(1)
    assert book.note(4) == "see 5\nand 6" and book.notes() == {4: "see 5\nand 6"}
    assert book.lists() == {BOOKMARKS: [9, 2], "später": [2]}
    book.take(2, "später")
    book.take(77)
    book.set_note(4, "")
    assert book.lists() == {BOOKMARKS: [9, 2]} and book.notes() == {} and book.note(4) == ""
    assert other.notes() == {4: "no"} and other.lists() == {BOOKMARKS: [1]}


def test_reading_makes_no_file(book):
    assert (book.read(), book.lists(), book.notes(), book.history(1)) == ({}, {}, {}, [])
    assert not book.path.exists()


def test_damage_and_a_folder_in_its_place_are_named(book):
    book.path.write_bytes(b"not a database, and long enough to be looked at as one" * 10)
    with pytest.raises(FormatError, match="damaged"):
        book.read()
    book.path.unlink()
    book.path.mkdir()
    with pytest.raises(OutputError, match="cannot use"):
        book.write(1, "x")
