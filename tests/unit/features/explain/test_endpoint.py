"""An endpoint that is down, slow, limiting, wrong or refusing: a clear line each, nothing lost."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest

from monoscope.errors import ConfigError, EndpointError
from monoscope.features.explain import endpoint as module
from monoscope.features.explain.cost import Budget, Prices
from monoscope.features.explain.endpoint import Endpoint, NoAnswer, address, find_key
from monoscope.features.explain.journal import Journal
from monoscope.features.explain.judge import GIVE_UP, Judge
from monoscope.features.explain.prompts import Prompts
from tests.unit.features.explain.world import Script, serving

EXCERPTS = '1. strength 9: "a <<river>> there"'
HELLO = [{"role": "system", "content": '{"explanation"}'}, {"role": "user", "content": EXCERPTS}]
JSON = {"Content-Type": "application/json"}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No waiting between attempts, no keys of whoever runs the tests."""
    monkeypatch.setattr(module, "_FIRST_WAIT", 0.001)
    for name in (module.OWN_KEY, module.SHARED_KEY):
        monkeypatch.delenv(name, raising=False)


def answer(text: Any, **further: Any) -> tuple[int, dict[str, str], bytes]:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"} | further
    return 200, JSON, json.dumps({"choices": [choice]}).encode()


def judge(url: str, **settings: Any) -> Judge:
    given = {"key": "", "retries": 1} | settings
    return Judge(Endpoint(url, "m", **given), Prompts(), Journal(None), Budget())


def lost(disturb: Any, **settings: Any) -> NoAnswer:
    """Why one question to a server disturbed like that stays without an answer."""
    given = {"key": "", "retries": 1} | settings
    with serving(Script(disturb=disturb)) as url, Endpoint(url, "m", **given) as endpoint:
        with pytest.raises(NoAnswer) as failed:
            endpoint.ask(HELLO, max_tokens=9)
        return failed.value


WHOLE = json.dumps({"choices": [{"message": {"content": "x" * 99}}]}).encode()


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ((200, {"Content-Type": "text/html"}, b"<html>Login</html>"), "html", "web page"),
        ((200, {}, b"  <!doctype html>"), "html", "web page"),
        ((200, JSON, WHOLE[:40]), "broken", "no whole chat completion"),
        ((200, JSON, b"[]"), "broken", "no whole chat completion"),
        ((200, JSON, b'{"choices": []}'), "broken", "no whole chat completion"),
        ((200, {**JSON, "Content-Length": "999"}, WHOLE), "broken", "the connection broke"),
        ((503, JSON, b'{"error": {"message": "loading\\nthe model"}}'), "server", "loading the"),
        ((502, {}, b"<html><h1>Bad gateway</h1>"), "server", "HTTP 502: a web page"),
        ((429, {"Retry-After": "0"}, b'{"error": "slow down"}'), "rate_limit", "slow down"),
        (answer(None, message={"refusal": "I will not"}), "refusal", "I will not"),
        (answer("x", finish_reason="content_filter"), "refusal", "filtered"),
        (answer(""), "refusal", "empty"),
        (answer("", finish_reason="length"), "truncated", "empty"),
    ],
)
def test_what_kind_of_failure_it_is(given, kind, said):
    failed = lost(lambda number, body: given)
    assert failed.kind == kind and said in failed.why and "\n" not in failed.why


def test_down_and_slow():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Endpoint(f"http://127.0.0.1:{port}/v1", "m", key="", retries=1) as endpoint:
        with pytest.raises(NoAnswer, match="cannot connect") as failed:
            endpoint.ask(HELLO, max_tokens=9)
        assert failed.value.kind == "down" and endpoint.n_retries == 1
    slow = lost(lambda number, body: time.sleep(0.5), timeout=0.05, retries=0)
    assert (slow.kind, slow.why) == ("timeout", "no answer within 0.05 s")


@pytest.mark.parametrize("status", [401, 403, 404, 422])
def test_what_no_retry_mends_is_told_at_once(status):
    script = Script(disturb=lambda n, body: (status, JSON, b'{"detail": "no such thing"}'))
    with (
        serving(script) as url,
        Endpoint(url, "m", key="") as endpoint,
        pytest.raises(EndpointError, match=f"HTTP {status}: no such thing"),
    ):
        endpoint.ask(HELLO, max_tokens=9)
    assert len(script.bodies) == 1


def test_what_passes_is_asked_again_and_the_servers_wait_is_kept(monkeypatch):
    def twice(number: int, body: Any) -> Any:
        return (429, {"Retry-After": "0.2"}, b"{}") if number < 2 else None

    script = Script(disturb=twice)
    with serving(script) as url, Endpoint(url, "m", key="", retries=2) as endpoint:
        begun = time.monotonic()
        assert "river" in endpoint.ask(HELLO, max_tokens=9).text
        assert time.monotonic() - begun >= 0.4  # a bound from below: waiting, not speed
        assert endpoint.n_retries == 2
    assert len(script.bodies) == 3


def test_the_rate_is_kept_between_questions():
    with serving(Script()) as url, Endpoint(url, "m", key="", rate=600) as endpoint:
        begun = time.monotonic()
        for _ in range(3):
            endpoint.ask(HELLO, max_tokens=9)
        assert time.monotonic() - begun >= 0.2


def test_settings_that_a_model_rejects_are_left_out_from_then_on():
    def picky(number: int, body: Any) -> Any:
        for name in ("logprobs", "temperature", "max_tokens", "response_format"):
            if name in body:
                error = {
                    "message": f"no {name} here",
                    "param": name,
                    "code": "unsupported_parameter",
                }
                return 400, JSON, json.dumps({"error": error}).encode()
        return None

    script = Script(disturb=picky)
    with serving(script) as url, Endpoint(url, "m", key="", retries=4) as endpoint:
        endpoint.ask(HELLO, max_tokens=9, logprobs=True)
        endpoint.ask(HELLO, max_tokens=9, logprobs=True)
        assert endpoint.dropped == ("logprobs", "max_tokens", "response_format", "temperature")
    assert len(script.bodies) == 6
    assert script.bodies[0]["response_format"] == {"type": "json_object"}
    assert set(script.bodies[-1]) == {"model", "messages", "max_completion_tokens"}


CONTEXT = (
    "This model's maximum context length is 2048 tokens. However, you requested 2101 tokens (1801 "
    "in the messages, 300 in the completion). Please reduce max_tokens or the length."
)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        # Azure, OpenAI, OpenRouter, and one that has words alone
        (400, {"error": {"message": "The response was filtered", "code": "content_filter"}},
         "refusal"),
        (400, {"error": {"message": "no", "code": None, "innererror":
                         {"code": "ResponsibleAIPolicyViolation"}}}, "refusal"),
        (400, {"error": {"message": "Invalid prompt: it was flagged", "code": "invalid_prompt"}},
         "refusal"),
        (403, {"error": {"message": "requires moderation, and your input was flagged",
                         "code": 403}}, "refusal"),
        # OpenAI, vLLM, llama.cpp, a proxy
        (400, {"error": {"message": "too long", "param": "messages",
                         "code": "context_length_exceeded"}}, "too_long"),
        (400, {"object": "error", "message": CONTEXT, "param": None, "code": 400}, "too_long"),
        (400, {"error": {"code": 400, "message": "the request exceeds the available context size",
                         "type": "exceed_context_size_error"}}, "too_long"),
        (413, "<html>Request Entity Too Large</html>", "too_long"),
    ],
)  # fmt: skip
def test_a_question_that_is_refused_or_too_long_costs_itself_alone(status, body, kind):
    """It is counted and not scored, no setting is dropped for it, and the next one is asked."""
    said = (body if isinstance(body, str) else json.dumps(body)).encode()
    script = Script(disturb=lambda n, sent: (status, JSON, said) if n == 0 else None)
    with serving(script) as url:
        asked = judge(url, retries=0)
        assert asked.explain(EXCERPTS) is None
        assert asked.explain(EXCERPTS.replace("there", "here")) == "the word river"
        asked.endpoint.close()
    assert asked.failures == {kind: 1}
    assert asked.endpoint.dropped == () and "max_tokens" in script.bodies[1]


def test_a_run_whose_every_question_is_refused_ends_with_all_of_them_counted():
    refused = json.dumps({"error": {"message": "no", "code": "content_filter"}}).encode()
    with serving(Script(disturb=lambda n, body: (400, JSON, refused))) as url:
        asked = judge(url)
        for i in range(GIVE_UP + 2):
            assert asked.explain(EXCERPTS.replace("there", str(i))) is None
        asked.endpoint.close()
    assert asked.failures == {"refusal": GIVE_UP + 2}


@pytest.mark.parametrize(
    ("status", "body", "dropped"),
    [
        (400, {"error": {"message": "`logprobs` is not supported here", "param": None}},
         ("logprobs",)),
        (400, {"error": {"message": "x", "param": "top_logprobs", "code": None}}, ("logprobs",)),
        (400, {"error": {"message": "only 1 is supported", "param": "temperature",
                         "code": "unsupported_value"}}, ("temperature",)),
        (422, {"detail": [{"loc": ["body", "logprobs"], "msg": "Extra inputs are not permitted"}]},
         ("logprobs",)),
        # OpenAI, LM Studio, vLLM: each takes other formats
        (400, {"error": {"message": "x", "param": "response_format.type", "code": "invalid_value"}},
         ("response_format",)),
        (400, {"error": "'response_format.type' must be 'json_schema' or 'text'"},
         ("response_format",)),
        (422, {"detail": [{"loc": ["body", "response_format"], "msg": "Input should be 'text'"}]},
         ("response_format",)),
        # a value out of range, and a complaint of something else that names a setting
        (400, {"error": {"message": "max_tokens is too large: 9", "param": "max_tokens"}}, None),
        (400, {"error": {"message": "x", "param": "max_tokens", "code": "invalid_value"}}, None),
        (400, {"error": {"message": "bad messages[0] (sent with max_tokens, temperature)",
                         "param": "messages"}}, None),
        (400, {"error": {"message": "your plan has no room for max_tokens of 9"}}, None),
    ],
)  # fmt: skip
def test_a_setting_goes_only_where_the_server_says_it_is_the_matter(status, body, dropped):
    said = json.dumps(body).encode()
    script = Script(disturb=lambda n, sent: (status, JSON, said) if n == 0 else None)
    with serving(script) as url, Endpoint(url, "m", key="", retries=1) as endpoint:
        if dropped is None:
            with pytest.raises(EndpointError, match=f"HTTP {status}"):
                endpoint.ask(HELLO, max_tokens=9, logprobs=True)
        else:
            endpoint.ask(HELLO, max_tokens=9, logprobs=True)
        assert endpoint.dropped == (dropped or ())


def test_a_pause_longer_than_any_that_is_waited_for_ends_the_run_at_once():
    limited = (429, {"Retry-After": "3600"}, b"{}")
    script = Script(disturb=lambda n, body: limited)
    with (
        serving(script) as url,
        Endpoint(url, "m", key="") as endpoint,
        pytest.raises(EndpointError, match=r"3,600 s.*at most 600 s.*run the same command again"),
    ):
        endpoint.ask(HELLO, max_tokens=9)
    assert len(script.bodies) == 1


def test_the_servers_own_pause_is_kept_in_full(monkeypatch):
    """Its number is not cut to what we would wait of our own accord."""
    monkeypatch.setattr(module, "_LONGEST_WAIT", 0.01)
    script = Script(disturb=lambda n, b: (429, {"Retry-After": "0.3"}, b"{}") if n == 0 else None)
    with serving(script) as url, Endpoint(url, "m", key="", retries=1) as endpoint:
        begun = time.monotonic()
        endpoint.ask(HELLO, max_tokens=9)
        assert time.monotonic() - begun >= 0.3  # a bound from below: waiting, not speed


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1/chat/completions"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1/chat/completions"),
        ("https://h/api/v3", "https://h/api/v3/chat/completions"),
        ("https://h/v1/chat/completions", "https://h/v1/chat/completions"),
    ],
)
def test_addresses(url, expected):
    assert address(url) == expected


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://h/v1", "", "http://", "http://u:secret@h"]
)
def test_what_is_no_address(url):
    with pytest.raises(ConfigError, match="--explainer-url") as failed:
        address(url)
    assert "secret" not in str(failed.value)


def test_keys_go_where_they_belong(monkeypatch):
    monkeypatch.setenv(module.SHARED_KEY, "shared")
    assert find_key("https://h/v1") == find_key("http://127.0.0.1:1/v1") == "shared"
    assert find_key("http://far.example/v1") is None  # never in the clear
    monkeypatch.setenv(module.OWN_KEY, "own")
    assert find_key("http://far.example/v1") == find_key("https://h/v1") == "own"
    script = Script()
    with serving(script) as url, Endpoint(url, "m") as endpoint:
        endpoint.ask(HELLO, max_tokens=9)
    assert script.headers[0]["authorization"] == "Bearer own"


def test_a_bad_answer_is_mended_by_asking_once_more():
    def first(number: int, body: Any) -> Any:
        return answer("The word is river.") if number == 0 else None

    script = Script(disturb=first)
    with serving(script) as url:
        asked = judge(url)
        assert asked.explain(EXCERPTS) == "the word river"
        asked.endpoint.close()
    assert asked.n_repaired == 1 and not asked.failures
    assert script.bodies[1]["messages"][2]["content"] == "The word is river."


def test_answers_that_stay_bad_are_counted_and_not_kept(tmp_path):
    with serving(Script(disturb=lambda n, body: answer("no"))) as url:
        asked = judge(url)
        asked.journal = Journal(tmp_path / "j.jsonl")
        assert asked.explain(EXCERPTS) is None
        asked.endpoint.close()
    assert asked.failures == {"format": 1} and len(Journal(tmp_path / "j.jsonl")) == 0
    assert not asked.spent.known and asked.spent.n_calls == 2


def test_an_answer_cut_short_counts_if_what_was_asked_for_is_whole():
    said = ['{"explanation": "rivers"} And furth', '{"explanation": "riv']
    with serving(Script(disturb=lambda n, body: answer(said[n], finish_reason="length"))) as url:
        asked = judge(url)
        assert asked.explain(EXCERPTS) == "rivers"
        assert asked.explain(EXCERPTS.replace("there", "here")) is None
        asked.endpoint.close()
    assert asked.failures == {"truncated": 1} and asked.spent.n_calls == 2


def test_an_endpoint_that_goes_away_stops_the_run():
    def dies(number: int, body: Any) -> Any:
        return None if number == 0 else (503, {}, b"gone")

    with serving(Script(disturb=dies)) as url:
        asked = judge(url, retries=0)
        assert asked.explain(EXCERPTS) == "the word river"
        for i in range(GIVE_UP - 1):
            assert asked.explain(EXCERPTS.replace("there", str(i))) is None
        with pytest.raises(EndpointError, match=r"keeps failing.*run the same command again"):
            asked.explain(EXCERPTS.replace("there", "then"))
        assert asked.explain(EXCERPTS) == "the word river"  # it was kept
        asked.endpoint.close()


def test_one_that_never_answered_stops_at_the_first():
    with serving(Script(disturb=lambda n, body: (200, {}, b"<html>"))) as url:
        asked = judge(url, retries=0)
        with pytest.raises(EndpointError, match="is not an API"):
            asked.explain(EXCERPTS)
        asked.endpoint.close()


def test_the_budget_stops_before_the_question_that_would_break_it():
    script = Script()
    with serving(script) as url:
        asked = judge(url)
        asked.budget = Budget(Prices(1000.0, 1000.0), max_cost=0.2)  # 0.11 an answer
        for text in "ab":
            assert asked.explain(EXCERPTS.replace("there", text))
        with pytest.raises(EndpointError, match=r"--max-cost is reached: got 0.22 spent"):
            asked.explain(EXCERPTS)
        asked.endpoint.close()
    assert len(script.bodies) == 2
