"""Addresses: what a page shows is in its link, and what a link holds amiss is named on the page."""

from __future__ import annotations

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import expect

import monoscope as ms
from monoscope import cli
from tests.viewer.browser.clipboard import CLIPBOARD, copied

pytestmark = pytest.mark.browser
TEXT = "The Nobel prize in physics"


@pytest.mark.parametrize(
    ("address", "named"),
    [
        ({"e": "3=add:1norm,banana"}, ["banana", "latent=op:value"]),
        ({"e": "3=add"}, ["3=add", "latent=op:value"]),
        ({"e": "3=ablate@nowhere"}, ["3=ablate@nowhere"]),
        ({"n": "abc"}, ["got abc", "1 to 4096"]),
        ({"n": "0", "tp": "2"}, ["got 0;", "got 2;"]),
        ({"s": "1.5", "t": "hot"}, ["got 1.5;", "got hot;"]),
        ({"m": "chat", "c": '[["u","Hi"'}, ['got [["u","Hi"', "turns as JSON"]),
        ({"m": "chat", "c": '[["u","Hi"],["x","?"]]'}, ['got ["x","?"]']),
        ({"m": "talk"}, ["got talk", "chat"]),
        ({"sweep": "best", "sm": "beauty"}, ["got best;", "got beauty;"]),
        ({"e": "99999=add:1norm"}, ["no such latent", "got 99999", "0 to 511"]),
    ],
    ids=lambda given: "&".join(given) if isinstance(given, dict) else "",
)
def test_the_lab_names_what_it_cannot_read_and_asks_nothing(page, watch, address, named):
    asked = []
    watch.allow("404")
    page.on("request", lambda request: asked.append(request.url.split("/api/v1/")[-1]))
    page.goto("/steer?" + urlencode({"p": "I think", "n": 2, "run": 1} | address))
    for words in named:
        expect(page.locator("main [role=alert]").filter(has_text=words).first).to_be_visible()
    expect(page.get_by_text("…", exact=True)).to_have_count(0)
    if address.get("e", "").startswith("99999"):
        expect(page.locator(".edit .named")).to_have_text("no such latent")
        return
    assert "steer" not in asked
    page.get_by_role("button", name="Go on without it").click()
    expect(page.locator(".unread")).to_have_count(0)
    if "banana" in address.get("e", ""):
        expect(page.locator(".edit .who a")).to_have_text(["3"])  # what could be read stays


@pytest.mark.parametrize(
    ("address", "named"),
    [
        ("/lens?" + urlencode({"t": TEXT, "pin": "1,two"}), "two"),
        ("/lens?" + urlencode({"t": TEXT, "pin": "99999"}), "99999"),
        ("/lens?" + urlencode({"t": TEXT, "at": "400"}), "400"),
        ("/lens?" + urlencode({"t": TEXT, "by": "beauty"}), "beauty"),
        ("/compare?t=abc", "abc"),
        ("/compare?kind=odd", "odd"),
        ("/run?show=sae,nothing", "nothing"),
        ("/run?run=nothing", "nothing"),
        ("/f/3?add=much", "much"),
    ],
)
def test_other_pages_name_what_they_cannot_read(page, address, named):
    page.goto(address)
    expect(page.locator("main [role=alert]").filter(has_text=f"got {named}").first).to_be_visible()


def test_a_feature_s_link_holds_its_steering_box(fresh, live):
    page = fresh(**CLIPBOARD)
    page.goto("/f/3")
    box = page.locator(".try-it")
    box.get_by_role("textbox").fill("Once there -was")
    slider = box.get_by_role("slider")
    slider.focus()
    slider.press("ArrowRight")
    box.get_by_role("textbox").focus()
    box.get_by_role("button", name="Try it").click()
    expect(box.locator(".costs dd").first).not_to_have_text("–")
    tried = box.locator(".tried p")
    expect(box.get_by_role("button", name="Try it")).to_be_visible()
    texts = tried.all_inner_texts()
    other = fresh()
    other.goto(copied(page, "Copy link"))
    there = other.locator(".try-it")
    expect(there.get_by_role("textbox")).to_have_value("Once there -was")
    expect(there.get_by_role("slider")).to_have_value("0.55")
    expect(there.locator(".tried p")).to_have_text(texts, use_inner_text=True)
    loaded = page.request.get(f"{live}/api/v1/status").json()["model"]
    for name, within in (("Copy command", ".try-it"), ("as command", ".f-head")):
        words = shlex.split(copied(page, name, within))
        said = dict(pairwise(words))
        assert words[:3] == ["monoscope", "steer", loaded["sae"]]
        assert said["--model"] == loaded["model"] and said["--atlas"].endswith("/atlas")
        assert (said["--prompt"], said["--edit"]) == ("Once there -was", "3=add:0.55norm")
    for name, within in (("Copy Python", ".try-it"), ("as Python", ".f-head")):
        code = copied(page, name, within)
        compile(code, "copied.py", "exec")
        assert f"load_lm({json.dumps(loaded['model'])})" in code
        assert '"Once there -was"' in code and "times_norm=0.55" in code


def test_a_feature_s_command_names_the_model_that_is_loaded(fresh):
    page = fresh(**CLIPBOARD)
    status = {"state": "ready", "detail": "", "model": "my/own-model", "sae": "/x/sae"}
    page.route("**/api/v1/status", lambda route: route.fulfill(json={"model": status}))
    page.goto("/f/3")
    assert "--model my/own-model" in copied(page, "as command", ".f-head")
    assert 'load_lm("my/own-model")' in copied(page, "as Python", ".f-head")
    status |= {"state": "loading", "model": None}
    page.reload()
    expect(page.get_by_role("button", name="as command")).to_be_disabled()
    status |= {"state": "absent", "sae": None}
    page.reload()
    expect(page.get_by_role("button", name="as command")).to_be_enabled()
    assert re.fullmatch(r"monoscope features \S+ --id 3", copied(page, "as command", ".f-head"))


def test_the_runs_in_view_are_taken_along(fresh, live, capsys):
    page = fresh(**CLIPBOARD)
    page.goto("/run")
    page.get_by_role("checkbox", name="Draw sae-small").uncheck()
    shown = page.locator(".chart .readout .series")
    expect(shown).to_have_count(4)
    link = copied(page, "Copy link")
    other = fresh()
    other.goto(link)
    expect(other.get_by_role("checkbox", name="Draw sae", exact=True)).to_be_checked()
    expect(other.get_by_role("checkbox", name="Draw sae-small")).not_to_be_checked()
    expect(other.get_by_role("heading", name="Run sae", exact=True)).to_be_visible()
    command = shlex.split(copied(page, "Copy command"))
    with pytest.raises(SystemExit) as ended:
        cli.main([*command[1:], "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (command[0], ended.value.code, told["status"]) == ("monoscope", 0, "finished")
    assert Path(told["path"]).name == "sae"
    exec(compile(copied(page, "Copy Python"), "copied.py", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["sae", "training"], ["sae", "held"]]
    told = re.search(r" fvu (\S+) ", lines[0])
    assert told and f"{float(told[1]):.2f}" == shown.first.inner_text()


def test_lists_answer_to_j_and_k(page):
    for path, rows, focused in (
        ("/run", ".runtable .name button", ".runtable .name button:focus"),
        ("/lens?" + urlencode({"t": TEXT}), ".lats .lat > a.num", ".lats .lat > a.num:focus"),
    ):
        page.goto(path)
        expect(page.locator(rows).nth(1)).to_be_visible()
        names = page.locator(rows).all_inner_texts()
        for key, want in (("j", 0), ("j", 1), ("k", 0), ("k", 0)):
            page.keyboard.press(key)
            expect(page.locator(focused)).to_have_text(names[want])
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(f"/f/{names[0]}"))


def test_two_texts_have_a_panel_for_a_token_of_each(fresh):
    page = fresh()
    page.goto("/lens?" + urlencode({"t": "The river runs.", "b": "El niño come pan.", "dense": 1}))
    strip = page.get_by_role("listbox", name="Text B")
    strip.focus()
    page.keyboard.press("End")
    panel = page.get_by_role("region", name="On this token of B")
    first = panel.locator(".lat > a.num").first
    expect(first).to_be_visible()
    expect(page.get_by_role("region", name="On this token of A")).to_have_count(0)
    page.get_by_role("listbox", name="Text A").locator(".lt").nth(1).click()
    expect(page.get_by_role("region", name="On this token of A")).to_be_visible()
    other = fresh()
    other.goto(page.url)
    expect(other.get_by_role("region", name="On this token of A")).to_be_visible()
    there = other.get_by_role("region", name="On this token of B").locator(".lat > a.num").first
    expect(there).to_have_text(first.inner_text())


def test_the_map_is_walked_by_keyboard(page, bench):
    page.goto("/")
    box = page.locator(".map-box[tabindex]")
    expect(box).to_be_visible()
    n = ms.load_atlas(bench / "atlas").n_features
    box.focus()
    tip = page.locator(".map-tip b")
    expect(tip).to_be_visible()
    seen = {tip.inner_text()}
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp") * 2:
        page.keyboard.press(key)
        seen.add(tip.inner_text())
    assert len(seen) > 3 and all(0 <= int(text) < n for text in seen)
    for _ in range(4):
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press(" ")
    expect(page).to_have_url(re.compile("box="))
    page.keyboard.press("Escape")
    expect(page).not_to_have_url(re.compile("box="))
    latent = tip.inner_text()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(f"/f/{latent}"))
