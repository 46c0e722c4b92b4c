"""Steered generation beside the default one, on the toy model."""

from __future__ import annotations

import json

import pytest
import torch

from monoscope.errors import ConfigError, MismatchError
from monoscope.steer import Ablate, Add, Scale, Set, generate
from monoscope.steer.generate import prompt_ids

PROMPT = "once upon a time"


def teacher_forced(lm, ids, edits, n_given):
    """Next-token log-probabilities with the edits done by hand, position by position, in fp64."""
    x = [lm.embed[ids].double()]
    site = {edit.site.layer: edit for edit in edits}
    for layer, (mix, out) in enumerate(lm.blocks):
        h = x[-1]
        small = torch.where((h.norm(dim=-1) < 50)[:, None], h, 0.0)
        mean = small.cumsum(0) / torch.arange(1, len(ids) + 1)[:, None]
        h = h + torch.tanh(mean @ mix.double() + small) @ out.double()
        if layer in site:
            edit = site[layer]
            move = edit.strength * edit.sae.W_dec[edit.latent].detach().double()
            here = torch.arange(len(ids)) >= (n_given if edit.where == "generated" else 1)
            h = h + here[:, None] * move
        x.append(h)
    last = torch.where((x[-1].norm(dim=-1) < 50)[:, None], x[-1], 0.0)
    return (last @ lm.unembed.double()).log_softmax(-1)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_without_edits_nothing_changes(lm, temperature):
    out = generate(lm, PROMPT, max_new_tokens=30, temperature=temperature, seed=4)
    (alone,) = lm.generate(
        [prompt_ids(lm, PROMPT)], max_new_tokens=30, temperature=temperature, seed=4
    )
    assert [t.token_id for t in out.tokens] == alone
    assert out.steered == out.default == lm.decode(alone)
    assert out.relative_norm == 0.0
    assert out.kl == 0.0
    assert all(t.logp_steered == t.logp_default for t in out.tokens)


def test_edits_that_change_nothing_have_no_effect(lm, make_sae):
    out = generate(lm, PROMPT, edits=[Scale(make_sae(), 2, 1.0)], max_new_tokens=20)
    assert out.steered == out.default
    assert (out.relative_norm, out.kl) == (0.0, 0.0)


@pytest.mark.parametrize("where", ["all", "generated"])
def test_figures_against_a_forward_pass_by_hand(lm, make_sae, where):
    edits = [
        Add(make_sae(seed=1), 3, times_norm=1.0, where=where),
        Add(make_sae("resid_post.1", seed=2), 5, times_norm=0.4, where=where),
    ]
    out = generate(lm, PROMPT, edits=edits, max_new_tokens=12)
    given = prompt_ids(lm, PROMPT)
    new = [t.token_id for t in out.tokens]
    ids = torch.tensor(given + new[:-1])
    p = teacher_forced(lm, ids, edits, len(given))[len(given) - 1 :]
    q = teacher_forced(lm, ids, [], len(given))[len(given) - 1 :]
    assert p.argmax(-1).tolist() == new  # greedy text, written under the same edits
    assert out.kl == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-4)
    assert out.kl > 0.01
    for i, token in enumerate(out.tokens):
        assert token.logp_steered == pytest.approx(float(p[i, token.token_id]), abs=1e-4)
        assert token.logp_default == pytest.approx(float(q[i, token.token_id]), abs=1e-4)


def test_relative_norm_over_the_positions_edited(lm, make_sae):
    """Add moves by a known length, so the mean of its ratio to ‖x‖ can be taken from captures."""
    sae = make_sae()
    out = generate(lm, PROMPT, edits=[Add(sae, 3, times_norm=0.5, where="given")], max_new_tokens=9)
    ids = torch.tensor([prompt_ids(lm, PROMPT)])
    x = lm.capture(ids, torch.ones_like(ids, dtype=torch.bool), Add(sae, 3, 1.0).site)
    ratios = 0.5 * 4.0 / x[0, 1:].norm(dim=-1)  # the first token, BOS, is masked
    assert out.relative_norm == pytest.approx(float(ratios.mean()), rel=1e-5)


def test_given_and_generated_differ(lm, make_sae):
    sae = make_sae()
    texts = {
        where: generate(
            lm, PROMPT, edits=[Add(sae, 3, times_norm=2.0, where=where)], max_new_tokens=20
        ).steered
        for where in ("all", "given", "generated")
    }
    assert len(set(texts.values())) == 3
    # what is edited only after it was generated cannot change the first new token
    assert texts["generated"][0] == generate(lm, PROMPT, max_new_tokens=1).default


def test_same_seed_same_text(lm, make_sae):
    edits = [Set(make_sae(), 3, times_norm=0.3)]
    options = {"edits": edits, "max_new_tokens": 40, "temperature": 1.5}
    one, same, other = (generate(lm, PROMPT, seed=s, **options) for s in (1, 1, 2))
    assert one == same
    assert one.steered != other.steered
    assert one.default != other.default


def test_json(lm, make_sae):
    out = generate(lm, PROMPT, edits=[Ablate(make_sae(), 7)], max_new_tokens=3)
    read = json.loads(json.dumps(out.to_json()))
    assert set(read) == {"default", "steered", "edits", "relative_norm", "kl"}
    assert read["edits"] == [
        {"edit": "7=ablate", "latent": 7, "op": "ablate", "where": "all", "site": "resid_post.0"}
    ]


def test_prompts_as_text_and_as_chat(lm):
    assert prompt_ids(lm, "ab") == [0, 3, 4]
    message = [{"role": "user", "content": "ab"}]
    assert prompt_ids(lm, message) == lm.chat(message)
    assert prompt_ids(lm, "ab", chat=True) == lm.chat(message)


@pytest.mark.parametrize("prompt", ["", [], [{"role": "user"}], ["hello"]])
def test_bad_prompts(lm, prompt):
    with pytest.raises(ConfigError):
        generate(lm, prompt)


def test_an_sae_of_another_model(lm, make_sae):
    sae = make_sae(model={"model": "else", "weights": "w1", "tokenizer": "letters"})
    with pytest.raises(MismatchError, match="weights differ"):
        generate(lm, PROMPT, edits=[Ablate(sae, 0)])
