"""Batches of moves against one run a move; texts and their figures against hand counts."""

from __future__ import annotations

import pytest
import torch

from monoscope.errors import ConfigError
from monoscope.steer import Add, generate
from monoscope.steer.apply import hooks_for
from monoscope.steer.rows import (
    check_prompts,
    latent_moves,
    next_token_shares,
    random_moves,
    read,
    write,
)
from monoscope.steer.units import median_norm

PROMPTS = ("my favourite", "i think.", "a")
LATENTS = [3, 0, 16, 5, 7, 8, 9, 10, 11, 12, 13, 1, 2]  # more rows than one tile holds


def test_moves_have_the_length_asked(make_sae):
    sae = make_sae()
    moves = latent_moves(sae, [2, 9], 0.75)
    torch.testing.assert_close(moves.norm(dim=1), torch.full((2,), 3.0))
    cosine = torch.nn.functional.cosine_similarity(moves, sae.W_dec[[2, 9]].detach())
    torch.testing.assert_close(cosine, torch.ones(2))
    controls = random_moves(sae, 5, 0.75, seed=1)
    torch.testing.assert_close(controls.norm(dim=1), torch.full((5,), 3.0))
    assert torch.equal(controls, random_moves(sae, 5, 0.75, seed=1))
    assert not torch.equal(controls, random_moves(sae, 5, 0.75, seed=2))
    torch.testing.assert_close(latent_moves(sae, [2], -0.75), -moves[:1])


def test_shares_of_a_batch_are_those_of_single_runs(lm, make_sae):
    sae = make_sae()
    prompts = check_prompts(lm, PROMPTS)
    shares = list(next_token_shares(lm, sae, latent_moves(sae, LATENTS, 0.8), prompts))
    assert len(shares) == len(LATENTS)
    for latent, got in zip(LATENTS, shares, strict=True):
        hooks = hooks_for([Add(sae, latent, times_norm=0.8)])
        singles = []
        for prompt in prompts:
            ids = torch.tensor([prompt])
            logits = lm.logits(ids, torch.ones_like(ids, dtype=torch.bool), hooks)
            singles.append(logits[0, -1].double().softmax(-1))
        torch.testing.assert_close(got.double(), torch.stack(singles).mean(0), atol=1e-5, rtol=1e-4)


def test_texts_of_a_batch_are_those_of_single_runs(lm, make_sae):
    sae = make_sae("resid_post.1")
    prompts = check_prompts(lm, PROMPTS)
    latents = LATENTS * 2
    written = list(write(lm, sae, latent_moves(sae, latents, 0.6), prompts, max_new_tokens=7))
    assert len(written) == len(latents)
    for latent, got in zip(latents, written, strict=True):
        hooks = hooks_for([Add(sae, latent, times_norm=0.6)])
        alone = [lm.generate([p], max_new_tokens=7, hooks=hooks)[0] for p in prompts]
        assert [list(row) for row in got.ids] == alone
    assert len({w.ids for w in written}) > 3


def test_reading_is_by_the_unedited_model(lm, make_sae):
    """CE, codes and repeats of given continuations, of different lengths, one of them empty."""
    sae = make_sae()
    prompts = check_prompts(lm, PROMPTS)
    new = [[5, 6, 5, 6, 5], [], [9, 10, 11]]
    got = read(lm, sae, prompts, new)
    ce, codes = [], []
    for prompt, row in zip(prompts, new, strict=True):
        ids = torch.tensor([prompt + row])
        mask = torch.ones_like(ids, dtype=torch.bool)
        log_p = lm.logits(ids, mask)[0].double().log_softmax(-1)
        ce += [-float(log_p[len(prompt) - 1 + i, token]) for i, token in enumerate(row)]
        x = lm.capture(ids, mask, Add(sae, 0, 1.0).site)[0, len(prompt) :]
        codes.append(sae.encode(x).to_dense())
    assert got.tokens.tolist() == [5, 6, 5, 6, 5, 9, 10, 11]
    assert got.ce == pytest.approx(sum(ce) / 8, rel=1e-5)
    torch.testing.assert_close(got.codes.to_dense(), torch.cat(codes), atol=1e-5, rtol=1e-5)
    assert got.distinct2 == pytest.approx((2 + 2) / (4 + 2))  # 56 65 repeat; 9-10 10-11 do not


def single(lm, prompt, row, hooks=None):
    """log p [T,V] of the distributions a continuation was drawn from, alone and in fp64."""
    ids = torch.tensor([prompt + row[:-1]])
    logits = lm.logits(ids, torch.ones_like(ids, dtype=torch.bool), hooks or {})[0]
    return logits[len(prompt) - 1 :].double().log_softmax(-1)


def test_what_a_text_cost_is_what_single_texts_cost(lm, make_sae):
    """‖Δ‖/‖x‖ from the activations themselves, the sink left out; KL from both models' logits."""
    sae = make_sae("resid_post.1")
    prompts = check_prompts(lm, PROMPTS)
    size = 0.6
    for got, latent in zip(
        write(lm, sae, latent_moves(sae, LATENTS, size), prompts, max_new_tokens=7),
        LATENTS, strict=True,
    ):  # fmt: skip
        edit = Add(sae, latent, times_norm=size)
        ratios, kls = [], []
        for prompt, row in zip(prompts, map(list, got.ids), strict=True):
            ids = torch.tensor([prompt + row[:-1]])
            x = lm.capture(ids, torch.ones_like(ids, dtype=torch.bool), edit.site)[0, 1:]
            ratios += (size * median_norm(sae) / x.double().norm(dim=-1)).tolist()
            p, q = single(lm, prompt, row, hooks_for([edit])), single(lm, prompt, row)
            kls += (p.exp() * (p - q)).sum(-1).tolist()
        assert got.relative_norm == pytest.approx(sum(ratios) / len(ratios), rel=1e-5)
        assert got.kl == pytest.approx(sum(kls) / len(kls), rel=1e-3, abs=1e-6)
        assert got.kl > 0.001


def test_one_text_costs_what_generate_says(lm, make_sae):
    sae = make_sae("resid_post.1")
    said = generate(lm, "i think", edits=[Add(sae, 4, times_norm=0.5)], max_new_tokens=6)
    (got,) = write(
        lm, sae, latent_moves(sae, [4], 0.5), check_prompts(lm, ["i think"]), max_new_tokens=6
    )
    assert lm.decode(got.ids[0]) == said.steered
    assert got.relative_norm == pytest.approx(said.relative_norm, rel=1e-5)
    assert got.kl == pytest.approx(said.kl, rel=1e-3, abs=1e-6)


def test_nothing_written(lm, make_sae):
    sae = make_sae()
    move = latent_moves(sae, [1], 0.5)[0]
    got = read(lm, sae, check_prompts(lm, PROMPTS), [[], [], []], move=move)
    assert (got.ce, got.distinct2, got.codes.n_tokens, got.tokens.numel()) == (0.0, 0.0, 0, 0)
    assert got.kl == 0.0 and got.relative_norm > 0  # the prompts were moved all the same


@pytest.mark.parametrize("prompts", [[], ["fine", ""]])
def test_prompts_are_needed(lm, prompts):
    with pytest.raises(ConfigError, match="at least one"):
        check_prompts(lm, prompts)
