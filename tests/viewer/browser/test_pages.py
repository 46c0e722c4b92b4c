"""Every page in a real browser: drawn without complaint, by keyboard, narrow, accessible."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

pytestmark = pytest.mark.browser

# Path, its heading, and a part that is there once its data is.
PAGES = {
    "/": ("Atlas", ".atlas-list a[href^='/f/'], .atlas-list [role=row] a"),
    "/f/3": ("", ".contexts > li"),
    "/lens": ("Lens", "main textarea"),
    "/steer": ("Lab", "main textarea"),
    "/run": ("Runs", ".chart canvas"),
    "/compare": ("Compare", ".family"),
}
SERIOUS = ("serious", "critical")
INLINE = "Applying inline style"  # axe tries to; the page's policy forbids it


def opened(page: Page, path: str) -> Page:
    """The page with its data drawn."""
    page.goto(path)
    page.locator(PAGES[path][1]).first.wait_for()
    expect(page.locator(".loading, main .stale, main [aria-busy=true]")).to_have_count(0)
    return page


@pytest.mark.parametrize("path", PAGES)
def test_each_page_is_drawn_and_fits_a_phone(fresh: Callable[..., Page], path: str) -> None:
    page = opened(fresh(width=390, height=800), path)
    heading = PAGES[path][0]
    if heading:
        expect(page.get_by_role("heading", level=1)).to_contain_text(heading)
    for width in (390, 900, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        head = page.locator("header.top").bounding_box()
        assert head and head["height"] <= (96 if width == 390 else 60)


@pytest.mark.parametrize("path", PAGES)
def test_axe_finds_nothing_serious(
    fresh: Callable[..., Page], watch: Any, node_modules: Path, path: str
) -> None:
    watch.allow(INLINE)
    page = opened(fresh(), path)
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
            found = axe(page, node_modules)
            assert [t for t in found if t["impact"] in SERIOUS] == [], (width, theme)


# What the browser itself counts as having moved by no doing of the reader's.
SHIFTS = """window.shifts = []; new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts.push(
        [entry.value, entry.sources.map((s) => s.node?.className || s.node?.nodeName)]);
}).observe({type: "layout-shift", buffered: true});"""
MOST_SHIFT = 0.1  # of the Core Web Vitals' "good"


def shifted(page: Page) -> tuple[float, Any]:
    """The sum of all layout shifts since the page was asked for, and what moved."""
    page.evaluate("() => new Promise((done) => setTimeout(() => requestAnimationFrame(done), 300))")
    seen = page.evaluate("window.shifts")
    return sum(value for value, _ in seen), seen


@pytest.mark.parametrize("path", PAGES)
def test_nothing_jumps_while_a_page_loads(fresh: Callable[..., Page], path: str) -> None:
    """Each answer of the API is held back a little, so that what comes late is drawn late."""
    for width in (390, 1440):
        page = fresh(width=width, height=844)
        page.add_init_script(SHIFTS)
        page.route("**/api/v1/runs/curve*", _late)
        page.route("**/api/v1/status", _late)
        total, seen = shifted(opened(page, path))
        assert total < MOST_SHIFT, seen


def test_a_jump_would_be_seen(page: Page) -> None:
    page.add_init_script(SHIFTS)
    opened(page, "/run")
    page.evaluate("document.querySelector('.runs .panel').style.marginTop = '200px'")
    assert shifted(page)[0] > MOST_SHIFT


def _late(route: Route) -> None:
    time.sleep(0.2)
    route.continue_()


def axe(page: Page, node_modules: Path) -> list[dict[str, Any]]:
    """What axe-core finds wrong on the page as it stands."""
    source = (node_modules / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
    page.evaluate(source)  # by the debugger: the page's own policy admits no foreign script
    result = page.evaluate("axe.run(document, {resultTypes: ['violations'], preload: false})")
    return [
        {
            "id": v["id"], "impact": v["impact"], "help": v["help"],
            "where": [node["html"][:160] for node in v["nodes"][:3]],
        }
        for v in result["violations"]
    ]  # fmt: skip


def test_axe_would_find_it(page: Page, watch: Any, node_modules: Path) -> None:
    watch.allow(INLINE)
    opened(page, "/run")
    page.evaluate("document.querySelector('h1').style.color = 'var(--line)'")
    page.evaluate("document.querySelector('.runtable input').removeAttribute('aria-label')")
    found = {told["id"] for told in axe(page, node_modules) if told["impact"] in SERIOUS}
    assert {"color-contrast", "label"} & found


def test_the_keyboard_reaches_every_page(page: Page) -> None:
    opened(page, "/")
    page.keyboard.press("Tab")
    expect(page.locator("a.skip")).to_be_focused()
    for name in ("Lens", "Lab", "Runs", "Compare", "Atlas"):
        entry = page.get_by_role("navigation", name="Pages").get_by_role(
            "link", name=name, exact=True
        )
        entry.focus()
        page.keyboard.press("Enter")
        expect(entry).to_have_attribute("aria-current", "page")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()


def test_a_page_that_is_not_there_says_so(page: Page) -> None:
    page.goto("/f/3")
    page.evaluate("history.pushState(null, '', '/nowhere'); dispatchEvent(new Event('popstate'))")
    expect(page.get_by_role("alert")).to_contain_text("nothing is at /nowhere")


def test_an_unknown_latent_is_an_error_on_the_page(page: Page, watch: Any) -> None:
    watch.allow(r"404 \(Not Found\)")
    page.goto("/f/99999")
    alert = page.get_by_role("alert").first
    expect(alert).to_contain_text("no such latent")
    expect(alert).to_contain_text("got 99999; expected 0 to")
    expect(alert.get_by_role("button")).to_have_count(0)  # asking again would not help
