"""Queries that make no sense and what each must be told: one table for the server and the page."""

from __future__ import annotations

from monoscope.viewer import grammar

FIGURES = f"one of {', '.join(grammar.FIGURES)}"
FIELDS = f"one of {', '.join((*grammar.FIELDS, *grammar.FIGURES))}"
QUOTE = "Put words with signs in quotes."
BOTH = "For both ends write it twice: density>0.001 density<0.01."

# What is typed; then detail, got, expected and hint of the problem.
MISTAKES: dict[str, tuple[str, str, str, str | None]] = {
    "density<": ("density is compared with no number", "density<", "as in density>0.01", None),
    "score>abc": ("score is compared with no number", "score>abc", "as in score>0.01", None),
    "score>0.5abc": ("score is compared with no number", "score>0.5abc", "as in score>0.01", None),
    "density<x": ("density is compared with no number", "density<x", "as in density>0.01", None),
    "paris -MAX>=%": ("max is compared with no number", "-MAX>=%", "as in max>0.01", None),
    "density<inf": (
        "density is compared with no number", "density<inf", "as in density>0.01", None,
    ),
    "density<1e999": (
        "density is compared with no number", "density<1e999", "as in density>0.01", None,
    ),
    "density<0x10": (
        "density is compared with no number", "density<0x10", "as in density>0.01", None,
    ),
    "density<1_0": (
        "density is compared with no number", "density<1_0", "as in density>0.01", None,
    ),
    "fires==3": ("fires is compared with no number", "fires==3", "as in fires>0.01", None),
    "density <0.1": (
        "a comparison is torn apart", "density <0.1", "no spaces, as in density>0.01", None,
    ),
    "x Score > 0.1": (
        "a comparison is torn apart", "Score >", "no spaces, as in score>0.01", None,
    ),
    "0.01<density": (
        "a comparison begins with its figure", "0.01<density", "as in density>0.01", BOTH,
    ),
    "1e-3<=density<0.1": (
        "a comparison begins with its figure", "1e-3<=density<0.1", "as in density>0.01", BOTH,
    ),
    "densty<1": (
        "the query names something unknown", "densty<1", FIGURES, f"Did you mean density? {QUOTE}",
    ),
    "height>3": ("the query names something unknown", "height>3", FIGURES, QUOTE),
    "q=": ("the query names something unknown", "q=", FIGURES, QUOTE),
    "labl:x": (
        "the query names something unknown", "labl:x", FIELDS, f"Did you mean label? {QUOTE}",
    ),
    "nte:x": ("the query names something unknown", "nte:x", FIELDS, f"Did you mean note? {QUOTE}"),
    "ma:x": ("the query names something unknown", "ma:x", FIELDS, f"Did you mean max? {QUOTE}"),
    "density:3": ("density is a figure", "density:3", "density <=, >=, <, > or = a number", None),
    'paris "open end': (
        "a quote in the query is not closed", '"open end', 'another "', None,
    ),
    "label:": (
        "label: is followed by nothing", "label:", 'as in label:paris or label:"in Paris"', None,
    ),
    'logit:""': ("logit: is followed by nothing", 'logit:""', 'as in logit:" Paris"', None),
    "id:": ("id: is followed by nothing", "id:", "id:123, id:1,2,3 or id:10-20", None),
    "id:x": ("id: names no latents", "id:x", "id:123, id:1,2,3 or id:10-20", None),
    "id:-3": ("id: names no latents", "id:-3", "id:123, id:1,2,3 or id:10-20", None),
    "id:٣": ("id: names no latents", "id:٣", "id:123, id:1,2,3 or id:10-20", None),
    "meta:es": ("meta: names no value", "meta:es", "as in meta:lang=es or meta:lang=es>0.8", None),
    "meta:lang=": (
        "meta: names no value", "meta:lang=", "as in meta:lang=es or meta:lang=es>0.8", None,
    ),
    "meta:lang=es>": (
        "meta: is compared with no share", "meta:lang=es>",
        "a share from 0.1 to 1, as in meta:lang=es>0.8", None,
    ),
    "meta:lang=es>2": (
        "meta: is compared with no share", "meta:lang=es>2",
        "a share from 0.1 to 1, as in meta:lang=es>0.8", None,
    ),
    "meta:lang=es>0.01": (
        "meta: is compared with no share", "meta:lang=es>0.01",
        "a share from 0.1 to 1, as in meta:lang=es>0.8", None,
    ),
    "meta:lang=es>1%": (
        "meta: is compared with no share", "meta:lang=es>1%",
        "a share from 0.1 to 1, as in meta:lang=es>0.8", None,
    ),
    '""': ("an empty word in the query", '""', "a word", None),
    "w " * 33: ("too many terms in the query", "33", "at most 32", None),
    f"density<{'é' * 80}": (
        "density is compared with no number", f"density<{'é' * 51}…", "as in density>0.01", None,
    ),
}  # fmt: skip

# What looks like a filter to a hasty reader and is a word.
WORDS = ("density", "-", "--", "<", "<0.5", "->", "http://a.b", "10:30", "1<2", '"density<"', "5>x")


def problem(text: str) -> dict[str, str]:
    """What is told of a mistake, without what has no value."""
    detail, got, expected, hint = MISTAKES[text]
    told = {"detail": detail, "got": got, "expected": expected, "hint": hint}
    return {key: value for key, value in told.items() if value is not None}
