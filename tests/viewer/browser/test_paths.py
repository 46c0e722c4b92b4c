"""The paths a person takes with a real model: find and label, read a text, steer and share."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.slow]

TEXT = "The President of the United States spoke before the Congress."


def ready(page: Page) -> None:
    """Wait until the model can be asked."""
    expect(page.locator(".chip.model")).to_have_text(re.compile("model ready"), timeout=120_000)


def test_find_open_label_and_find_it_again(page: Page) -> None:
    page.goto("/")
    page.locator(".atlas-list a[href^='/f/']").first.wait_for()
    page.keyboard.press("/")
    page.keyboard.type("president")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("q=president"))
    expect(page.locator(".sub")).to_contain_text("match")
    hit = page.locator(".atlas-list a[href^='/f/']").first
    hit.click()
    expect(page).to_have_url(re.compile(r"/f/\d+"))
    page.locator("#edit-label").click()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("heads of state, by hand")
    page.keyboard.press("Enter")
    heading = page.get_by_role("heading", level=1)
    expect(heading).to_contain_text("heads of state, by hand")
    page.reload()
    expect(heading).to_contain_text("heads of state, by hand")
    page.goto("/?q=label:%22heads+of+state%22")
    expect(page.locator(".atlas-list")).to_contain_text("heads of state, by hand")


def test_a_text_is_read_and_its_strongest_latent_opened(page: Page) -> None:
    page.goto("/lens")
    ready(page)
    page.locator("main textarea").first.fill(TEXT)
    totals = page.locator("section", has=page.get_by_role("heading", name="In total"))
    first = totals.locator("a[href^='/f/']").first
    first.wait_for()
    latent = re.search(r"/f/(\d+)", first.get_attribute("href") or "")
    first.click()
    expect(page).to_have_url(re.compile(rf"/f/{latent[1] if latent else ''}\b"))
    expect(page.locator(".contexts > li").first).to_be_visible()


def test_steering_by_slider_is_kept_in_the_link(fresh: Callable[..., Page], page: Page) -> None:
    page.goto("/steer?n=6")
    ready(page)
    finder = page.get_by_role("combobox", name="Add a feature to edit")
    finder.fill("220")
    page.get_by_role("option").filter(has_text="220").first.click()
    page.get_by_role("textbox", name="Prompt").fill("My favourite thing in the world is")
    slider = page.get_by_role("slider", name="Strength of feature 220")
    slider.focus()
    page.keyboard.press("End")
    expect(page).to_have_url(re.compile(r"e=220(=|%3D)add(:|%3A)1\.5norm"))
    page.get_by_role("button", name="Continue both").click()
    told = answers(page)
    assert told["default"] != told["steered"]
    expect(page.locator(".cost")).to_contain_text("KL")
    other = fresh()  # the link, opened by somebody who has never been here
    other.goto(page.url)
    ready(other)
    assert answers(other) == told
    expect(other.get_by_role("slider", name="Strength of feature 220")).to_have_value("1.5")


def answers(page: Page) -> dict[str, str]:
    """Both texts, once they are written to their ends."""
    told = {}
    for name in ("default", "steered"):
        panel = page.locator(f".ans.{name}")
        expect(panel.get_by_role("status")).to_contain_text("tokens", timeout=120_000)
        told[name] = panel.locator(".said").inner_text()
    return told
