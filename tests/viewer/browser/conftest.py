"""A real browser for the tests, whose pages fail a test on console errors or stray requests."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import tools
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect, sync_playwright

TIMEOUT_MS = 120_000  # for a machine with much else to do: only what hangs should fail
expect.set_options(timeout=TIMEOUT_MS)


@dataclass
class Watch:
    """What went wrong on the pages of one test; `allow` takes patterns of what it provokes."""

    origin: str
    troubles: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)

    def allow(self, pattern: str) -> None:
        self.allowed.append(pattern)

    def page(self, page: Page) -> None:
        """Follow a page's console, exceptions and requests."""
        page.on("console", lambda said: self._console(said.type, said.text, said.location))
        page.on("pageerror", lambda error: self.troubles.append(f"exception: {error}"))
        page.on("request", self._request)

    def unforeseen(self) -> list[str]:
        return [t for t in self.troubles if not any(re.search(p, t) for p in self.allowed)]

    def _console(self, kind: str, text: str, location: Any) -> None:
        if kind in ("error", "warning"):
            self.troubles.append(f"console {kind}: {text} ({location.get('url', '')})")

    def _request(self, request: Request) -> None:
        if not request.url.startswith((self.origin + "/", "data:", "blob:" + self.origin)):
            self.troubles.append(f"request to {request.url}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, driven by Playwright, for the tests of one module."""
    path = tools.chromium()
    root = hasattr(os, "geteuid") and os.geteuid() == 0  # its sandbox refuses to run as root
    with sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=path, args=["--no-sandbox"] if root else [])
        yield made
        made.close()


@pytest.fixture
def watch(live: str) -> Iterator[Watch]:
    """Collects what goes wrong; whatever was not allowed fails the test at its end."""
    kept = Watch(live)
    yield kept
    assert kept.unforeseen() == []


@pytest.fixture
def fresh(browser: Browser, watch: Watch) -> Iterator[Callable[..., Page]]:
    """Makes a page in a context of its own: no storage, no cookies of earlier ones."""
    opened: list[BrowserContext] = []

    def make(width: int = 1280, height: int = 900, theme: str = "light", **options: Any) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=theme,  # type: ignore[arg-type]
            base_url=options.pop("base_url", watch.origin),
            **options,
        )
        context.set_default_timeout(TIMEOUT_MS)
        opened.append(context)
        page = context.new_page()
        watch.page(page)
        return page

    yield make
    for context in opened:
        context.close()


@pytest.fixture
def page(fresh: Callable[..., Page]) -> Page:
    """One page, 1280 px wide and light."""
    return fresh()
