"""A corpus that tries to be a program: every page shows its text, and none of it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import made_up
import pytest
from playwright.sync_api import Page, expect

from monoscope.viewer.config import ViewerConfig
from monoscope.viewer.export import export_html
from tests.viewer.conftest import serving

pytestmark = pytest.mark.browser
EVERYTHING = " ".join(made_up.HOSTILE)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an atlas made of hostile tokens."""
    folder = tmp_path_factory.mktemp("hostile")
    made_up.make(folder / "atlas", made_up.HOSTILE)
    return folder


@pytest.fixture(scope="module")
def live(home: Path) -> Iterator[str]:
    """A viewer of it, with a hostile label, note and list; in the place of the real one's."""
    with serving(ViewerConfig(atlas=home / "atlas", runs=home, port=0)) as address:
        below = f"{address}/api/v1"
        for path, body in (
            ("features/4/label", {"text": EVERYTHING}), ("features/4/note", {"text": EVERYTHING}),
        ):  # fmt: skip
            assert httpx.put(f"{below}/{path}", json=body).status_code == 200
        assert httpx.put(f"{below}/lists/%3Cscript%3E/4").status_code in (200, 204)
        yield address


def harmless(page: Page) -> None:
    """Nothing ran, and nothing of the corpus became an element."""
    assert page.evaluate("window.owned") is None
    assert page.locator("main script, main img").count() == 0


def wary(page: Page) -> list[str]:
    """The dialogs that a page opens, which there must be none of."""
    opened: list[str] = []
    page.on("dialog", lambda dialog: (opened.append(dialog.message), dialog.dismiss()))
    return opened


def test_no_page_runs_what_the_corpus_says(page: Page, watch: Any) -> None:
    watch.allow(r"404 \(Not Found\) \(http.*/compare\?")  # there is no such atlas
    opened = wary(page)
    for path, there in (
        ("/", ".g-row .label"),
        ("/?q=%3Cscript%3Ealert(1)%3C%2Fscript%3E", ".g-row.body"),
        ("/?q=%22%3Cimg%20src%3Dx%20onerror%3D1%3E%22", ".empty, .g-row.body"),
        ("/?q=list:%3Cscript%3E", ".g-row.body"),
        ("/f/4", ".contexts > li"),
        ("/lens?t=%3Cscript%3Ealert(1)%3C/script%3E", "main .empty"),
        ("/steer?p=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E", "main .empty"),
        ("/run?run=%3Cscript%3E", "main .empty"),
        ("/compare?a=%3Cscript%3E&b=]]%3E", "main h1"),
    ):
        page.goto(path)
        page.locator(there).first.wait_for()
        harmless(page)
    assert opened == []


def test_a_feature_shows_it_as_text(page: Page, live: str) -> None:
    opened = wary(page)
    page.goto("/f/4")
    heading = page.get_by_role("heading", level=1)
    expect(heading).to_contain_text("<script>alert(1)</script>")
    expect(heading).to_contain_text("]]>")
    assert "\u202e" not in heading.inner_text(), "a bidi mark would reorder the line"
    seen = ""
    fires = [row["latent"] for row in httpx.get(f"{live}/api/v1/features?q=alive").json()["items"]]
    for i in fires[:6]:  # where the hostile tokens fire, and the documents around them
        page.goto(f"/f/{i}")
        page.locator(".contexts").first.wait_for()
        button = page.get_by_role("button", name="whole document").first
        button.click()
        page.locator(".document .tokens").first.wait_for()
        text = page.locator("main").inner_text()
        assert not {"\u202e", "\u2066", "\x1b"} & set(text)
        harmless(page)
        seen += text
    for word in ("<script>alert(1)</script>", "onerror=", "]]>", "<!--", "&lt;b&gt;"):
        assert word in seen
    assert opened == []


def test_an_exported_page_is_as_safe(
    home: Path, live: str, tmp_path: Path, fresh: Callable[..., Page], watch: Any
) -> None:
    with ThreadPoolExecutor() as pool:  # Playwright has a loop of its own on this thread
        pool.submit(export_html, home / "atlas", tmp_path / "page", runs=home).result()
    watch.origin = f"file://{tmp_path}"
    page = fresh(base_url=None)
    opened = wary(page)
    index = (tmp_path / "page" / "index.html").as_uri()
    for place, there in (("/", ".g-row .label"), ("/f/4", ".contexts > li"), ("/f/5", ".contexts")):
        page.goto(f"{index}#{place}")
        page.reload()
        page.locator(there).first.wait_for()
        harmless(page)
    assert opened == []
