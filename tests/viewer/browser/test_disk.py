"""An exported atlas opened from disk: the same pages, answered by files, without a server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from monoscope.errors import ConfigError, FormatError, OutputError
from monoscope.viewer.app import create_app
from monoscope.viewer.config import ViewerConfig
from monoscope.viewer.export import export_html

pytestmark = pytest.mark.browser

HOSTILE = "</script><script>window.owned = true</script><img src=x onerror='window.owned = true'>"


@pytest.fixture(scope="module")
def exported(bench: Path) -> Path:
    """The bench's atlas, one label of it hostile, as files."""
    app = create_app(ViewerConfig(atlas=bench / "atlas", runs=bench))
    app.state.viewer.atlas.annotate(3, HOSTILE)
    told = export_html(bench / "atlas", bench.parent / "page", n_features=60)
    assert told["n_features"] == 60
    return bench.parent / "page"


@pytest.fixture
def live(exported: Path) -> str:
    """Where the pages of this module lie: nothing may be asked of anything else."""
    return exported.as_uri()


def test_it_opens_searches_and_shows_features(exported: Path, fresh: Callable[..., Page]) -> None:
    page = fresh(base_url=None)
    page.goto(f"{exported.as_uri()}/index.html")
    rows = page.locator(".atlas-list a[href^='#/f/']")
    rows.first.wait_for()
    page.goto(f"{exported.as_uri()}/index.html#/f/3")
    expect(page.get_by_role("heading", level=1)).to_contain_text("</script><script>")
    expect(page.locator(".contexts > li").first).to_be_visible()
    tied = page.get_by_role("region", name="Part of")
    expect(tied).to_contain_text("atlas-small, 256 latents")
    assert tied.get_by_role("link").get_attribute("href") == "#/compare?b=atlas-small"
    assert page.evaluate("window.owned") is None
    for path, there in (("run", ".chart canvas"), ("compare", ".family")):
        page.goto(f"{exported.as_uri()}/index.html#/{path}")
        page.locator(there).first.wait_for()
    page.locator(".family > button").first.click()
    expect(page.locator(".family .pair").first).to_be_visible()
    for path in ("lens", "steer"):
        page.goto(f"{exported.as_uri()}/index.html#/{path}")
        expect(page.get_by_text(re.compile("has no model")).first).to_be_visible()


def test_every_data_file_is_one_value_and_no_markup(exported: Path) -> None:
    files = list((exported / "data").glob("*.js"))
    assert len(files) > 5
    for path in files:
        text = path.read_text(encoding="ascii")
        found = re.fullmatch(r"monoscopeGive\((\"[\w-]+\"),(.*)\);\n", text, re.DOTALL)
        assert found and json.loads(found[1]) == path.stem
        json.loads(found[2])
    shell = (exported / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*src=)", shell)
    assert "style=" not in shell


def test_no_path_of_this_machine_is_told(exported: Path, bench: Path) -> None:
    for path in exported.rglob("*.js*"):
        assert str(bench.parent) not in path.read_text(encoding="utf-8"), path.name


def test_what_cannot_be_exported_is_refused(bench: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="not an atlas"):
        export_html(bench / "sae", tmp_path / "page")
    with pytest.raises(ConfigError, match="n_features"):
        export_html(bench / "atlas", tmp_path / "page", n_features=0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="something else"):
        export_html(bench / "atlas", tmp_path / "mine")


def test_a_broken_filter_and_a_passage_are_answered_without_a_server(
    exported: Path, fresh: Callable[..., Page]
) -> None:
    page = fresh(base_url=None)
    index = (exported / "index.html").as_uri()
    page.goto(f"{index}#/?q=density%3C")
    alert = page.locator(".atlas-list").get_by_role("alert")
    expect(alert).to_contain_text("density is compared with no number")
    expect(alert).to_contain_text("got density<; expected as in density>0.01")
    page.goto(f"{index}#/?q=The+president+spoke+before+the+Congress.")
    page.reload()
    head = page.locator(".passage")
    expect(head).to_contain_text("needs a running model")
    expect(head).to_contain_text("An exported page has no model")
    expect(head.get_by_role("link", name="in the lens")).to_be_visible()
    page.goto(f"{index}#/?q=")
    placeholder = page.locator("#search").get_attribute("placeholder") or ""
    page.locator("#search").fill(placeholder)
    expect(page.locator(".g-row.body").first).to_be_visible()
