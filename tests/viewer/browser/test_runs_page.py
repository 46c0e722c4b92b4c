"""The Runs page while a real training runs, and its evaluation, by mouse and by keyboard."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

import monoscope as ms

pytestmark = pytest.mark.browser


def test_a_run_that_trains_is_followed_to_its_end(page: Page, bench: Path) -> None:
    """The training waits between its reports until the page has drawn what came before."""
    go_on, done = threading.Event(), threading.Event()
    reports = 0

    def wait(progress: object) -> None:
        nonlocal reports
        reports += 1
        if reports == 3:  # some events are written; the page must show them while it trains
            assert go_on.wait(60)

    def train() -> None:
        store = ms.load_store(bench / "store")
        ms.train(
            store, d_sae=64, k=4, n_tokens=30_000, batch_size=256, seed=5,
            out=bench / "young", progress=wait,
        )  # fmt: skip
        done.set()

    thread = threading.Thread(target=train)
    thread.start()
    try:
        page.goto("/run?show=young")
        row = page.get_by_role("row").filter(has_text="young")
        expect(row).to_contain_text("training")
        fvu = page.locator(".chart", has_text="FVU").locator(".readout .series")
        expect(fvu).not_to_have_text("–")
        before = fvu.inner_text()
        page.evaluate("window.stays = true")
        go_on.set()
        expect(row).to_contain_text("finished")
        expect(fvu).not_to_have_text(before)
        assert page.evaluate("window.stays"), "the page was loaded anew"
    finally:
        go_on.set()
        thread.join(120)
    assert done.is_set()


def test_the_evaluation_stands_beside_its_baselines(page: Page) -> None:
    page.goto("/run?run=sae")
    table = page.locator(".evaltable")
    for name in ("this SAE", "random directions", "raw coordinates", "PCA", "the mean"):
        expect(table.get_by_role("row").filter(has_text=name)).to_have_count(1)
    expect(table.locator("tr.ours .src").first).to_contain_text("–")  # an interval
    for fact in page.locator(".factlist dd").all_inner_texts():
        assert fact.strip()  # an empty list says so


def test_runs_are_drawn_and_opened_by_keyboard(page: Page) -> None:
    page.goto("/run")
    box = page.get_by_role("checkbox", name="Draw sae-small")
    expect(box).to_be_checked()
    box.focus()
    page.keyboard.press("Space")
    expect(box).not_to_be_checked()
    expect(page.locator(".legend")).not_to_contain_text("sae-small")
    point = page.locator(".dotpoint").filter(has_text="sae-small")
    point.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Run sae-small")).to_be_visible()
    address = page.url
    page.reload()  # the address holds it all
    expect(page.get_by_role("heading", name="Run sae-small")).to_be_visible()
    expect(page.get_by_role("checkbox", name="Draw sae-small")).not_to_be_checked()
    assert page.url == address
