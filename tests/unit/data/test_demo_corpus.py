"""The demo's text: its mixture, its order, its passages and what each document says of itself."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from functools import cache
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monoscope import assets
from monoscope.data.corpus import Corpus, Document, is_held_out
from monoscope.data.demo_corpus import MAX_CHARS, SHARES, interleave, passages, shuffled
from monoscope.data.readers import Row


@cache
def documents(seed: int = 0) -> list[Document]:
    return list(Corpus.demo(seed))


def source(document: Document) -> str:
    lang = document.meta["lang"]
    names = {"Wikipedia": f"wiki-{lang}", "State of the Union": "sotu", "Python source": "python"}
    return names[document.meta["source"]]


@pytest.mark.parametrize("n_chars", [100_000, 1_000_000, 8_000_000])
def test_any_beginning_has_the_same_mixture(n_chars: int) -> None:
    chars: Counter[str] = Counter()
    for document in documents():
        chars[source(document)] += len(document.text)
        if chars.total() >= n_chars:
            break
    for name, share in SHARES.items():
        # a source is never further from its share than about one document
        assert abs(chars[name] - share * chars.total()) < 3000


def test_the_shares_are_of_a_whole() -> None:
    assert sum(SHARES.values()) == pytest.approx(1)


def test_every_article_is_there_once() -> None:
    for lang in ("en", "fr", "es"):
        articles = json.loads(assets.wiki_path(lang).read_text("utf-8")).values()
        want = Counter(article["extract"] for article in articles if article["extract"].strip())
        assert Counter(d.text for d in documents() if source(d) == f"wiki-{lang}") == want


def test_metadata() -> None:
    seen: dict[str, Document] = {}
    for document in documents():
        seen.setdefault(source(document), document)
    assert set(seen) == set(SHARES)
    for lang in ("en", "fr", "es"):
        meta = seen[f"wiki-{lang}"].meta
        assert meta["lang"] == lang and meta["licence"] == "CC BY-SA 4.0" and meta["title"]
        assert re.fullmatch(rf"https://{lang}\.wikipedia\.org/wiki/[\w.~%()/!*',:&-]+", meta["url"])
    assert re.fullmatch(r"\d{4} [A-Za-z]+", seen["sotu"].meta["title"])
    assert seen["python"].meta["title"].endswith(".py")
    topics = {d.meta.get("topic") for d in documents() if source(d) == "wiki-en"}
    assert {"Arts", "Geography", "Technology", None} <= topics
    assert "Uncategorized" not in topics


def test_passages_of_one_speech_or_file_stay_on_one_side() -> None:
    sides = defaultdict(set)
    keys = defaultdict(set)
    for document in documents():
        if source(document) in ("sotu", "python"):
            sides[source(document), document.meta["title"]].add(is_held_out(document.key, 0.5))
            keys[document.key].add(document.meta["title"])
    several = [name for name, side in sides.items() if len(side) > 1]
    # a president may speak twice in a year, under one title but as two speeches
    assert all(name[0] == "sotu" for name in several)
    assert all(len(titles) == 1 for titles in keys.values())
    assert len([k for k in keys if k.startswith("sotu/")]) == 249


def test_passages_are_short_and_lose_nothing() -> None:
    joined: dict[str, int] = Counter()
    for document in documents():
        if source(document) in ("sotu", "python"):
            assert 0 < len(document.text) <= MAX_CHARS
            joined[source(document)] += len(re.sub(r"\s", "", document.text))
    whole = sum(len(re.sub(r"\s", "", p.read_text("utf-8"))) for p in assets.sotu_paths())
    assert joined["sotu"] == whole


def test_the_seed_sets_the_order_and_nothing_else() -> None:
    again = list(Corpus.demo(0))
    assert again == documents()
    other = documents(1)
    assert [d.key for d in other[:50]] != [d.key for d in again[:50]]
    assert Counter(d.key for d in other) == Counter(d.key for d in again)


def test_fingerprint_and_description() -> None:
    assert Corpus.demo(0).fingerprint == Corpus.demo(0).fingerprint != Corpus.demo(1).fingerprint
    description = json.loads(json.dumps(Corpus.demo(7).description))
    assert description["kind"] == "demo" and description["seed"] == 7
    assert description["shares"] == SHARES


def test_attribution_names_every_text_and_not_the_model() -> None:
    lines = Corpus.demo().attribution
    for word in ("English", "French", "Spanish", "CC BY-SA 4.0", "State of the Union", "PSF"):
        assert any(word in line for line in lines)
    assert not any("SmolLM" in line for line in lines)


# --- cutting


@given(st.text("ab \n.", max_size=300), st.integers(1, 40))
def test_passages_are_slices_in_order_that_cover_all_text(text: str, max_chars: int) -> None:
    pieces = list(passages(text, max_chars))
    assert all(0 < len(piece) <= max_chars and piece.strip() for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    start = 0
    for piece in pieces:
        start = text.index(piece, start) + len(piece)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("aaa\n\nbb\n\ncc", ["aaa\n\nbb", "cc"]),
        ("aaaa\nbbbb\ncc", ["aaaa\nbbbb", "cc"]),
        ("aa. bb. cc. dd.", ["aa. bb.", "cc. dd."]),
        ("aa\n\nbb\ncc\nd", ["aa", "bb\ncc\nd"]),
        ("aaaa bbbb cccc", ["aaaa bbbb", "cccc"]),
        ("a" * 25, ["a" * 10, "a" * 10, "a" * 5]),
        ("def f():\n\n    x\n\n    y", ["def f():", "    x\n\n    y"]),
        ("\n\n\n", []),
    ],
)
def test_where_passages_are_cut(text: str, want: list[str]) -> None:
    assert list(passages(text, 12 if "def" in text else 10)) == want


# --- interleaving


def rows(lengths: list[int], name: str) -> list[Row]:
    return [Row("x" * length, {}, f"{name}{i}") for i, length in enumerate(lengths)]


@given(st.lists(st.integers(1, 50), max_size=60), st.lists(st.integers(1, 50), max_size=60))
def test_interleaving_keeps_every_row_in_its_order(a: list[int], b: list[int]) -> None:
    mixed = [row.origin for row in interleave({"a": rows(a, "a"), "b": rows(b, "b")}, WEIGHTS)]
    assert [o for o in mixed if o[0] == "a"] == [f"a{i}" for i in range(len(a))]
    assert [o for o in mixed if o[0] == "b"] == [f"b{i}" for i in range(len(b))]


WEIGHTS = {"a": 0.75, "b": 0.25}


def test_the_others_go_on_when_one_runs_out() -> None:
    sources = {"a": rows([10] * 6, "a"), "b": rows([10] * 6, "b")}
    names = "".join(row.origin[0] for row in interleave(sources, WEIGHTS))
    assert names[:8].count("a") == 6
    assert names[8:] == "bbbb"
    shares = [a / n for n, a in enumerate(accumulate(c == "a" for c in names[:8]), 1)]
    assert abs(shares[-1] - 0.75) < 1e-9


def test_shuffling_does_not_depend_on_the_order_given_or_on_other_rows() -> None:
    given_rows = rows([1] * 30, "r")
    order = [row.origin for row in shuffled(given_rows, "s")]
    assert order == [row.origin for row in shuffled(given_rows[::-1], "s")]
    assert order != [row.origin for row in shuffled(given_rows, "t")]
    fewer = [row.origin for row in shuffled(given_rows[:20], "s")]
    assert fewer == [origin for origin in order if int(origin[1:]) < 20]
