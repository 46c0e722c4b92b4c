"""What a page's copy buttons put on the clipboard."""

from __future__ import annotations

from playwright.sync_api import Page

CLIPBOARD = {"permissions": ["clipboard-read", "clipboard-write"]}  # for a browser's context


def copied(page: Page, name: str, within: str = "main") -> str:
    """What a button copies: the clipboard is emptied first, and waited for."""
    page.evaluate("() => navigator.clipboard.writeText('')")
    page.locator(within).get_by_role("button", name=name, exact=True).last.click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()) !== ''")
    return str(page.evaluate("() => navigator.clipboard.readText()"))
