"""What a page gives to take along: its link, its command and its Python, each tried as it is."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

import monoscope as ms
from monoscope import cli
from monoscope.steer import feature_sweep
from tests.viewer.browser.clipboard import CLIPBOARD, copied

pytestmark = [pytest.mark.browser, pytest.mark.slow]
TEXT = 'It\'s "one" $HOME in Paris.\nThe river runs on to the sea, and then it rains again. ' * 7
OTHER = "-- El niño come pan con su abuela."
MOVED = ("steered", "random", "reversed")  # kinds of trial
CHAT = "system: You are terse.\nuser: I am Ada.\nassistant: Hello.\nuser: Who am I?"


@pytest.fixture(scope="module")
def lm(live: str) -> Any:
    """A model of the tests' own, read when the viewer has read its: torch's default dtype, which
    reading sets for a moment, is one for the whole process."""
    while httpx.get(f"{live}/api/v1/status").json()["model"]["state"] == "loading":
        time.sleep(0.1)
    return ms.load_lm("demo")


@pytest.fixture
def run(lm: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Runs copied text as a shell or Python would, the model read once for all of them."""

    def load(name: str, **options: Any) -> Any:
        assert name == "demo"
        return lm

    monkeypatch.setattr("monoscope.lm.load_lm", load)
    monkeypatch.setattr("monoscope.load_lm", load)

    def once(text: str) -> str:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            if not text.startswith("monoscope "):
                exec(compile(text, "copied.py", "exec"), {"__name__": "__main__"})
            else:
                with pytest.raises(SystemExit) as left:
                    cli.main([*shlex.split(text)[1:], "--json"])
                assert left.value.code == 0
        return said.getvalue()

    return once


def latents(page: Page, n: int, within: str = "main") -> list[int]:
    rows = page.locator(f"{within} .lat a.num")
    expect(rows.first).to_be_visible()
    return [int(text) for text in rows.all_inner_texts()[:n]]


@pytest.mark.parametrize("chat", [False, True], ids=["text", "chat"])
def test_a_lens_says_the_same_in_a_shell_and_in_python(fresh, run, chat):
    page = fresh(**CLIPBOARD)
    # a text longer than a harvest's window, with dense latents; a chat without
    asked = {"m": "chat", "t": CHAT} if chat else {"t": TEXT, "dense": 1}
    page.goto("/lens?" + urlencode(asked | {"by": "max"}))
    shown = latents(page, 5)
    told = json.loads(run(copied(page, "Copy command")))
    assert [total["latent"] for total in told["totals"]][:5] == shown
    lines = run(copied(page, "Copy Python")).splitlines()
    assert [int(line.split()[0]) for line in lines][:5] == shown


@pytest.mark.parametrize("dense", ["", "1"], ids=["sparse", "dense"])
def test_a_passage_in_the_search_box_says_the_same_in_a_shell_and_in_python(
    fresh, run, bench, dense
):
    page = fresh(**CLIPBOARD)
    atlas = ms.load_atlas(bench / "atlas")
    passage = "The theory of numbers is studied by mathematicians."
    if dense:  # a text on which one of them is among the first
        example = atlas.feature(max(atlas.dense())).examples[0].text
        passage = " ".join(re.findall(r"\w+", example)) + "."
    page.goto("/?" + urlencode({"q": passage, "dense": dense}))
    ids = page.locator(".g-row.body .c-id a")
    expect(page.get_by_text("features fire")).to_be_visible()
    expect(ids.first).to_be_visible()
    shown = [int(text) for text in ids.all_inner_texts()[:8]]
    assert bool(dense) == bool(atlas.dense() & set(shown))  # else the rule would not be seen
    told = json.loads(run(copied(page, "as command")))
    assert [total["latent"] for total in told["totals"]][:8] == shown
    lines = run(copied(page, "as Python")).splitlines()
    assert [int(line.split()[0]) for line in lines][:8] == shown


@pytest.mark.parametrize(
    "state",
    [{"q": "unclear", "sort": "score"},
     {"q": '-dead density<50% "the"', "sort": "max", "order": "asc"},
     {"sort": "density", "order": "asc", "box": "0.2,0.1,0.8,0.9"}],
    ids=["sorted", "filtered", "boxed"],
)  # fmt: skip
def test_an_atlas_view_says_the_same_in_a_shell_and_in_python(
    fresh, run, state, tmp_path, monkeypatch
):
    page = fresh(**CLIPBOARD)
    page.goto("/?" + urlencode(state))
    ids = page.locator(".g-row.body .c-id a")
    expect(ids.first).to_be_visible()
    shown = [int(text) for text in ids.all_inner_texts()[:10]]
    monkeypatch.chdir(tmp_path)  # not the viewer's own
    told = json.loads(run(copied(page, "as command")))
    assert [row["latent"] for row in told["features"]][: len(shown)] == shown
    lines = run(copied(page, "as Python")).splitlines()
    assert [int(line.split()[0]) for line in lines][: len(shown)] == shown


def test_two_texts_say_the_same_in_a_shell_and_in_python(fresh, run):
    page = fresh(**CLIPBOARD)
    page.goto("/lens?" + urlencode({"t": TEXT[:90], "b": OTHER, "dense": 1}))
    more = [latents(page, 3, f"[aria-label='More in {side}']") for side in "AB"]
    rows = json.loads(run(copied(page, "Copy command")))["differences"]
    assert [[r["latent"] for r in rows][:3], [r["latent"] for r in rows[::-1]][:3]] == more
    lines = [int(line.split()[0]) for line in run(copied(page, "Copy Python")).splitlines()]
    assert [lines[:3], lines[::-1][:3]] == more


def test_a_comparison_says_the_same_in_a_shell_and_in_python(fresh, run):
    page = fresh(**CLIPBOARD)
    page.goto("/compare?t=0.6&kind=matched")
    expect(page.locator(".family .tag").first).to_have_text("matched")
    page.get_by_placeholder("words of a label").fill("unclear")
    expect(page).to_have_url(re.compile("q=unclear"))
    told = json.loads(run(copied(page, "Copy command")))
    n = told["n_families"]
    assert n > 0
    expect(page.locator(".families h2")).to_have_text(re.compile(f"^{n} matched"))
    first = page.locator(".family .members").first.inner_text().split()[0]
    assert str(told["families"][0]["a"][0]["latent"]) == first
    lines = run(copied(page, "Copy Python")).splitlines()
    assert len(lines) == 1 + min(20, n)
    assert lines[1].startswith("matched ") and f"[{first}, " in lines[1]
    page.locator(".family > button").first.click()
    expect(page).to_have_url(re.compile("f="))
    family = json.loads(run(copied(page, "Copy command")))
    assert str(family["a"][0]["latent"]) == first and family["contexts"]


def test_a_comparison_s_link_names_both_atlases_and_keeps_how_many_are_shown(fresh):
    page = fresh(**CLIPBOARD)
    page.goto("/compare")
    page.get_by_role("button", name=re.compile("^Show more")).click()
    expect(page.locator(".family")).to_have_count(80)
    link = copied(page, "Copy link")
    said = parse_qs(urlsplit(link).query)
    assert (said["a"], said["b"], said["t"]) == (["atlas"], ["atlas-small"], ["0.7"])
    other = fresh()
    other.goto(link)
    expect(other.locator(".family")).to_have_count(80)


def test_a_sweep_is_kept_whole_by_its_link_and_runs_as_a_command_and_in_python(
    fresh, run, bench, monkeypatch
):
    latent = ms.load_atlas(bench / "atlas").list(sort="max", limit=1)[0].latent
    page = fresh(**CLIPBOARD)
    # A chat is tried on itself alone, not on neutral prompts besides: quicker.
    page.goto("/steer?" + urlencode({"m": "chat", "c": '[["u","Hi"]]', "sweep": latent, "n": 4}))
    words = page.locator("#sweep").get_by_label("Count other words")
    page.get_by_text("How this is counted").click()
    words.fill("the, Paris")
    # What streams in draws the page anew, and takes nothing from what is being typed.
    expect(page.locator(".curve.steered > :not(polyline)").nth(1)).to_be_visible()
    expect(words).to_have_value("the, Paris")
    words.press("Enter")
    verdict = page.locator(".verdict")
    expect(verdict).to_contain_text("Asking in words", timeout=120_000)
    expect(page.locator("#sweep")).to_contain_text("(from you)")
    for kind in ("steered", "random", "reversed"):
        expect(page.locator(f".curve.{kind} > :not(polyline)")).to_have_count(7)
    expect(page.locator(".trials tbody tr")).to_have_count(5)
    for row in page.locator(".trials tbody tr").all():  # what each cost is always said
        kind, cost = row.get_attribute("class"), row.locator("td.num").all_inner_texts()[3:]
        assert [float(c) > 0 for c in cost] == [kind in MOVED, kind != "default"], (kind, cost)
    page.get_by_role("button", name="effect", exact=True).click()
    strength = page.get_by_role("group", name="Strength whose").get_by_role("button", name="0.20")
    strength.focus()
    page.keyboard.press("Enter")
    expect(strength).to_have_attribute("aria-pressed", "true")
    # What is copied runs at one of the strengths, which the others have no part in: quicker.
    whole = feature_sweep.sweep
    monkeypatch.setattr(
        feature_sweep, "sweep", lambda *a, **k: whole(*a, **k | {"strengths": (0.2,)})
    )
    told = json.loads(run(copied(page, "Copy command", "#sweep")))
    assert told["basis"] == "given" and len(told["points"]) == 5
    score = f"{told['sweetspot']['prompt']:.2f}"
    assert f"Asking in words scores {score}" in verdict.inner_text()
    text = page.locator(".trials tr.steered td.mono").inner_text()
    at = [p for p in told["points"] if p["kind"] == "steered" and p["times_norm"] == 0.2]
    assert at[0]["texts"][0].split() == text.replace("⏎", " ").split()
    lines = run(copied(page, "Copy Python", "#sweep")).splitlines()
    assert any(line.startswith("reversed -0.2 ") for line in lines)
    other = fresh()
    other.goto(copied(page, "Copy link"))
    expect(other.locator("#sweep").get_by_label("Count other words")).to_have_value("the, Paris")
    expect(other.get_by_role("button", name="effect", exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )
    again = other.get_by_role("group", name="Strength whose").get_by_role("button", name="0.20")
    expect(again).to_have_attribute("aria-pressed", "true")


def test_without_edits_the_lab_still_gives_a_command(fresh, run):
    page = fresh(**CLIPBOARD)
    page.goto("/steer?" + urlencode({"p": "-1 is", "n": 3}))
    told = json.loads(run(copied(page, "Copy command")))
    assert told["default"] == told["steered"] and told["edits"] == []


def test_nothing_is_copied_before_the_model_is_known(fresh):
    page = fresh()
    loading = {"model": {"state": "loading", "detail": "", "model": None, "sae": "sae"}}
    page.route("**/api/v1/status", lambda route: route.fulfill(json=loading))
    for path in ("/lens?t=Hello", "/steer?p=Hello", "/f/1"):
        page.goto(path)
        expect(page.get_by_role("button", name="Copy command", exact=True)).to_be_disabled()
    page.unroute("**/api/v1/status")
    expect(page.get_by_role("button", name="Copy command", exact=True)).to_be_enabled()


def test_what_is_typed_stays_while_the_page_is_drawn_anew(fresh):
    page = fresh()
    model = {"state": "loading", "detail": "", "model": None, "sae": "sae"}
    page.route("**/api/v1/status", lambda route: route.fulfill(json={"model": model}))
    lab = "/steer?" + urlencode({"m": "chat", "e": "1=add:0.4norm@when:2"})
    for path, name, typed in (
        (lab, "System turn", "You speak like a pirate."),
        (lab, "tokens", "12"),
        (lab, "Strength of feature 1, exactly", "0.7"),
        (lab, "The latent that must fire, with :threshold if you like", "3"),
    ):
        page.goto(path)
        field = page.get_by_label(name, exact=True)
        model["state"] = "loading"
        expect(page.get_by_text("The model is loading.")).to_be_visible()
        field.fill(typed)
        model["state"] = "ready"
        expect(page.get_by_text("The model is loading.")).to_have_count(0)
        expect(field).to_have_value(typed)
        field.blur()
        expect(field).to_have_value(typed)


def test_the_lens_waits_calmly_and_is_shaded_from_its_first_paint(fresh):
    page = fresh()
    held: list[Route] = []
    page.route("**/api/v1/lens", lambda route: held.append(route))
    page.goto("/lens?" + urlencode({"t": "The Nobel prize in physics"}))
    page.wait_for_function("() => document.querySelector('.waiting .bone')")
    expect(page.get_by_text("Nothing to read yet")).to_have_count(0)
    before = page.locator(".lens > .panel").first.bounding_box()
    seen = """() => { window.bare = 0; new MutationObserver(() => {
        const strip = document.querySelector(".strip");
        if (strip && !strip.querySelector(".t.lit")) window.bare++;
    }).observe(document.body, {childList: true, subtree: true}); }"""
    page.evaluate(seen)
    while not held:
        page.wait_for_timeout(20)
    held.pop().continue_()
    expect(page.locator(".strip .t.lit").first).to_be_visible()
    assert page.evaluate("() => window.bare") == 0
    after = page.locator(".lens > .panel").first.bounding_box()
    assert before and after
    assert [before[k] for k in ("x", "y", "width")] == [after[k] for k in ("x", "y", "width")]


def test_the_text_is_shaded_by_the_row_that_is_looked_at(fresh):
    page = fresh()
    page.goto("/lens?" + urlencode({"t": "The Nobel prize in physics", "dense": 1}))
    rows = page.locator(".lat")
    first, third = latents(page, 3)[::2]
    shaded = page.locator(".shaded b")
    expect(shaded).to_have_text(str(first))
    rows.nth(2).locator(".pin").focus()
    expect(shaded).to_have_text(str(third))
    assert page.locator(".strip sub.val").count() == 0
    page.keyboard.press("v")
    expect(page.locator(".strip sub.val")).not_to_have_count(0)
    page.keyboard.press("v")
    page.keyboard.press("Enter")  # pins it: a row of its own, and shading only while one looks
    expect(page.locator(".fire.on").first).to_be_visible()


def test_features_go_from_the_lens_to_the_lab_and_gather_there(fresh):
    page = fresh()
    lens = "/lens?" + urlencode({"t": "The Nobel prize in physics"})
    page.goto(lens)
    first, second = latents(page, 2)
    page.locator(".lat .tolab").first.focus()
    page.keyboard.press("Enter")
    edits = page.locator(".edit .who a")
    expect(edits).to_have_text([str(first)])
    expect(page.get_by_role("textbox", name="Prompt")).to_have_value("The Nobel prize in physics")
    page.get_by_role("textbox", name="Prompt").fill("I think")
    page.get_by_role("textbox", name="Prompt").blur()
    expect(page).to_have_url(re.compile("p=I"))
    page.goto(lens)
    page.get_by_role("link", name=f"add {second} to the Lab").click()
    expect(edits).to_have_text([str(first), str(second)])
    expect(page.get_by_role("textbox", name="Prompt")).to_have_value("I think")
    page.goto(lens + f"&pin={first},{second}")
    page.get_by_role("link", name="all 2 to the Lab").click()
    expect(edits).to_have_text([str(first), str(second)])  # those that are there are left


def test_a_chat_has_a_system_turn_that_its_link_and_command_keep(fresh):
    page = fresh(**CLIPBOARD)
    page.goto("/steer?m=chat&n=4")
    system = page.get_by_role("textbox", name="System turn")
    system.fill("You speak like a pirate.")
    system.blur()
    box = page.get_by_role("textbox", name="Message")
    box.fill("Hello")
    box.press("Enter")
    expect(page.locator(".turns li:not(.end)")).to_have_count(1)
    expect(page.locator(".turns li:not(.end)").first).to_contain_text("Hello")
    words = shlex.split(copied(page, "Copy command"))
    assert json.loads(words[words.index("--messages") + 1]) == [
        {"role": "system", "content": "You speak like a pirate."},
        {"role": "user", "content": "Hello"},
    ]
    page.reload()
    expect(system).to_have_value("You speak like a pirate.")
    page.get_by_role("button", name="start again").click()
    expect(page.locator(".turns")).to_have_count(0)
    expect(system).to_have_value("You speak like a pirate.")


def test_labels_are_quoted_where_features_are_added_and_compared(fresh, bench):
    rows = ms.load_atlas(bench / "atlas").list(sort="interest", limit=50)
    quoted = next(row for row in rows if row.label and row.label.startswith('"'))
    page = fresh()
    page.goto("/steer")
    page.get_by_role("combobox", name="Add a feature").fill(str(quoted.latent))
    expect(page.get_by_role("option").locator("q").first).to_be_visible()
    assert '"' not in page.get_by_role("option").inner_text()
    page.goto("/compare")
    expect(page.locator(".members q").first).to_be_visible()


def test_costs_stay_in_view_and_both_answers_can_carry_numbers(fresh, bench):
    latent = ms.load_atlas(bench / "atlas").list(sort="max", limit=1)[0].latent
    page = fresh(width=390, height=700)
    page.goto("/steer?" + urlencode({"p": "I think", "n": 6, "e": f"{latent}=add:1norm", "run": 1}))
    expect(page.locator(".ans.steered [role=status]")).to_contain_text("tokens")
    costs = page.get_by_label("What the edits cost")
    expect(costs).to_be_in_viewport()
    expect(costs).to_contain_text("KL a token")
    page.locator("h1").click()
    page.keyboard.press("v")
    expect(page.locator(".ans.steered sub.val").first).to_be_visible()
