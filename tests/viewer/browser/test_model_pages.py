"""The lab and the lens as a person uses them, in a real browser on the real model."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from playwright.sync_api import expect

import monoscope as ms
from tests.viewer.browser.clipboard import CLIPBOARD, copied

pytestmark = [pytest.mark.browser, pytest.mark.slow]
STEERED, DEFAULT = ".ans.steered", ".ans.default"


@pytest.fixture(scope="module")
def latent(bench: Path) -> int:
    return ms.load_atlas(bench / "atlas").list(sort="max", limit=1)[0].latent


def lab(**query: Any) -> str:
    return "/steer?" + urlencode(query)


def written(page: Any) -> tuple[str, str]:
    """Both answers, when both are written."""
    for side in (DEFAULT, STEERED):
        expect(page.locator(f"{side} [role=status]")).to_contain_text("tokens")
    return tuple(page.locator(f"{side} .said").inner_text() for side in (DEFAULT, STEERED))


def test_steer_by_slider_then_the_link_shows_the_same_elsewhere(fresh, latent):
    page = fresh(**CLIPBOARD)
    page.goto(lab(p="I think", n=10))
    finder = page.get_by_role("combobox", name="Add a feature to edit")
    finder.fill(str(latent))
    expect(page.get_by_role("option")).to_have_count(1)
    finder.press("Enter")
    slider = page.get_by_role("slider", name=f"Strength of feature {latent}")
    expect(slider).to_have_value("0.4")
    slider.focus()
    slider.press("End")
    expect(slider).to_have_value("1.5")
    page.get_by_role("combobox", name="Where feature").select_option("generated")
    page.get_by_role("button", name="Continue both").click()
    default, steered = written(page)
    assert default.startswith("I think") and steered.startswith("I think")
    assert default != steered
    assert page.locator(f"{STEERED} .t.lit").count() > 0
    assert page.locator(f"{DEFAULT} .t.lit").count() == 0
    costs = page.locator(".costs dd").all_inner_texts()
    assert not any("–" in cost for cost in costs)
    other = fresh()
    other.goto(copied(page, "Copy link"))
    assert written(other) == (default, steered)
    expect(other.get_by_role("slider", name=f"Strength of feature {latent}")).to_have_value("1.5")
    expect(other.get_by_role("combobox", name="Where feature")).to_have_value("generated")
    assert other.locator(".costs dd").all_inner_texts() == costs


@pytest.mark.parametrize("kind", ["Copy command", "Copy Python"])
def test_what_is_copied_runs_and_says_the_same(fresh, latent, tmp_path, kind):
    page = fresh(**CLIPBOARD)
    edits = f"{latent}=set:3max@generated,~{latent}=ablate"
    page.goto(lab(p='It\'s "so" $HOME\nI think', n=8, e=edits, run=1))
    _, steered = written(page)
    text = copied(page, kind)
    if kind == "Copy Python":
        script = tmp_path / "copied.py"
        script.write_text(text, encoding="utf-8")
        command = [sys.executable, str(script)]
    else:
        words = shlex.split(text)
        assert words[:2] == ["monoscope", "steer"]
        command = [str(Path(sys.executable).parent / "monoscope"), *words[1:], "--json"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert run.returncode == 0, run.stderr
    said = steered.split("I think", 1)[1].strip()
    assert said in run.stdout.replace("\\n", "\n").replace('\\"', '"')


def test_the_command_beside_a_feature_keeps_a_dash(fresh, latent):
    page = fresh(**CLIPBOARD)
    page.goto(f"/f/{latent}")
    page.locator(".try-it").get_by_role("textbox").fill("-5 it's")
    words = shlex.split(copied(page, "Copy command", within=".try-it"))
    assert "--prompt=-5 it's" in words


def test_stop_really_stops(fresh, live, latent):
    page = fresh()
    page.goto(lab(p="I think", n=4000, t=1, e=f"{latent}=add:0.2norm"))
    page.get_by_role("button", name="Continue both").click()
    expect(page.locator(f"{STEERED} .tokens").last).not_to_be_empty()
    assert httpx.get(f"{live}/api/v1/status").json()["model"]["busy"]
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(f"{STEERED} [role=status]")).to_have_text("stopped")
    answer = httpx.post(f"{live}/api/v1/lens", json={"text": "Hello"}, timeout=120)
    assert answer.status_code == 200  # long before 4000 tokens could have been written


def test_closing_the_page_stops_the_model(fresh, live):
    page = fresh()
    page.goto(lab(p="I think", n=4000, t=1, run=1))
    expect(page.locator(f"{STEERED} .tokens").last).not_to_be_empty()
    page.close()
    answer = httpx.post(f"{live}/api/v1/lens", json={"text": "Hello"}, timeout=120)
    assert answer.status_code == 200


def test_a_chat_remembers_its_turns(fresh):
    page = fresh()
    page.goto(lab(m="chat", n=8))
    box = page.get_by_role("textbox", name="Message")
    box.fill("My name is Ada.")
    box.press("Enter")
    _, first = written(page)
    box.fill("What is my name?")
    box.press("Enter")
    turns = page.locator(".turns li:not(.end)")
    expect(turns).to_have_count(3)
    expect(turns.nth(1)).to_contain_text(first.strip())
    written(page)
    page.reload()
    expect(turns).to_have_count(3)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_pages_full_of_answers(fresh, watch, node_modules, theme):
    watch.allow("Applying inline style")  # axe tries to; the page's policy forbids it
    source = (node_modules / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
    page = fresh(theme=theme)
    reading = {"t": "The Nobel prize in physics", "pin": "1,2,3,4,5,6", "at": 2}
    for path in (
        lab(p="I think", n=6, e="3=add:1norm,~4=ablate@when:3", run=1),
        lab(m="chat", c=json.dumps([["u", "Hi"]]), n=4, run=1),
        "/lens?" + urlencode(reading),
        "/lens?" + urlencode({"t": "A river.", "b": "Un río.", "pin": "3"}),
    ):
        page.goto(path)
        if path.startswith("/steer"):
            written(page)
        else:
            expect(page.locator(".lat").first).to_be_visible()
        page.evaluate(source)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations'], preload: false})")
        bad = [v for v in found["violations"] if v["impact"] in ("serious", "critical")]
        told = [
            (v["id"], v["nodes"][0]["html"][:200], v["nodes"][0]["failureSummary"]) for v in bad
        ]
        assert told == [], path


def test_an_error_is_shown_where_the_answer_would_be(fresh, watch):
    watch.allow("404")
    page = fresh()
    page.goto(lab(p="I think", e="999999=add:1norm", run=1))
    expect(page.get_by_role("alert")).to_contain_text("no such latent")


def test_paste_a_text_and_open_what_fires_most(fresh):
    page = fresh()
    page.goto("/lens")
    page.get_by_role("textbox", name="Text", exact=True).fill("The Nobel prize <b>in physics</b>")
    first = page.locator(".lats .lat").first
    expect(first).to_be_visible()
    latent = first.locator("a.num").inner_text()
    expect(page.locator(".strip")).to_contain_text("<b>")
    expect(page.locator(".lats .lat q").first).to_be_visible()  # labels quote tokens as elsewhere
    first.locator("a.num").click()
    expect(page).to_have_url(re.compile(f"/f/{latent}$"))


def test_pins_and_tokens_by_keyboard_are_kept_in_the_address(fresh):
    page = fresh()
    page.goto("/lens?" + urlencode({"t": "The Nobel prize in physics"}))
    page.locator(".lat .pin").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".pins li")).to_have_count(1)
    strip = page.get_by_role("listbox", name="Tokens")
    strip.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("region", name="On this token")).to_be_visible()
    assert page.locator(".fire.on").count() > 0
    other = fresh()
    other.goto(page.url)
    expect(other.locator(".pins li")).to_have_count(1)
    expect(other.locator(".lt.on")).to_have_text(page.locator(".lt.on").inner_text())


def test_two_texts_are_compared(fresh):
    page = fresh()
    page.goto("/lens?" + urlencode({"t": "The river runs to the sea.", "b": "El niño come pan."}))
    expect(page.get_by_role("region", name="More in A").locator(".lat").first).to_be_visible()
    expect(page.get_by_role("region", name="More in B").locator(".lat").first).to_be_visible()
