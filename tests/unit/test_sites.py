"""Site: what parses, what it prints, and what a mistyped one says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monoscope.errors import SiteError
from monoscope.sites import LAYER_KINDS, Site

paths = st.lists(
    st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True), min_size=1, max_size=4
).map(".".join)
sites = st.one_of(
    st.just(Site("embed")),
    st.builds(Site, st.sampled_from(LAYER_KINDS), layer=st.integers(0, 200)),
    st.builds(Site, st.just("module"), path=paths, io=st.sampled_from(["in", "out"])),
)


@given(sites)
def test_printing_and_parsing_are_inverse(site):
    assert Site.parse(str(site)) == site


@pytest.mark.parametrize(
    ("text", "site"),
    [
        ("embed", Site("embed")),
        (" resid_post.15 ", Site("resid_post", layer=15)),
        ("mlp_post.0", Site("mlp_post", layer=0)),
        ("module:model.layers.3.mlp", Site("module", path="model.layers.3.mlp", io="out")),
        ("module:transformer.h.0:in", Site("module", path="transformer.h.0", io="in")),
    ],
)
def test_parse(text, site):
    assert Site.parse(text) == site


def test_parse_passes_a_site_through():
    site = Site("resid_pre", layer=2)
    assert Site.parse(site) is site


@pytest.mark.parametrize(
    "text",
    [
        "", "resid_post", "resid_post.", "resid_post.-1", "resid_post.1.2", "resid_post.x",
        "embed.0", "Resid_post.1", "blocks.1", "module:", "module:a..b", "module:a:both",
        "module:3.mlp", "resid_post.1:in",
    ],
)  # fmt: skip
def test_what_does_not_parse(text):
    with pytest.raises(SiteError, match=r"site.*got '") as caught:
        Site.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [("resid_pst.3", "Did you mean resid_post.L?"), ("embd", "Did you mean embed?")],
)
def test_a_mistyped_site_names_the_nearest(text, hint):
    with pytest.raises(SiteError) as caught:
        Site.parse(text)
    assert str(caught.value).endswith(hint)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("mlp_in.3->mlp_out.3", "transcoder"),
        ("{resid_post.1,resid_post.2}", "crosscoder"),
    ],
)
def test_forms_of_the_grammar_that_come_later_say_so(text, form):
    with pytest.raises(SiteError, match=f"{form}.*not supported yet"):
        Site.parse(text)


def test_a_broken_part_of_a_later_form_is_named_first():
    with pytest.raises(SiteError, match=r"unknown site: got 'mlp_in'"):
        Site.parse("mlp_in->mlp_out.3")


def test_sites_are_values():
    assert {Site.parse("embed"), Site.parse("embed")} == {Site("embed")}
    with pytest.raises(AttributeError):
        Site("embed").kind = "module"  # type: ignore[misc]
