"""The lens, steering and sweeps over HTTP, on the real SmolLM2 and a small real SAE."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import torch

import monoscope as ms
from monoscope.features.text import features_on_text

pytestmark = pytest.mark.slow
TEXT = "The Eiffel Tower in Paris was finished in 1889.\nIts engineers had studied physics."
OTHER = "El niño come pan con mantequilla en la cocina de su abuela."


@pytest.fixture(scope="module")
def api(live: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{live}/api/v1", timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def lm() -> Any:
    return ms.load_lm("demo")


@pytest.fixture(scope="module")
def sae(bench) -> Any:
    return ms.load_sae(bench / "sae")


@pytest.fixture(scope="module")
def atlas(bench) -> Any:
    return ms.load_atlas(bench / "atlas")


@pytest.fixture(scope="module")
def latent(atlas) -> int:
    """A latent whose top contexts peak on words."""
    rows = atlas.list(sort="interest", limit=50)
    return next(r.latent for r in rows if any(len(t.strip()) > 3 for t in r.tokens))


def told(api, path, body) -> list[tuple[str, Any]]:
    """Every event of a stream."""
    events = []
    with api.stream("POST", path, json=body) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        for block in "".join(answer.iter_text()).split("\n\n"):
            if block:
                name, data = block.split("\n", 1)
                events.append((name.removeprefix("event: "), json.loads(data[len("data: ") :])))
    return events


def test_the_lens_tells_what_fires_by_strength(api, lm, sae, atlas):
    answer = api.post("/lens", json={"text": TEXT, "per_token": 5, "limit": 7}).json()
    own = features_on_text(lm, sae, TEXT)
    assert "".join(t["piece"] for t in answer["tokens"]) == TEXT
    assert [t["kept"] for t in answer["tokens"]] == [t.kept for t in own.tokens]
    strongest = {t.latent for t in own.ranked()[:7]}
    for token, mine in zip(answer["tokens"], own.tokens, strict=True):
        # those told in total are told wherever they fire, so that the text can be shaded by them
        wanted = [p for n, p in enumerate(mine.active) if n < 5 or p[0] in strongest]
        assert token["latents"] == [i for i, _ in wanted]
        assert token["values"] == pytest.approx([v for _, v in wanted], abs=1e-3)
        assert token["values"] == sorted(token["values"], reverse=True)
        assert token["n_active"] == len(mine.active)
    n_kept = sum(t.kept for t in own.tokens)
    assert answer["n_kept"] == n_kept
    for total, mine in zip(answer["totals"], own.ranked()[:7], strict=True):
        assert total["latent"] == mine.latent
        assert total["mean"] == pytest.approx(mine.sum / n_kept)
        assert (total["n_tokens"], total["peak"]) == (mine.n_tokens, mine.peak)
    named = {i for t in answer["tokens"] for i in t["latents"]} | {
        t["latent"] for t in answer["totals"]
    }
    assert set(map(int, answer["features"])) == named
    labels = atlas.labels()
    for i, fact in answer["features"].items():
        feature = atlas.feature(int(i))
        assert (fact["label"], fact["max"]) == (labels[int(i)], pytest.approx(feature.max))


def test_pinned_latents_are_told_wherever_they_fire(api, lm, sae):
    own = features_on_text(lm, sae, TEXT)
    weak = own.ranked()[-1].latent
    answer = api.post("/lens", json={"text": TEXT, "per_token": 1, "limit": 1, "pinned": [weak]})
    values = [
        dict(zip(t["latents"], t["values"], strict=True)).get(weak, 0.0)
        for t in answer.json()["tokens"]
    ]
    assert values == pytest.approx(own.values(weak), abs=1e-3)
    assert str(weak) in answer.json()["features"]


def test_a_long_text_is_read_in_one_window(api, lm, sae):
    text = "One two three four five six seven eight nine ten. " * 20  # beyond a harvest's window
    answer = api.post("/lens", json={"text": text, "per_token": 64}).json()
    own = features_on_text(lm, sae, text, context_length=lm.context_length)
    assert len(answer["tokens"]) == len(own.tokens) > 200
    last = max(i for i, t in enumerate(own.tokens) if t.active)
    assert answer["tokens"][last]["latents"] == [i for i, _ in own.tokens[last].active[:64]]


def test_a_chat_is_read_in_its_template_with_nothing_before_it(api, lm):
    messages = [{"role": "user", "content": "Tell me about Paris"}]
    answer = api.post("/lens", json={"messages": messages}).json()
    ids = lm.tokens.hf.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert [t["token_id"] for t in answer["tokens"]] == list(ids)
    special = [t for t in answer["tokens"] if t["token_id"] in lm.special_ids]
    assert special
    assert not any(t["kept"] or t["latents"] for t in special)


def test_two_texts_compared_by_mean_over_kept_tokens(api, lm, sae):
    answer = api.post(
        "/lens/compare", json={"a": {"text": TEXT}, "b": {"text": OTHER}, "limit": 5}
    ).json()
    means = []
    for text in (TEXT, OTHER):
        own = features_on_text(lm, sae, text)
        n = sum(t.kept for t in own.tokens)
        means.append({t.latent: t.sum / n for t in own.totals})
    a, b = means
    rows = answer["differences"]
    assert len(rows) == 10
    gaps = {i: a.get(i, 0) - b.get(i, 0) for i in a.keys() | b.keys()}
    ranked = sorted(gaps.values(), reverse=True)
    assert [r["difference"] for r in rows[:5]] == pytest.approx(ranked[:5], abs=1e-4)
    assert [r["difference"] for r in rows[5:]] == pytest.approx(ranked[-5:], abs=1e-4)
    for row in rows:
        assert row["a"] == pytest.approx(a.get(row["latent"], 0), abs=1e-4)
        assert row["b"] == pytest.approx(b.get(row["latent"], 0), abs=1e-4)


def test_answers_side_by_side_are_those_of_generate(api, lm, sae, atlas, latent):
    edits = [{"latent": latent, "op": "set", "value": 4, "unit": "max", "where": "generated"}]
    events = told(api, "/steer", {"prompt": "I think", "max_new_tokens": 10, "edits": edits})
    own = ms.generate(
        lm, "I think", max_new_tokens=10,
        edits=[ms.Set(sae, latent, times_max=4, atlas=atlas, where="generated")],
    )  # fmt: skip
    assert [name for name, _ in (events[0], events[-1])] == ["start", "done"]
    assert events[0][1]["edits"][0]["edit"] == f"{latent}=set:4max@generated"
    tokens = [data for name, data in events if name == "token"]
    assert [t["side"] for t in tokens[:4]] == ["default", "steered"] * 2
    for side in ("default", "steered"):
        text = "".join(t["text"] for t in tokens if t["side"] == side)
        assert text == getattr(own, side) == events[-1][1][side]["text"]
    steered = [t for t in tokens if t["side"] == "steered"]
    for token, mine in zip(steered, own.tokens, strict=True):
        assert token["logp"] == pytest.approx(mine.logp_steered, abs=0.15)  # bfloat16
        assert token["logp_default"] == pytest.approx(mine.logp_default, abs=0.15)
    assert events[-1][1]["kl"] == pytest.approx(own.kl, rel=0.05)
    assert events[-1][1]["relative_norm"] == pytest.approx(own.relative_norm, rel=0.01)


def test_a_chat_is_steered_with_its_turns_in_mind(api, lm):
    turns = [
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": "Hello, Ada."},
        {"role": "user", "content": "What is my name?"},
    ]
    events = told(api, "/steer", {"messages": turns, "max_new_tokens": 8})
    own = ms.generate(lm, turns, max_new_tokens=8)
    assert events[-1][1]["default"]["text"] == own.default == events[-1][1]["steered"]["text"]
    assert events[0][1]["n_prompt_tokens"] == len(lm.chat(turns))


def test_a_sweep_tells_its_trials_and_ends_with_a_verdict(api, latent, atlas):
    asked = {"prompt": "I think", "latent": latent, "strengths": [0.5, 0.2], "neutral": False,
             "max_new_tokens": 6}  # fmt: skip
    events = told(api, "/sweep", asked)
    start = events[0][1]
    assert start["label"] == atlas.feature(latent).label
    assert start["basis"] == ("label" if atlas.feature(latent).label_tokens else "contexts")
    points = [data for name, data in events if name == "point"]
    assert [(p["kind"], p["times_norm"]) for p in points] == [
        ("default", 0), ("prompt", 0), ("steered", 0.2), ("random", 0.2), ("reversed", -0.2),
        ("steered", 0.5), ("random", 0.5), ("reversed", -0.5),
    ]  # fmt: skip
    name, spot = events[-1]
    assert name == "sweetspot"
    assert spot["best"]["score"] == max(p["score"] for p in points if p["kind"] == "steered")
    assert spot["prompt"] == points[1]["score"]
    promise = api.get("/sweep/promise", params={"latent": latent}).json()
    assert promise["tokens"] == start["tokens"]


def test_a_sweep_counts_the_words_it_is_given(api, latent):
    events = told(api, "/sweep", {"prompt": "I", "latent": latent, "strengths": [0.1],
        "words": ["river", "water"], "max_new_tokens": 2, "neutral": False})  # fmt: skip
    assert events[0][1]["basis"] == "given"
    assert events[0][1]["tokens"][:2] == [" river", "river"] or " river" in events[0][1]["tokens"]
    assert "river" in events[0][1]["ask"]


REFUSED = {
    "nothing to steer": ("/steer", {}, 422),
    "both": ("/steer", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, 422),
    "empty": ("/steer", {"prompt": ""}, 400),
    "too long": ("/steer", {"prompt": "a " * 9000}, 400),
    "beyond the context": ("/steer", {"prompt": "a", "max_new_tokens": 90_000}, 400),
    "absurd": ("/steer", {"prompt": "a", "max_new_tokens": 10**40}, 422),
    "negative": ("/steer", {"prompt": "a", "max_new_tokens": -1}, 422),
    "no such latent": ("/steer", {"prompt": "a", "edits": [{"latent": 9999, "op": "ablate"}]}, 404),
    "negative latent": ("/steer", {"prompt": "a", "edits": [{"latent": -1, "op": "ablate"}]}, 422),
    "huge latent": ("/steer", {"prompt": "a", "edits": [{"latent": 10**40, "op": "ablate"}]}, 422),
    "op": ("/steer", {"prompt": "a", "edits": [{"latent": 1, "op": "floor", "value": 1}]}, 422),
    "value": ("/steer", {"prompt": "a", "edits": [{"latent": 1, "op": "cap", "value": -1}]}, 400),
    "where": (
        "/steer", {"prompt": "a", "edits": [{"latent": 1, "op": "ablate", "where": "x"}]}, 400,
    ),
    "scale unit": (
        "/steer",
        {"prompt": "a", "edits": [{"latent": 1, "op": "scale", "value": 1, "unit": "max"}]}, 400,
    ),
    "seed": ("/steer", {"prompt": "a", "seed": 2**64}, 422),
    "role": ("/steer", {"messages": [{"role": "tool", "content": "a"}]}, 422),
    "field": ("/steer", {"prompt": "a", "tokens": 3}, 422),
    "sweep latent": ("/sweep", {"prompt": "a", "latent": 10**6}, 404),
    "sweep strengths": ("/sweep", {"prompt": "a", "latent": 1, "strengths": [-0.1]}, 422),
    "sweep words": (
        "/sweep", {"prompt": "a", "latent": 1, "words": ["antidisestablishmentarianism"]}, 400,
    ),
    "lens nothing": ("/lens", {"text": ""}, 400),
    "lens too long": ("/lens", {"text": "a " * 5000}, 400),
    "lens pin": ("/lens", {"text": "a", "pinned": [-1]}, 422),
    "compare": ("/lens/compare", {"a": {"text": "x"}}, 422),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_a_clear_4xx(api, case):
    path, body, status = REFUSED[case]
    answer = api.post(path, json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_strengths_that_are_no_numbers_are_refused(api, number):
    body = f'{{"prompt": "a", "edits": [{{"latent": 1, "op": "add", "value": {number}}}]}}'
    headers = {"content-type": "application/json"}
    answer = api.post("/steer", content=body, headers=headers)
    assert answer.status_code == 422
    assert "finite" in answer.json()["detail"]


def test_leaving_a_stream_stops_the_model(api):
    body = {"prompt": "I think", "max_new_tokens": 4000, "temperature": 1.0}
    with api.stream("POST", "/steer", json=body) as answer:
        next(answer.iter_text())
        assert api.get("/status").json()["model"]["busy"]
    after = told(api, "/steer", {"prompt": "I", "max_new_tokens": 1})
    assert after[-1][0] == "done"


def test_what_breaks_while_writing_is_an_event_and_the_server_goes_on(api, live, monkeypatch):
    import monoscope.steer.live as live_module

    real = live_module._log_p
    count = iter(range(100))

    def breaks(logits: torch.Tensor) -> torch.Tensor:
        if next(count) == 5:
            raise RuntimeError("a stroke of bad luck")
        return real(logits)

    monkeypatch.setattr(live_module, "_log_p", breaks)
    events = told(api, "/steer", {"prompt": "I think", "max_new_tokens": 8})
    assert [name for name, _ in events][:2] == ["start", "token"]
    name, data = events[-1]
    assert name == "problem"
    assert data["status"] == 500
    assert "bad luck" in data["got"]
    monkeypatch.undo()
    assert told(api, "/steer", {"prompt": "I think", "max_new_tokens": 2})[-1][0] == "done"
