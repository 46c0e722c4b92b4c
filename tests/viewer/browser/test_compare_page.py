"""The Compare page: kinds, threshold, a family opened on shared contexts; its address holds it."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


def test_two_atlases_are_matched_narrowed_and_opened(fresh: Callable[..., Page]) -> None:
    page = fresh()
    page.goto("/compare")
    expect(page.get_by_label("Atlas B")).to_have_value("atlas-small")
    page.locator(".kind.matched").click()
    expect(page).to_have_url(re.compile("kind=matched"))
    families = page.locator(".family")
    expect(families.first.locator(".tag")).to_have_text("matched")
    families.first.get_by_role("button").click()
    expect(families.first.locator(".pair").first).to_be_visible()
    assert families.first.locator(".t.lit").count() > 4
    other = fresh()  # the same link, in a browser that has never been here
    other.goto(page.url)
    expect(other.locator(".family.open .pair").first).to_be_visible()
    shown = page.locator(".family.open .pair").first.inner_text()
    expect(other.locator(".family.open .pair").first).to_have_text(
        re.compile(re.escape(shown.split()[0]))
    )


def test_the_threshold_and_words_are_the_address_s(page: Page) -> None:
    page.goto("/compare?t=0.5")
    loose = int(page.locator(".kind.matched .num").inner_text())
    page.locator("input[type=range]").focus()
    for _ in range(3):
        page.keyboard.press("PageUp")
    expect(page).to_have_url(re.compile(r"t=0\.[6-9]"))
    expect(page.locator(".kind.matched .num")).not_to_have_text(str(loose))
    assert int(page.locator(".kind.matched .num").inner_text()) < loose
    page.get_by_placeholder("words of a label").fill("unclear")
    expect(page).to_have_url(re.compile("q=unclear"))
    expect(page.locator(".family").first).to_contain_text("unclear")


def test_families_are_walked_by_keyboard(page: Page) -> None:
    page.goto("/compare")
    page.locator(".family").first.wait_for()
    for _ in range(3):
        page.keyboard.press("j")
    page.keyboard.press("k")
    expect(page.locator(".family > button").nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".family").nth(1)).to_have_class(re.compile("open"))
    page.keyboard.press("Enter")
    expect(page.locator(".family.open")).to_have_count(0)


def test_swapping_turns_new_into_lost(page: Page) -> None:
    page.goto("/compare")
    new = page.locator(".kind.new .num").inner_text()
    page.get_by_role("button", name="Swap A and B").click()
    expect(page.locator(".kind.lost .num")).to_have_text(new)
