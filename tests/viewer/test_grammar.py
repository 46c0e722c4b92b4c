"""The search box's grammar: what parses to what, and what each mistake is told."""

from __future__ import annotations

import pytest
import queries

from monoscope.errors import ConfigError
from monoscope.viewer.grammar import Term, parse


def one(text: str) -> Term:
    terms = parse(text).terms
    assert len(terms) == 1
    return terms[0]


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("paris", Term("word", "paris")),
        ('" Paris"', Term("word", " Paris", exact=True)),
        ('-"of the"', Term("word", "of the", exact=True, negative=True)),
        ("-", Term("word", "-")),
        ("DEAD", Term("flag", name="dead")),
        ("-alive", Term("flag", name="alive", negative=True)),
        ('"dead"', Term("word", "dead", exact=True)),
        ("density<1e-3", Term("figure", name="density", operator="<", number=1e-3)),
        ("density>=0.5%", Term("figure", name="density", operator=">=", number=0.005)),
        ("-fires=3", Term("figure", name="fires", operator="=", number=3.0, negative=True)),
        ("label:french", Term("label", "french")),
        ('logit:" Paris"', Term("logit", " Paris", exact=True)),
        ("id:1,5-7", Term("id", "1,5-7", ranges=((1, 1), (5, 7)))),
        ("meta:lang=es", Term("meta", "lang=es", number=0.5)),
        ('meta:"topic=a b>80%"', Term("meta", "topic=a b", number=0.8)),
        ("http://a.b", Term("word", "http://a.b")),
        ("10:30", Term("word", "10:30")),
    ],
)
def test_a_term(text, term):
    assert one(text) == term


def test_terms_are_cut_at_spaces_outside_quotes():
    query = parse('  paris   label:"in the" -x "a b"\tdead ')
    assert [t.kind for t in query.terms] == ["word", "label", "word", "word", "flag"]
    assert [t.value for t in query.words] == ["paris", "a b"]
    assert parse(" ").terms == ()


@pytest.mark.parametrize("text", queries.WORDS)
def test_what_is_no_filter_is_a_word(text):
    assert one(text).kind == "word"


@pytest.mark.parametrize("text", queries.MISTAKES)
def test_a_mistake_names_what_was_expected(text):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    error = caught.value
    told = {"detail": error.what, "got": str(error.got), "expected": error.expected}
    told |= {"hint": error.hint} if error.hint else {}
    assert told == queries.problem(text)
