"""Drawing token by token: the same text as `stream`, from the logits it was drawn from."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from monoscope.errors import ConfigError, DataError
from monoscope.lm import HFModel, Positions
from monoscope.lm.generate import choose
from monoscope.lm.session import Spelling, draw
from monoscope.sites import Site

PROMPT = [5, 9, 200, 31, 77, 8, 150]
SITE = Site.parse("resid_post.1")
Tiny = Callable[..., HFModel]


def push(x: torch.Tensor, at: Positions) -> torch.Tensor:
    """Moves what was generated one way and the prompt another, so that no one mixes them up."""
    way = torch.where(at.generated, 1.0, -0.7) * (1 + at.position % 3)
    return x + way[..., None] * torch.linspace(-1, 1, x.shape[-1])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "gemma3_nested", "neox_parallel"])
@pytest.mark.parametrize("temperature", [0.0, 1.3])
@pytest.mark.parametrize("hooks", [None, {SITE: push}])
def test_draw_writes_what_stream_writes(tiny: Tiny, family, temperature, hooks) -> None:
    lm = tiny(family)
    given = {"max_new_tokens": 12, "temperature": temperature, "seed": 3, "hooks": hooks}
    steps = [int(step[0]) for step in lm.stream([PROMPT], **given)]
    drawn = list(draw(lm, PROMPT, **given))
    assert [d.token_id for d in drawn] == steps
    if temperature == 0:
        assert [int(d.logits.argmax()) for d in drawn] == steps


def test_the_logits_are_those_of_one_pass_over_the_whole_text(tiny: Tiny) -> None:
    lm = tiny("llama")
    drawn = list(draw(lm, PROMPT, max_new_tokens=9, hooks={SITE: push}))
    ids = torch.tensor([PROMPT + [d.token_id for d in drawn[:-1]]])
    generated = torch.arange(ids.shape[1])[None] >= len(PROMPT)
    whole = lm.logits(ids, torch.ones_like(ids).bool(), {SITE: push}, generated=generated)
    got = torch.stack([d.logits for d in drawn])
    torch.testing.assert_close(got, whole[0, len(PROMPT) - 1 :], atol=2e-4, rtol=1e-4)


def test_a_text_may_be_fed_in_pieces(tiny: Tiny) -> None:
    lm = tiny("llama")
    whole, pieces = lm.session(), lm.session()
    pieces.feed(PROMPT[:3])
    torch.testing.assert_close(whole.feed(PROMPT), pieces.feed(PROMPT[3:]), atol=2e-5, rtol=1e-4)


def test_an_end_of_text_ends_it(tiny: Tiny) -> None:
    lm = tiny("llama")
    eos = min(lm.eos_ids)

    def end(x: torch.Tensor, at: Positions) -> torch.Tensor:
        head = lm.model.get_output_embeddings().weight[eos].float()
        return torch.where((at.position >= 9)[..., None], 1e4 * head, x)

    last = Site.parse(f"resid_post.{lm.n_layers - 1}")
    drawn = [d.token_id for d in draw(lm, PROMPT, max_new_tokens=20, hooks={last: end})]
    assert drawn.index(eos) == len(drawn) - 1 < 19


@pytest.mark.parametrize(
    ("prompt", "settings", "error"),
    [
        ([], {}, DataError),
        ([10**6], {}, DataError),
        (PROMPT, {"max_new_tokens": 10**9}, ConfigError),
        (PROMPT, {"max_new_tokens": 0}, ConfigError),
        (PROMPT, {"temperature": float("nan")}, ConfigError),
        (PROMPT, {"top_p": 0.0}, ConfigError),
        (PROMPT, {"top_p": 1.5}, ConfigError),
    ],
)
def test_what_cannot_be_drawn_is_said_before_the_first_token(tiny, prompt, settings, error):
    with pytest.raises(error):
        draw(tiny("llama"), prompt, **{"max_new_tokens": 3} | settings)


def test_a_session_ends_with_the_context(tiny: Tiny) -> None:
    lm = tiny("llama")
    reader = lm.session()
    reader.feed([5] * lm.context_length)
    with pytest.raises(ConfigError, match="at most 64"):
        reader.feed([5])
    with pytest.raises(ConfigError, match="at least one"):
        lm.session().feed([])


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
def test_top_p_draws_from_the_smallest_set_that_reaches_it(top_p: float) -> None:
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(1)) * 2
    shares = (logits[0].double() / 0.8).softmax(0).tolist()
    kept, total = set(), 0.0
    for token in sorted(range(12), key=lambda i: -shares[i]):
        kept.add(token)
        total += shares[token]
        if total >= top_p:
            break
    rng = torch.Generator().manual_seed(5)
    many = choose(logits.expand(20_000, -1), 0.8, rng, top_p)
    counts = torch.bincount(many, minlength=12) / len(many)
    assert {i for i in range(12) if counts[i] > 0} <= kept
    for token in kept:
        assert counts[token].item() == pytest.approx(shares[token] / total, abs=0.015)


def test_spelling_never_cuts_a_character(tiny: Tiny) -> None:
    lm = tiny("llama")
    text = "naïve 日本 👩‍🔬 the cat\n"
    ids = lm.encode([text])[0].ids
    spelling = Spelling(lm.decode)
    pieces = [spelling.push(i) for i in ids]
    assert "".join(pieces) + spelling.rest() == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert "日" in pieces
    assert spelling.rest() == ""


def test_spelling_gives_up_an_unfinished_character_at_the_end(tiny: Tiny) -> None:
    lm = tiny("llama")
    ids = lm.encode(["a日"])[0].ids[:-1]
    spelling = Spelling(lm.decode)
    pieces = [spelling.push(i) for i in ids]
    assert "".join(pieces) == "a"
    assert "".join(pieces) + spelling.rest() == lm.decode(ids)
