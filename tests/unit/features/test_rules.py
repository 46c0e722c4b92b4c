"""Rules over token tables: what they fire on, how they read, and that they survive JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest

from monoscope.errors import FormatError
from monoscope.features.rules import (
    LABEL_WIDTH,
    AnyOf,
    Both,
    Rule,
    TokenTable,
    pieces_of,
    position_of,
    rule_from_json,
    script_of,
    shape_of,
    word_of,
)
from monoscope.visible import quoted, visible


@dataclass
class Doc:
    text: str
    ends: list[int]
    meta: dict[str, str]


def doc(pieces: list[str], **meta: str) -> Doc:
    return Doc("".join(pieces), np.cumsum([len(p) for p in pieces]).tolist(), meta)


DOCUMENTS = {
    7: doc(["In", " Paris", ",", " Lyon", "\n", " paris"], lang="fr"),
    9: doc([" United", " States", " of", " Paris"], lang="en"),
}
# token 2 of document 7 and token 0 of document 9 are masked: they have no row
DOC = np.array([7, 7, 7, 7, 7, 9, 9, 9])
POS = np.array([0, 1, 3, 4, 5, 1, 2, 3])


@pytest.fixture()
def table() -> TokenTable:
    return TokenTable.build(DOCUMENTS, DOC, POS, ["lang", "author"])


def spell(rule: Rule, table: TokenTable) -> list[tuple[int, int]]:
    return [(int(DOC[i]), int(POS[i])) for i in np.flatnonzero(rule.fires(table))]


@pytest.mark.parametrize(
    ("rule", "where"),
    [
        (AnyOf("token", (" Paris", " Lyon")), [(7, 1), (7, 3), (9, 3)]),
        (AnyOf("word", ("paris",)), [(7, 1), (7, 5), (9, 3)]),
        (AnyOf("previous", (",",)), [(7, 3)]),  # the masked comma is still seen from its neighbour
        (AnyOf("previous", (" United",)), [(9, 1)]),
        (AnyOf("next", (",",)), [(7, 1)]),
        (AnyOf("phrase", (" United States",)), [(9, 1)]),
        (AnyOf("shape", ("newline",)), [(7, 4)]),
        (AnyOf("position", ("1",)), [(7, 0)]),
        (AnyOf("meta:lang", ("en",)), [(9, 1), (9, 2), (9, 3)]),
        (AnyOf("meta:author", ("nobody",)), []),
        (AnyOf("meta:absent", ("x",)), []),
        (Both(AnyOf("token", (" Paris",)), AnyOf("meta:lang", ("en",))), [(9, 3)]),
        (AnyOf("token", ("never seen",)), []),
    ],
)
def test_a_rule_fires_where_it_says(
    table: TokenTable, rule: Rule, where: list[tuple[int, int]]
) -> None:
    assert spell(rule, table) == where
    assert rule.count(table) == len(where)
    rows = np.array([6, 1, 1])
    assert rule.fires(table, rows).tolist() == rule.fires(table)[rows].tolist()


def test_rules_survive_json(table: TokenTable) -> None:
    for rule in (
        AnyOf("next", ("\n", "é")),
        Both(AnyOf("word", ("a", "b")), AnyOf("meta:lang", ("fr",))),
    ):
        assert rule_from_json(json.loads(json.dumps(rule.to_json()))) == rule


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(FormatError, match=r"unknown label rule.*got 'near'"):
        rule_from_json({"kind": "near"})


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (
            Both(AnyOf("token", (" Paris", " Lyon")), AnyOf("meta:lang", ("fr",))),
            '" Paris" · " Lyon" · lang=fr',
        ),
        (AnyOf("meta:lang", ("es",)), "lang=es"),
        (AnyOf("meta:topic", ("Art", "Music")), "topic=Art|Music"),
        (AnyOf("previous", (" United",)), 'after " United"'),
        (AnyOf("next", (" States",)), 'before " States"'),
        (AnyOf("phrase", (" United States",)), 'phrase " United States"'),
        (AnyOf("word", ("paris",)), '"paris" any case'),
        (AnyOf("shape", ("digits",)), "digits"),
        (AnyOf("script", ("Cyrillic",)), "Cyrillic script"),
        (AnyOf("position", ("5–8", "65+", "2", "1")), "token 1 · 2 · 5–8 · 65+ of the text"),
        (AnyOf("token", ("\n", "\x1b[31m")), '"⏎" · "␛[31m"'),
    ],
)
def test_how_rules_read(rule: Rule, text: str) -> None:
    assert rule.describe() == text


def test_no_label_is_too_long() -> None:
    long = tuple(f" word number {i}" for i in range(12))
    one = ("x" * 300,)
    for values in (long, one, (*one, "y" * 99)):
        for rule in (
            AnyOf("token", values),
            AnyOf("previous", values),
            AnyOf("meta:topic", values),
            Both(AnyOf("token", values), AnyOf("meta:topic", one)),
        ):
            assert len(rule.describe()) <= LABEL_WIDTH, rule.describe()
    assert AnyOf("token", long).describe().endswith(" +9")


def test_pieces_join_to_the_text_even_where_a_character_is_cut() -> None:
    cut = Doc("a\U0001f600b", [1, 1, 1, 2, 3], {})
    assert pieces_of(cut) == ["a", "�", "�", "\U0001f600", "b"]


@pytest.mark.parametrize(
    ("token", "shape"),
    [
        ("\n\n", "newline"), ("  ", "spaces"), (" 1984", "digits"), (" ...", "punctuation"),
        (" x2", "mixed characters"), (" NATO", "all capitals"), (" Paris", "capitalised"),
        (" dog", "lower-case word start"), ("ing", "inside a word"), ("I", "capitalised"),
    ],
)  # fmt: skip
def test_shapes(token: str, shape: str) -> None:
    assert shape_of(token) == shape


def test_words_scripts_and_positions() -> None:
    assert word_of(" PARIS ") == "paris" and word_of(" 12") is None
    assert [script_of(t) for t in (" dog", "дом", " 12", "λ")] == [
        "Latin",
        "Cyrillic",
        None,
        "Greek",
    ]
    assert [position_of(p) for p in (0, 3, 4, 7, 8, 63, 64, 999)] == [
        "1", "4", "5–8", "5–8", "9–16", "33–64", "65+", "65+",
    ]  # fmt: skip


def test_nothing_that_moves_a_cursor_stays() -> None:
    hostile = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0), 0x202E, 0x2028, 0x200B, 0xD800]))
    assert visible(hostile).isprintable()
    assert len(visible(hostile)) == len(hostile)
    assert visible("a\r\n\tb\x1b\x7f") == "a␍⏎⇥b␛␡"
    assert visible("élan 日本 [bold]") == "élan 日本 [bold]"
    assert quoted(" a\n") == '" a⏎"'
