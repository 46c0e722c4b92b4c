"""The atlas, feature and run pages in ways that were once stumbled over, with a real model."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser
PASSAGE = 'The President said: "no", <img src=x onerror="window.owned = true"> and left Paris.'


def ready(page: Page) -> None:
    expect(page.locator(".chip.model")).to_have_text(re.compile("model ready"), timeout=120_000)


def test_a_broken_filter_is_an_error_in_place(page: Page, watch: Any) -> None:
    watch.allow(r"400 \(Bad Request\)")
    page.goto("/")
    box = page.locator("#search")
    for typed, told in (
        ("density<", "density is compared with no number"),
        ("score>abc", "score is compared with no number"),
        ("density < 0.1", "a comparison is torn apart"),
    ):
        box.fill(typed)
        alert = page.locator(".atlas-list").get_by_role("alert")
        expect(alert).to_contain_text(told)
        expect(alert).to_contain_text("expected")
        expect(page.locator(".atlas-side .loading")).to_have_count(0)
    box.fill("density<0.9")
    expect(page.locator(".atlas-list .g-row.body").first).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_the_examples_find_something(page: Page, live: str) -> None:
    page.goto("/")
    box = page.locator("#search")
    expect(box).to_have_attribute("placeholder", re.compile("score>"))
    told = [t for t in (box.get_attribute("placeholder") or "").split("  ") if t]
    page.get_by_text("how to search").click()
    buttons = page.locator(".grammar-sheet button")
    for term in told:  # the sheet asks for its examples when it opens
        expect(buttons.get_by_text(term, exact=True).first).to_be_visible()
    shown = buttons.all_inner_texts()
    for term in [*shown, " ".join(told)]:
        found = httpx.get(f"{live}/api/v1/features", params={"q": term, "limit": 1}).json()
        assert found["total"] > 0, term


@pytest.mark.slow
def test_a_passage_is_answered_in_place(page: Page, live: str) -> None:
    page.goto("/")
    ready(page)
    page.locator("#search").fill(PASSAGE)
    page.keyboard.press("Enter")
    expect(page.locator(".passage")).to_contain_text("features fire")
    rows = page.locator(".atlas-list .g-row.body")
    told = httpx.post(
        f"{live}/api/v1/lens", json={"text": PASSAGE, "limit": 1000}, timeout=60
    ).json()
    known = told["features"]
    wanted = sorted(
        (t for t in told["totals"] if known[str(t["latent"])]["density"] <= 0.1),
        key=lambda t: (-t["max"], t["latent"]),
    )
    shown = [int(text) for text in rows.locator(".c-id").all_inner_texts()]
    assert len(shown) > 5
    assert shown == [t["latent"] for t in wanted[: len(shown)]]
    strengths = [float(t) for t in rows.locator(".c-score").all_inner_texts()]
    assert strengths == sorted(strengths, reverse=True)
    expect(rows.first.locator(".c-context .t.lit").first).to_be_attached()
    assert page.evaluate("window.owned") is None
    lens = page.get_by_role("link", name="Token by token in the lens")
    assert (lens.get_attribute("href") or "").startswith("/lens?t=The+President")
    rows.first.locator("a").click()  # the next feature is the next strongest
    expect(page.locator(".crumbs")).to_contain_text("1 of")
    page.locator("h1").wait_for()
    page.keyboard.press("n")
    expect(page).to_have_url(re.compile(rf"/f/{wanted[1]['latent']}\?"))
    page.goto("/?q=Paris+is+big")
    page.get_by_role("button", name="what fires on this text?").click()
    expect(page.locator(".passage")).to_contain_text("features fire")
    page.get_by_role("button", name="Search for its words instead").click()
    expect(page.locator(".passage")).to_have_count(0)


@pytest.mark.slow
def test_a_whole_document_is_shaded_by_the_model(page: Page, live: str) -> None:
    feature = next(
        told
        for i in range(512)
        if (told := httpx.get(f"{live}/api/v1/features/{i}").json())["n_active"] > 200
        and any(len(e["pieces"]) < e["n_tokens"] for e in told["examples"][:1])
    )
    page.goto(f"/f/{feature['latent']}")
    page.get_by_role("button", name="whole document").first.click()
    note = page.locator(".document .note")
    expect(note).to_contain_text("the model has read the others just now", timeout=120_000)


@pytest.mark.parametrize("width", [390, 900])
def test_nothing_of_an_evaluation_is_cut_off(fresh: Callable[..., Page], width: int) -> None:
    page = fresh(width=width, height=900)
    page.goto("/run?run=sae")
    table = page.locator(".evalbox .evaltable")
    table.wait_for()
    ours = table.locator("tr.ours")
    for name in ("FVU", "L0", "ΔCE", "KL", "recovered, zero", "recovered, mean", "cosine"):
        cell = ours.locator("td", has_text=re.compile(f"^{re.escape(name)}"))
        expect(cell).to_be_visible()
        box = cell.bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= width
    expect(table.get_by_role("row")).to_have_count(6)  # by CSS blocks, to a reader still a table


def test_the_map_and_the_facets_open_on_a_phone(fresh: Callable[..., Page]) -> None:
    page = fresh(width=390, height=844)
    page.goto("/")
    page.locator(".g-row.body a").first.wait_for()
    page.get_by_text("Narrow down").click()
    page.locator(".facets .pick", has_text="alive").click()
    expect(page).to_have_url(re.compile("q=alive"))
    page.get_by_role("heading", name="Map").click()
    expect(page.locator(".map-box canvas")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_checkpoints_stand_side_by_side(page: Page) -> None:
    page.goto("/run?run=sae")
    table = page.get_by_role("group", name="Checkpoints side by side")
    rows = table.locator("tbody tr")
    expect(rows).to_have_count(4)  # a short run: its quarters
    expect(rows.last).to_contain_text("its end")
    first, last = (float(rows.nth(i).locator("td").nth(1).inner_text()) for i in (0, 3))
    assert first > last  # FVU falls
    command = page.get_by_role("button", name="Copy as command").get_attribute("title")
    assert command
