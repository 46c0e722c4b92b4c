"""What the terminal gets: the right places shaded, nothing hostile let through, no line long."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.style import Style

from monoscope.features.context import ContextLine, context_line, shade, short
from monoscope.features.feature import Example, Feature, Neighbour, Row
from monoscope.features.show import feature_page, feature_table, label_text, sparkline, text_page
from monoscope.features.text import LatentTotal, TextFeatures, TextToken

HOSTILE = "[bold]x\x1b[31m\x1b]0;title\x07\x9b2J\u202e[/bold]\r\n"


def example(pieces: list[str], peak: int, values: dict[int, float], **over: object) -> Example:
    base = Example(
        kind="top", band=None, rank=0, value=values[peak], doc=3, pos=peak, token=pieces[peak],
        start=0, pieces=pieces, values=[values.get(i, 0.0) for i in range(len(pieces))], peak=peak,
        split="train", meta={"title": "Paris", "source": "Wikipedia", "licence": "CC BY-SA 4.0"},
    )  # fmt: skip
    return replace(base, **over)  # type: ignore[arg-type]


PARIS = example(["He", " lives", " in", " Paris", ",", " France", ".\n"], 3, {3: 8.0, 5: 5.0, 2: 1})


def feature(**over: object) -> Feature:
    base = Feature(
        latent=123, n_active=50, density=0.0012, mean=3.0, std=1.0, max=8.0,
        hist=[0, 1, 4, 8, 2, 0], meta_mass={}, top_tokens=[" Lyon"], top_logits=[1.5],
        bottom_tokens=[" the"], bottom_logits=[-0.25],
        label='" Paris" · lang=fr', label_method="rule", label_f1=0.912, label_auc=0.98,
        label_base=0.001,
        rule_label='" Paris" · lang=fr', label_rule={"held_out": {"n_fired": 142, "mass": 0.874}},
        examples=[PARIS, replace(PARIS, kind="band", band=4, value=7.9),
                  replace(PARIS, kind="band", band=0, value=0.4)],
        neighbours=[Neighbour(7, "decoder", 0, 0.71, 0.1, 1.0, 3, '" Lyon"'),
                    Neighbour(9, "coactivation", 0, 0.1, 0.31, 1.0, 3, None)],
    )  # fmt: skip
    return replace(base, **over)  # type: ignore[arg-type]


def row(**over: object) -> Row:
    base = Row(
        latent=1, label='" Paris"', label_method="rule", label_f1=0.91, label_auc=0.9, n_active=9,
        density=0.1, max=8.0, hist=[0, 1], interest=1.0, tokens=[" x"],
    )  # fmt: skip
    return replace(base, **over)  # type: ignore[arg-type]


def found() -> TextFeatures:
    tokens = (
        TextToken("The", 1, False, ()),
        TextToken(" United", 2, True, ((5, 4.0), (2, 1.0))),
        TextToken(" States\n", 3, True, ((5, 2.0),)),
    )
    totals = (LatentTotal(5, 6.0, 4.0, 2, 1), LatentTotal(2, 1.0, 1.0, 1, 1))
    return TextFeatures("The United States\n", "resid_post.1", tokens, totals)


def plain(renderable: RenderableType, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def coloured(renderable: RenderableType, width: int = 80, no_color: bool = False) -> str:
    console = Console(
        width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor",
        no_color=no_color,
    )  # fmt: skip
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def luminance(colour: tuple[int, int, int]) -> float:
    """Relative luminance by WCAG 2."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (v / 255 for v in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: float, b: float) -> float:
    return (max(a, b) + 0.05) / (min(a, b) + 0.05)


def test_without_colour_the_peak_is_marked_with_its_value() -> None:
    assert plain(context_line(PARIS)).rstrip() == "He lives in «Paris»(8.0), «France».⏎"
    assert (
        coloured(context_line(PARIS), no_color=True).rstrip() == plain(context_line(PARIS)).rstrip()
    )


def test_with_colour_each_token_is_shaded_by_its_share_of_the_scale() -> None:
    text = context_line(PARIS).text(80, colour=True)
    assert text.plain == "He lives in Paris, France.⏎"
    spans = {text.plain[s.start : s.end]: s.style for s in text.spans}
    assert spans == {" Paris": shade(1.0), " France": shade(5 / 8), " in": shade(1 / 8)}
    weak = context_line(PARIS, scale=1000.0).text(80, colour=True)
    assert [weak.plain[s.start : s.end] for s in weak.spans] == [" Paris"]  # the peak, however weak
    halved = context_line(PARIS, scale=16.0).text(80, colour=True)
    assert {s.style for s in halved.spans} == {shade(0.5), shade(5 / 16)}
    assert "\x1b[1;38;2;0;0;0;48;2;236;131;0m Paris\x1b[0m" in coloured(context_line(PARIS))


def test_shades_are_ordered_and_readable_on_dark_and_light() -> None:
    assert shade(0.0) is None and shade(0.05) is None
    steps = [shade(s) for s in (0.1, 0.3, 0.5, 0.7, 1.0)]
    assert len(set(steps)) == 5
    for style in steps:
        assert isinstance(style, Style) and style.color is not None
        ink = luminance(style.color.get_truecolor())
        if style.bgcolor is None:  # letters on the terminal's own background
            for ground in (0.0, 1.0):
                assert contrast(ink, ground) > 3
        else:
            paper = style.bgcolor.get_truecolor()
            assert contrast(ink, luminance(paper)) > 7
    papers = [s.bgcolor.get_truecolor() for s in steps if s and s.bgcolor]
    chroma = [max(p) - min(p) for p in papers]
    assert chroma == sorted(chroma) and chroma[0] < chroma[-1] / 3


@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize("peak", [0, 7, 15])
def test_every_width_is_kept_and_cuts_are_shown(colour: bool, peak: int) -> None:
    pieces = [f" word{i}" if i % 3 else " 日本\n" for i in range(16)]
    line = context_line(example(pieces, peak, {peak: 3.0}))
    whole = line.text(10_000, colour=colour).plain
    assert "…" not in whole
    for room in range(1, cell_len(whole) + 3):
        text = line.text(room, colour=colour).plain
        assert cell_len(text) <= room
        assert (text == whole) == (room >= cell_len(whole)), text
        if text != whole:
            assert "…" in text or room < 24
            kept = text.replace("…", "")
            assert kept in whole or not kept
        if room >= 24:
            assert pieces[peak].strip() in text  # the peak is never what is cut away
        assert room < 40 or cell_len(text) >= min(room, cell_len(whole)) - 2  # no room wasted


def test_a_token_that_owns_no_text_is_still_seen() -> None:
    split = example(["a", "\U0001f600", "", "", "b"], 2, {2: 3.0})
    assert plain(context_line(split)).rstrip() == "a\U0001f600«�»(3.0)b"
    space = example(["a.", " ", "b"], 1, {1: 3.0})
    assert plain(context_line(space)).rstrip() == "a.« »(3.0)b"


@pytest.mark.parametrize("width", [40, 80, 120])
def test_nothing_hostile_reaches_the_terminal(width: int) -> None:
    bad = example(
        [HOSTILE, "ok", HOSTILE], 0, {0: 8.0, 2: 4.0}, meta={"title": HOSTILE, "source": HOSTILE}
    )
    page = feature_page(
        feature(
            label=HOSTILE, examples=[bad, replace(bad, kind="band", band=2)],
            top_tokens=[HOSTILE], bottom_tokens=[HOSTILE],
            neighbours=[Neighbour(7, "decoder", 0, 0.7, 0.1, 1.0, 3, HOSTILE)],
        )
    )  # fmt: skip
    table = feature_table([row(label=HOSTILE, tokens=[HOSTILE])])
    tokens = (TextToken(HOSTILE, 1, True, ((5, 4.0),)),)
    text = TextFeatures(HOSTILE, "embed", tokens, (LatentTotal(5, 4.0, 4.0, 1, 0),))
    for renderable in (page, table, text_page(text, {5: HOSTILE})):
        for out in (plain(renderable, width), coloured(renderable, width)):
            own = re.sub(r"\x1b\[[0-9;]*m", "", out)  # rich's own colours
            assert all(char.isprintable() or char == "\n" for char in own)
        assert "[bold]" in plain(renderable, 200)
        assert "\x1b[31m" not in coloured(renderable, width)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_too_long(width: int) -> None:
    long = example([f" word{i}" for i in range(41)], 20, {20: 8.0})
    many = feature(examples=[long] * 12, label='" a" · ' * 9)
    for renderable in (
        feature_page(many),
        feature_table([row(label='" a" · ' * 9, tokens=[" tok"] * 30)]),
        text_page(found(), {5: '" a" · ' * 9}),
    ):
        for line in plain(renderable, width).splitlines():
            assert cell_len(line) <= width


def test_a_page_says_what_was_measured() -> None:
    page = plain(feature_page(feature()), 100)
    assert page.startswith('#123  " Paris" · lang=fr')
    assert "label F1 0.91 · AUC 0.98 · 87 % of its activation · 142 held-out firings" in page
    assert "fires on 0.12 % of tokens, up to 8.0  ▂▅█▃" in page
    assert page.index("strongest contexts") < page.index("from strong to weak")
    assert re.search(r"up +\" Lyon\" \+1\.50", page) and re.search(r"down +\" the\" -0\.25", page)
    assert "only a hint far from the last layer" in page
    assert re.search(r'same direction +#7 +" Lyon" +cos 0\.71', page)
    assert re.search(r"fire together +#9 +no label +Jaccard 0\.31", page)
    assert "text from Wikipedia, CC BY-SA 4.0" in page
    assert page.index("\n 7.9  ") < page.index("\n0.40  ")


def test_a_page_never_invents_a_score() -> None:
    for over, said in (
        ({"label_f1": None, "label_auc": None}, "label not scored: too few held-out firings"),
        ({"label": None, "label_f1": None}, "not labelled"),
        ({"label": "mine", "label_method": "human", "label_f1": None}, "labelled by a person"),
    ):
        page = plain(feature_page(feature(**over)))
        assert said in page and "F1" not in page
    bare = plain(feature_page(feature(examples=[], top_tokens=None, neighbours=[], hist=[])))
    assert "contexts" not in bare and "lens" not in bare and "neighbours" not in bare


def test_a_page_shows_as_many_examples_as_asked() -> None:
    tops = [replace(PARIS, rank=i, value=8.0 - i / 10) for i in range(8)]
    bands = [replace(PARIS, kind="band", band=b, value=b + 0.55) for b in (0, 1) for _ in range(4)]
    page = plain(feature_page(feature(examples=tops + bands), n_top=5, n_band=3))
    assert page.count("«Paris»") == 5 + 6


def test_a_long_title_is_cut_with_a_sign() -> None:
    titled = replace(PARIS, meta={"title": "The History of the Decline and Fall"})
    page = plain(feature_page(feature(examples=[titled])))
    assert "The History of the Decl…" in page and "text from" not in page


def test_a_table_keeps_its_rows_in_order() -> None:
    rows = [
        row(latent=12, density=0.0012, max=14.25, tokens=[" Paris", "\n"]),
        row(latent=7, label=None, label_f1=None, density=0.0, max=0.0, tokens=[]),
        row(
            latent=8, label="mine", label_method="human", label_f1=None, density=0.00002, max=300.4
        ),
    ]
    head, *lines = plain(feature_table(rows), 100).splitlines()
    assert head.split() == ["latent", "label", "F1", "density", "max", "strongest", "on"]
    assert re.fullmatch(r' +12 +" Paris" +0\.91 +0\.12 % +14\.2 +" Paris" "⏎" *', lines[0])
    assert re.fullmatch(r" +7 +no label +– +0\.00 % +0\.?0? *", lines[1])
    assert re.fullmatch(r' +8 +mine +human +0\.002 % +300 +" x" *', lines[2])


def test_a_text_shows_its_features_and_its_tokens() -> None:
    page = plain(text_page(found(), {5: 'after "the"'}), 90)
    assert re.search(
        r'#5 +after "the" +2 tokens, up to 4\.0\n  The «United»\(4\.0\) «States⏎»', page
    )
    assert re.search(r"#2 +no label +1 token, up to 1\.0", page)
    assert re.search(r"\"The\" +left out by the SAE's mask", page)
    assert re.search(r'" United" +#5 4\.0 after "the"  #2 1\.0', page)
    assert re.search(r'" States⏎" +#5 2\.0', page)
    one = plain(text_page(found(), n_features=1, per_token=1, max_tokens=2))
    assert "#2" not in one and "… and 1 more tokens" in one
    empty = TextFeatures("a", "embed", (TextToken("a", 1, False, ()),), ())
    assert "no feature fires" in plain(text_page(empty))


def test_sparklines_short_numbers_and_labels() -> None:
    assert sparkline([0, 0, 8, 4, 0, 1, 0], 20) == "█▅ ▂"
    assert sparkline([1] * 10, 4) == "▆█▆█"  # bins of 2, 3, 2 and 3
    assert sparkline([0, 0], 8) == "" and sparkline([], 8) == ""
    assert [short(v) for v in (1234.5, 14.24, 3.0, 0.42, 0.0312, 0)] == [
        "1234", "14.2", "3.0", "0.42", "0.031", "0",
    ]  # fmt: skip
    assert label_text("unclear · x").style == "dim" and label_text(None).style == "dim"
    assert label_text('" a"').style == ""


def test_an_empty_line_and_a_silent_one() -> None:
    assert ContextLine((), (), 0, 1.0).text(10, colour=True).plain == ""
    silent = ContextLine(("a", " b"), (0.0, 0.0), 0, 0.0)
    assert silent.text(10, colour=True).plain == "a b" and not silent.text(10, colour=True).spans
