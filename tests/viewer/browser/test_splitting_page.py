"""What a feature is part of, on its page; `test_disk.py` looks at the same opened from disk."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

import monoscope as ms

pytestmark = pytest.mark.browser


def test_a_parent_is_quoted_and_leads_to_both_side_by_side(bench: Path, page: Page) -> None:
    atlas = ms.load_atlas(bench / "atlas")
    shown = atlas.list(limit=1)[0].latent
    part_of = atlas.feature(shown).part_of
    assert part_of is not None
    parent = part_of.kin[0]
    ms.load_atlas(bench / "atlas-small").annotate(parent.latent, "<b>a parent's name</b>")
    page.goto(f"/f/{shown}")
    panel = page.get_by_role("region", name="Part of")
    row = panel.locator(".kin li")
    expect(row).to_contain_text("<b>a parent's name</b>")
    expect(row.locator(".num")).to_have_text(
        [str(parent.latent), f"{parent.cosine:.2f}", f"{parent.parent_given_child:.2f}"]
    )
    expect(page.get_by_role("region", name="Splits into")).to_have_count(0)
    row.get_by_role("link").click()
    expect(page).to_have_url(re.compile(f"pair={shown}-{parent.latent}"))
    beside = page.get_by_role("region", name=f"{shown} beside {parent.latent}")
    expect(beside.locator(".same li").first).to_be_visible()
    expect(beside.get_by_role("link", name=f"feature {shown}")).to_be_visible()
    expect(page.get_by_label("Atlas B")).to_have_value("atlas-small")
    page.go_back()
    panel.locator(".src").get_by_role("link").click()
    expect(page.get_by_label("Atlas B")).to_have_value("atlas-small")
    expect(page.locator(".family").first).to_be_visible()
