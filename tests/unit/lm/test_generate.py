"""Generation equals transformers' own, token for token; hooks see what they should."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from monoscope.errors import ConfigError, DataError
from monoscope.lm import HFModel, Positions
from monoscope.sites import Site

FAMILIES = [
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3_nested",
    "gpt2",
    "llama",
    "mistral",
    "neox_parallel",
    "neox_sequential",
    "qwen2",
    "qwen3",
]
PROMPTS = [[5, 9, 200, 31, 77, 8, 150], [44, 3], [90, 91, 92, 93]]
SITE = Site.parse("resid_post.1")
Tiny = Callable[..., HFModel]


def own_generate(lm: HFModel, prompts: list[list[int]], n: int, eos: list[int]) -> list[list[int]]:
    """What transformers' own greedy generation writes: one row at a time, or padded together."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[lm.pad_id] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    settings = transformers.GenerationConfig(
        max_new_tokens=n, do_sample=False, pad_token_id=lm.pad_id, eos_token_id=eos or None
    )
    out = lm.model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
    rows = []
    for row in out[:, longest:].tolist():
        end = next((i for i, token in enumerate(row) if token in eos), len(row))
        rows.append(row[:end])
    return rows


@pytest.mark.parametrize("hooks", [None, {}])
@pytest.mark.parametrize("family", FAMILIES)
def test_without_hooks_it_is_the_models_own_greedy_text(
    tiny: Tiny, family: str, hooks: dict[Site, Any] | None
) -> None:
    lm = tiny(family)
    got = lm.generate(PROMPTS, max_new_tokens=12, hooks=hooks)
    assert got == own_generate(lm, PROMPTS, 12, sorted(lm.eos_ids))
    assert len({tuple(row) for row in got}) > 1


def test_a_row_alone_and_a_row_in_a_padded_batch_write_the_same(tiny: Tiny) -> None:
    lm = tiny("gemma2")
    together = lm.generate(PROMPTS, max_new_tokens=10)
    assert together == [lm.generate([p], max_new_tokens=10)[0] for p in PROMPTS]


def test_rows_end_at_the_end_of_text(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny("llama")
    monkeypatch.setattr(lm, "eos_ids", frozenset())
    free = lm.generate(PROMPTS, max_new_tokens=12)
    assert [len(row) for row in free] == [12, 12, 12]
    eos = {free[0][3], free[2][1]} - set(free[1])  # two rows end early, the other runs on
    monkeypatch.setattr(lm, "eos_ids", frozenset(eos))
    got = lm.generate(PROMPTS, max_new_tokens=12)
    assert got == own_generate(lm, PROMPTS, 12, sorted(eos))
    assert got[1] == free[1] and len(got[0]) <= 3 and len(got[2]) <= 1
    steps = torch.stack(list(lm.stream(PROMPTS, max_new_tokens=12)))
    assert steps.shape == (12, 3)
    assert steps[len(got[0]), 0].item() in eos
    assert (steps[len(got[0]) + 1 :, 0] == lm.pad_id).all()
    assert list(lm.stream(PROMPTS[:1], max_new_tokens=12))[-1].item() in eos  # and stops there


def test_sampling_follows_its_seed_and_its_temperature(tiny: Tiny) -> None:
    lm = tiny("qwen3")
    torch.manual_seed(1)
    one = lm.generate(PROMPTS, max_new_tokens=10, temperature=3.0, seed=7)
    torch.manual_seed(2)
    torch.rand(3)
    assert lm.generate(PROMPTS, max_new_tokens=10, temperature=3.0, seed=7) == one
    assert lm.generate(PROMPTS, max_new_tokens=10, temperature=3.0, seed=8) != one
    greedy = lm.generate(PROMPTS, max_new_tokens=10)
    assert lm.generate(PROMPTS, max_new_tokens=10, temperature=1e-4, seed=7) == greedy


def test_sampled_tokens_follow_the_models_probabilities(tiny: Tiny) -> None:
    lm = tiny("gpt2")
    ids = torch.tensor([PROMPTS[0]])
    p = torch.softmax(lm.logits(ids, torch.ones_like(ids).bool())[0, -1] / 2.0, -1)
    draws = next(lm.stream([PROMPTS[0]] * 4000, max_new_tokens=1, temperature=2.0, seed=0))
    seen = torch.bincount(draws, minlength=len(p)) / 4000
    assert (seen - p).abs().max() < 0.03  # four standard errors of a share of one half


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "neox_sequential"])
@pytest.mark.parametrize("kind", ["resid_mid", "resid_post", "mlp_post"])
def test_edited_generation_is_the_edited_whole_text_token_by_token(
    tiny: Tiny, family: str, kind: str
) -> None:
    lm = tiny(family)
    site = Site.parse(f"{kind}.1")

    def edit(x: Tensor, at: Positions) -> Tensor:
        push = torch.linspace(-2, 2, x.shape[-1])
        return torch.where(at.generated[..., None], x + push, x * 0.5)  # differs by position

    got = lm.generate(PROMPTS, max_new_tokens=6, hooks={site: edit})
    assert got != lm.generate(PROMPTS, max_new_tokens=6)
    for prompt, new in zip(PROMPTS, got, strict=True):
        text = list(prompt)
        for token in new:  # no cache: the whole text so far, each time
            ids = torch.tensor([text])
            written = torch.arange(len(text))[None] >= len(prompt)
            logits = lm.logits(ids, torch.ones_like(ids).bool(), {site: edit}, generated=written)
            assert logits[0, -1].argmax().item() == token
            text.append(token)


def test_what_hooks_see_during_generation(tiny: Tiny) -> None:
    lm = tiny("llama")
    seen: list[Positions] = []

    def look(x: Tensor, at: Positions) -> Tensor:
        assert x.shape[:2] == at.token_ids.shape
        seen.append(at)
        return x

    steps = torch.stack(list(lm.stream(PROMPTS, max_new_tokens=4, hooks={SITE: look})))
    assert [tuple(at.token_ids.shape) for at in seen] == [(3, 7), (3, 1), (3, 1), (3, 1)]
    first = seen[0]
    assert not first.generated.any()
    assert first.mask.sum(1).tolist() == [7, 2, 4]
    assert first.token_ids[1, -2:].tolist() == PROMPTS[1]
    assert first.position[:, -1].tolist() == [6, 1, 3]
    for i, at in enumerate(seen[1:]):
        assert at.generated.all() and torch.equal(at.token_ids[:, 0], steps[i])
        assert at.position[:, 0].tolist() == [7 + i, 2 + i, 4 + i]


def test_hooks_see_rows_that_ended_as_masked(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny("llama")
    monkeypatch.setattr(lm, "eos_ids", frozenset())
    free = lm.generate(PROMPTS, max_new_tokens=6)
    assert free[0][0] not in free[1] + free[2]
    monkeypatch.setattr(lm, "eos_ids", frozenset({free[0][0]}))
    masks: list[list[bool]] = []

    def look(x: Tensor, at: Positions) -> Tensor:
        masks.append(at.mask[:, -1].tolist())
        return x

    lm.generate(PROMPTS, max_new_tokens=4, hooks={SITE: look})
    assert masks == [[True] * 3, *[[False, True, True]] * 3]


def test_a_stream_left_halfway_leaves_no_hook_behind(tiny: Tiny) -> None:
    lm = tiny("llama")
    ids = torch.tensor(PROMPTS[:1])
    clean = lm.logits(ids, torch.ones_like(ids).bool())
    stream = lm.stream(PROMPTS, max_new_tokens=9, hooks={SITE: lambda x, at: x * 0})
    next(stream)
    assert torch.equal(lm.logits(ids, torch.ones_like(ids).bool()), clean)


def test_a_model_without_a_key_value_cache(byte_tokenizer: Any, randomised: Any) -> None:
    config = transformers.MambaConfig(
        hidden_size=8,
        state_size=4,
        num_hidden_layers=2,
        vocab_size=300,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    lm = HFModel(randomised(config), byte_tokenizer, "tiny-mamba")
    got = lm.generate(PROMPTS[:1], max_new_tokens=5)
    text = list(PROMPTS[0])
    for token in got[0]:
        with torch.no_grad():
            assert lm.model(torch.tensor([text])).logits[0, -1].argmax().item() == token
        text.append(token)


@pytest.mark.parametrize(
    ("prompts", "settings", "error", "says"),
    [
        (PROMPTS, {"max_new_tokens": 0}, ConfigError, "max_new_tokens: got 0"),
        (PROMPTS, {"max_new_tokens": 1, "temperature": -1.0}, ConfigError, "temperature: got -1"),
        (PROMPTS, {"max_new_tokens": 58}, ConfigError, "7 prompt tokens . 58 new .* at most 64"),
        ([], {"max_new_tokens": 1}, DataError, "no prompts"),
        ([[4], []], {"max_new_tokens": 1}, DataError, "prompt 1 is empty"),
        ([[4, 300]], {"max_new_tokens": 1}, DataError, r"outside the vocabulary: got 300"),
    ],
)
def test_bad_requests_are_refused_before_anything_runs(
    tiny: Tiny, prompts: Any, settings: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        tiny("llama").stream(prompts, **settings)
