"""The official `openai` package, unmodified, against the real server and the real SmolLM2."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
import torch

import monoscope as ms
from monoscope.lm.session import draw
from monoscope.steer.apply import hooks_for

pytestmark = pytest.mark.slow
USER = [{"role": "user", "content": "Say something about a river."}]


@pytest.fixture(scope="module")
def client(live: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live}/v1", api_key="none", max_retries=0, timeout=120) as made:
        yield made


@pytest.fixture(scope="module")
def lm() -> Any:
    return ms.load_lm("demo")


@pytest.fixture(scope="module")
def sae(bench) -> Any:
    return ms.load_sae(bench / "sae")


@pytest.fixture(scope="module")
def latent(sae) -> int:
    """A latent that fires."""
    return int(torch.tensor(sae.provenance["latent_max"]).argmax())


def own_text(lm, ids, n, edits=(), **settings) -> str:
    """What the model writes when asked in Python."""
    drawn = draw(lm, ids, max_new_tokens=n, hooks=hooks_for(edits), **settings)
    return lm.decode([d.token_id for d in drawn if d.token_id not in lm.eos_ids])


def test_models(client):
    assert [m.id for m in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").id == "demo"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_a_completion_is_the_models_own_text(client, lm):
    said = client.completions.create(model="demo", prompt="I think", max_tokens=12, temperature=0)
    ids = lm.encode(["I think"])[0].ids
    assert said.choices[0].text == own_text(lm, [*lm.prefix_ids, *ids], 12)
    assert said.choices[0].finish_reason == "length"
    assert said.usage.prompt_tokens == len(ids)
    assert (said.usage.completion_tokens, said.usage.total_tokens) == (12, 12 + len(ids))
    by_ids = client.completions.create(model="demo", prompt=ids, max_tokens=12, temperature=0)
    assert by_ids.choices[0].text == said.choices[0].text


def test_chat_uses_the_models_template_once(client, lm):
    said = client.chat.completions.create(
        model="demo", messages=USER, max_completion_tokens=10, temperature=0
    )
    ids = lm.tokens.hf.apply_chat_template(USER, add_generation_prompt=True, return_dict=False)
    assert said.choices[0].message.content == own_text(lm, ids, 10)
    assert said.usage.prompt_tokens == len(ids)
    parts = [{"role": "user", "content": [{"type": "text", "text": USER[0]["content"]}]}]
    again = client.chat.completions.create(
        model="demo", messages=parts, max_tokens=10, temperature=0
    )
    assert again.choices[0].message.content == said.choices[0].message.content


def test_edits_steer_and_are_those_of_python(client, lm, sae, latent):
    edits = [{"latent": latent, "op": "add", "value": 1.2, "unit": "norm", "where": "generated"}]
    asked = {"model": "demo", "prompt": "I think", "max_tokens": 14, "temperature": 0}
    plain = client.completions.create(**asked)
    steered = client.completions.create(**asked, extra_body={"edits": edits})
    ids = [*lm.prefix_ids, *lm.encode(["I think"])[0].ids]
    expected = own_text(lm, ids, 14, [ms.Add(sae, latent, times_norm=1.2, where="generated")])
    assert steered.choices[0].text == expected != plain.choices[0].text
    assert steered.monoscope["edits"] == [f"{latent}=add:1.2norm@generated"]
    assert steered.monoscope["relative_norm"] > 0.3
    no_op = [{"latent": latent, "op": "scale", "value": 1}]
    stream = list(client.completions.create(**asked, stream=True, extra_body={"edits": edits}))
    assert [hasattr(chunk, "monoscope") for chunk in stream] == [False] * (len(stream) - 1) + [True]
    assert stream[-1].monoscope == steered.monoscope
    assert stream[-1].choices[0].finish_reason == steered.choices[0].finish_reason
    same = client.completions.create(**asked, extra_body={"edits": no_op})
    assert same.choices[0].text == plain.choices[0].text


def test_streams_join_to_the_whole_and_tell_usage(client):
    asked = {"model": "demo", "messages": USER, "max_tokens": 12, "temperature": 0.8, "seed": 7}
    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].choices == [] and chunks[-2].monoscope == whole.monoscope
    assert chunks[-1].usage == whole.usage
    assert len({c.id for c in chunks}) == 1
    other = client.chat.completions.create(**(asked | {"seed": 8}))
    assert other.choices[0].message.content != text


def test_a_stream_is_server_sent_events_that_end_in_done(live):
    body = {"model": "demo", "prompt": "I think", "max_tokens": 3, "stream": True}
    answer = httpx.post(f"{live}/v1/completions", json=body, timeout=60)
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in answer.text.split("\n\n") if line]
    assert all(line.startswith("data: {") for line in lines[:-1])
    assert lines[-1] == "data: [DONE]"


def test_logprobs_are_those_of_a_whole_forward_pass(client, lm):
    said = client.completions.create(
        model="demo", prompt="The capital of France is", max_tokens=5, temperature=0, logprobs=3
    ).choices[0]
    ids = [*lm.prefix_ids, *lm.encode(["The capital of France is"])[0].ids]
    new = lm.encode([said.text])[0].ids
    row = torch.tensor([ids + new])
    log_p = lm.logits(row, torch.ones_like(row).bool())[0].double().log_softmax(-1)
    own = [float(log_p[len(ids) - 1 + i, t]) for i, t in enumerate(new)]
    assert said.logprobs.token_logprobs == pytest.approx(own, abs=0.15)  # bfloat16
    assert "".join(said.logprobs.tokens) == said.text
    assert said.logprobs.text_offset == [
        0, *itertools.accumulate(map(len, said.logprobs.tokens[:-1]))
    ]  # fmt: skip
    assert all(len(top) == 3 for top in said.logprobs.top_logprobs)


def test_chat_logprobs(client):
    said = client.chat.completions.create(
        model="demo", messages=USER, max_tokens=4, temperature=0, logprobs=True, top_logprobs=2
    ).choices[0]
    content = said.logprobs.content
    assert "".join(bytes(t.bytes).decode() for t in content) == said.message.content
    for token in content:
        assert len(token.top_logprobs) == 2
        assert token.logprob == max(t.logprob for t in token.top_logprobs)  # greedy
        assert math.exp(token.logprob) <= 1


@pytest.mark.parametrize("stream", [False, True])
def test_stop_texts_end_the_answer_and_are_not_in_it(client, lm, stream):
    ids = [*lm.prefix_ids, *lm.encode(["I think"])[0].ids]
    text = own_text(lm, ids, 16)
    middle = len(text) // 2
    stop = text[middle : middle + 5]  # begins and ends within tokens
    said = client.completions.create(
        model="demo", prompt="I think", max_tokens=16, temperature=0, stop=[stop, "never"],
        stream=stream,
    )  # fmt: skip
    pieces = [c.choices[0] for c in (said if stream else [said])]
    assert "".join(p.text for p in pieces) == text[: text.index(stop)]
    assert pieces[-1].finish_reason == "stop"


def test_the_models_own_end_is_a_stop(client):
    said = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "Answer with one word: yes or no?"}],
        max_tokens=60, temperature=0,
    )  # fmt: skip
    assert said.choices[0].finish_reason == "stop"
    assert "<|im_end|>" not in said.choices[0].message.content


REFUSED = {
    "n": ({"n": 2}, "n is not supported"),
    "best_of": ({"best_of": 3}, "best_of is not supported"),
    "echo": ({"echo": True}, "echo is not supported"),
    "suffix": ({"suffix": "x"}, "suffix is not supported"),
    "penalty": ({"presence_penalty": 0.5}, "presence_penalty is not supported"),
    "bias": ({"logit_bias": {"5": 1}}, "logit_bias is not supported"),
    "unknown": ({"extra_body": {"temprature": 0}}, "temprature is not supported"),
    "two prompts": ({"prompt": ["a", "b"]}, "one prompt"),
    "empty prompt": ({"prompt": ""}, "empty"),
    "no ids": ({"prompt": []}, "one prompt"),
    "foreign ids": ({"prompt": [10**7]}, "vocabulary"),
    "long": ({"max_tokens": 100_000}, "context"),
    "absurd": ({"max_tokens": 10**30}, "max_tokens"),
    "none": ({"max_tokens": 0}, "max_tokens"),
    "negative": ({"max_tokens": -1}, "max_tokens"),
    "hot": ({"temperature": 3}, "temperature"),
    "top_p": ({"top_p": 0}, "top_p"),
    "seed": ({"seed": 2**70}, "seed"),
    "stops": ({"stop": list("abcde")}, "stop"),
    "empty stop": ({"stop": [""]}, "stop text is empty"),
    "stream_options": ({"stream_options": {"include_usage": True}}, "stream_options"),
    "latent": ({"extra_body": {"edits": [{"latent": 10**6, "op": "ablate"}]}}, "no such latent"),
    "when": (
        {"extra_body": {"edits": [{"latent": 1, "op": "ablate", "where": "when:999999"}]}},
        "no such latent",
    ),
    "op": ({"extra_body": {"edits": [{"latent": 1, "op": "boost", "value": 1}]}}, "edits.0.op"),
    "unit": (
        {"extra_body": {"edits": [{"latent": 1, "op": "add", "value": 1, "unit": "x"}]}},
        "edits.0.unit",
    ),
    "where": (
        {"extra_body": {"edits": [{"latent": 1, "op": "add", "value": 1, "where": "last"}]}},
        "unknown positions",
    ),
    "no value": ({"extra_body": {"edits": [{"latent": 1, "op": "add"}]}}, "add needs a value"),
    "value": (
        {"extra_body": {"edits": [{"latent": 1, "op": "ablate", "value": 1}]}}, "takes no value",
    ),
    "too much": (
        {"extra_body": {"edits": [{"latent": 1, "op": "add", "value": 1e30}]}},
        "edits.0.value: Input should be less than or equal to 1000000",
    ),
    "too little": (
        {"extra_body": {"edits": [{"latent": 1, "op": "scale", "value": -2e6}]}}, "edits.0.value",
    ),
    "edit field": (
        {"extra_body": {"edits": [{"latent": 1, "op": "ablate", "layer": 3}]}}, "edits.0.layer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_supported_is_refused_by_name(client, case):
    given, said = REFUSED[case]
    asked = {"model": "demo", "prompt": "I think", "max_tokens": 2} | given
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**asked)
    error = caught.value.body
    assert said in error["message"]
    assert error["type"] == "invalid_request_error"
    assert set(error) == {"message", "type", "param", "code"}


CHATS = {
    "tools": ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    "json": ({"response_format": {"type": "json_object"}}, "response_format"),
    "picture": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
        "messages.0.content",
    ),
    "role": ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages.0"),
    "nobody": ({"messages": []}, "messages"),
    "top_logprobs": ({"top_logprobs": 2}, "needs logprobs"),
    "long": ({"messages": [{"role": "user", "content": "a " * 9000}]}, "context"),
}  # fmt: skip


@pytest.mark.parametrize("case", CHATS)
def test_chats_that_cannot_be_answered_are_refused(client, case):
    given, said = CHATS[case]
    asked = {"model": "demo", "messages": USER, "max_tokens": 2} | given
    with pytest.raises(openai.BadRequestError, match=said):
        client.chat.completions.create(**asked)


def test_another_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="gpt-4", prompt="x")
    assert caught.value.code == "model_not_found"


def test_a_context_overflow_has_openais_code(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="demo", prompt="x", max_tokens=100_000)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["temperature", "top_p", "edits"])
def test_numbers_that_are_none_are_refused(live, field, value):
    inner = f'[{{"latent": 1, "op": "add", "value": {value}}}]' if field == "edits" else value
    body = f'{{"model": "demo", "prompt": "x", "max_tokens": 2, "{field}": {inner}}}'
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{live}/v1/completions", content=body, headers=headers, timeout=60)
    assert answer.status_code == 400
    assert field in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"{}", b"\xff"])
def test_bodies_that_are_no_request_are_refused_in_openais_shape(live, body):
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{live}/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_settings_that_ask_for_nothing_are_taken(client):
    said = client.completions.create(
        model="demo", prompt="I think", max_tokens=2, temperature=0, n=1, best_of=1, user="me",
        presence_penalty=0, frequency_penalty=0.0, logit_bias={}, suffix="", echo=False,
    )  # fmt: skip
    assert said.usage.completion_tokens == 2


def test_leaving_stops_the_writing_and_others_go_on(client, live):
    """A stream that is left after one chunk must free the one worker long before its end."""
    stream = client.completions.create(
        model="demo", prompt="I think", max_tokens=4000, temperature=1, stream=True
    )
    next(iter(stream))
    assert httpx.get(f"{live}/api/v1/status").json()["model"]["busy"]
    stream.close()
    short = client.completions.create(model="demo", prompt="I", max_tokens=2, timeout=30)
    assert short.usage.completion_tokens == 2


def test_several_clients_at_once_are_all_answered(client):
    texts: list[str] = []

    def one() -> None:
        said = client.completions.create(model="demo", prompt="I", max_tokens=3, temperature=0)
        texts.append(said.choices[0].text)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(texts) == 4
    assert len(set(texts)) == 1
