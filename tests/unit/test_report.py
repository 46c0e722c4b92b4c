"""The demo's report: corpus text is only ever text, and the page fetches nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from monoscope.demo.report import context, figure_rows, render_report
from monoscope.features.feature import Example, Feature
from monoscope.page import curve, histogram

EVIL = "<script>alert(1)</script>"
URL = "https://example.org/licence"
FIGURES = {
    "fvu": 0.175, "l0": 32.0, "cosine": 0.91, "delta_ce": 0.2, "kl": None,
    "loss_recovered_zero": 0.98, "loss_recovered_mean": 0.9,
}  # fmt: skip


def example(pieces: list[str], values: list[float]) -> Example:
    return Example(
        kind="top", band=None, rank=0, value=max(values), doc=0, pos=1, token=pieces[1], start=0,
        pieces=pieces, values=values, peak=1, split="train", meta={},
    )  # fmt: skip


def feature() -> Feature:
    return Feature(
        latent=7, n_active=9, density=0.01, mean=1.0, std=0.5, max=4.0, hist=[1], meta_mass={},
        top_tokens=[EVIL], top_logits=[1.0], bottom_tokens=None, bottom_logits=None,
        label=EVIL, label_method="rule", label_f1=0.5, label_auc=0.9, label_base=0.01,
        rule_label=EVIL, label_rule=None, neighbours=[],
        examples=[example(["see ", EVIL, " & more"], [0.0, 4.0, 1.0])],
    )  # fmt: skip


def page(**changes) -> str:
    writer = {"latent": 7, "score": 0.4, "times_norm": 0.5}
    sample = {
        "prompt": "P", "default": f"a {EVIL}", "steered": f'b "{EVIL}', "relative_norm": 0.5,
        "kl": 2.0,
    }  # fmt: skip
    summary = {
        "model": {"model": EVIL},
        "site": "resid_post.1",
        "collect": {"n_tokens": 1000, "n_documents": 10},
        "train": {"n_tokens": 5000},
        "index": {"n_alive": 3, "n_features": 4, "n_tokens": 900},
        "eval": {
            **FIGURES, "dead_fraction": 0.25, "dead_window_tokens": 900,
            "baselines": {"pca": {**FIGURES, "fvu": 0.5, "method": EVIL}},
        },
        "steer": {
            "writer": writer, "label": EVIL, "promise": EVIL, "n_candidates": 5,
            "samples": [sample], **changes
        },
        "seconds": {"collect": 171.5, "train": 12.5, "index": None},
        "reused": ["collect", "index"],
    }  # fmt: skip
    return render_report(
        summary,
        events=[{"n_tokens": n, "loss": 1 / n, "l0": 32.0} for n in (10, 20, 30)],
        densities=[0.1, 0.01, 0.012, 0.0],
        features=[feature()],
        attributions=[f"Texts by {EVIL}, CC BY-SA ({URL})"],
    )


class Read(HTMLParser):
    """Collects the tags, the attributes and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def test_text_of_the_corpus_is_never_markup():
    read = Read(page())
    assert "script" not in read.tags
    # label, lens, context, model (title and heading), method, default, steered, label, attribution
    assert read.text.count(EVIL) == 11
    assert "see " + EVIL + " & more" in read.text


def test_the_page_loads_nothing():
    text = page()
    read = Read(text)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "a"} & set(read.tags)
    assert not {"src", "href", "srcset", "action"} & {name for name, _ in read.attributes}
    assert not any(
        "http" in (value or "").replace("http-equiv", "") for _, value in read.attributes
    )
    assert not re.search(r"url\(|@import", text)
    assert URL in read.text  # a licence's address is text
    assert "default-src 'none'" in text


def test_a_token_is_shaded_by_its_share_of_the_maximum():
    shown = context(example(["a", "b", "c"], [0.0, 4.0, 1.0]), 8.0)
    assert shown == (
        '<p class="context">a<mark style="--a:0.50">b</mark><mark style="--a:0.12">c</mark></p>'
    )
    assert "mark" not in context(example(["a", "b"], [0.0, 0.0]), 0.0)


def test_a_curve_puts_its_extremes_at_the_edges_of_the_plot():
    points = re.search(r'points="([^"]+)"', curve("loss", [(0, 3.0), (50, 1.0), (100, 2.0)]))
    assert points is not None
    assert points[1] == "36.0,36.0 230.0,144.0 424.0,90.0"
    assert "polyline" not in curve("loss", [])
    flat = curve("flat", [(10, 32.0), (20, 32.0)])
    assert 'points="230.0,90.0 424.0,90.0"' in flat and flat.count(">32<") == 1
    assert "nan" not in curve("loss", [(1, 1.0), (2, float("nan"))])


def test_a_histogram_counts_every_density_but_zero():
    tall = [float(h) for h in re.findall(r'height="([\d.]+)"', histogram("d", [0.5, 0.5, 0.02, 0]))]
    assert [h for h in tall if h] == pytest.approx([54.0, 108.0])
    assert "<rect" not in histogram("d", [0.0])


def test_times_say_whose_they_are():
    text = Read(page()).text
    for row in (
        "collect171.5 smade by an earlier run", "train12.5 sindex",
        "index–not timed; made by an earlier run", "in all184.0 swithout what was not timed",
    ):  # fmt: skip
        assert row in text


def test_figures_stand_beside_the_baselines():
    rows = figure_rows({**FIGURES, "baselines": {"pca": {**FIGURES, "fvu": 0.5}}})
    assert [name for name, _ in rows] == ["this SAE", "pca"]
    assert [cells[0] for _, cells in rows] == ["0.175", "0.500"]
    assert rows[0][1][4] == "–"  # not measured


def test_a_report_without_a_writer_says_so():
    assert "No feature promises anything to try" in page(writer=None)
    assert "than its controls" in page(writer={"latent": 7, "score": -0.1, "times_norm": 0.5})
    assert "than its controls" not in page()
