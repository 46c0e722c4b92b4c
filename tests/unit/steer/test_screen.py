"""The output score against single runs, and on latents built to write or not to."""

from __future__ import annotations

import math

import pytest
import torch

from monoscope.errors import ConfigError, LatentError, MismatchError
from monoscope.steer import Add
from monoscope.steer.apply import hooks_for
from monoscope.steer.rows import check_prompts, random_moves
from monoscope.steer.screen import by_rank, output_score

PROMPTS = ("my favourite", "i think", "once")


def next_shares(lm, hooks):
    rows = []
    for prompt in check_prompts(lm, PROMPTS):
        ids = torch.tensor([prompt])
        rows.append(lm.logits(ids, torch.ones_like(ids, dtype=torch.bool), hooks)[0, -1])
    return torch.stack(rows).double().softmax(-1).mean(0)


def test_score_is_the_weighted_probability_of_the_promise(lm, make_sae):
    sae = make_sae()
    promised = {4: {7: 1.0, 9: 0.5}, 11: {20: 0.25}, 0: {3: 1.0}}
    scores = output_score(lm, sae, promised, prompts=PROMPTS, times_norm=0.9, n_random=3, seed=6)
    assert [s.latent for s in scores] == [4, 11, 0]
    plain = next_shares(lm, {})
    controls = []
    for row in random_moves(sae, 3, 0.9, seed=6):
        other = make_sae()
        with torch.no_grad():
            other.W_dec[0] = row
        controls.append(next_shares(lm, hooks_for([Add(other, 0, 1.0)])))
    for got, (latent, wanted) in zip(scores, promised.items(), strict=True):
        moved = next_shares(lm, hooks_for([Add(sae, latent, times_norm=0.9)]))

        def total(p, wanted=wanted):
            return sum(w * float(p[t]) for t, w in wanted.items())

        assert got.steered == pytest.approx(total(moved), rel=1e-4)
        assert got.default == pytest.approx(total(plain), rel=1e-4)
        assert got.random == pytest.approx(sum(map(total, controls)) / 3, rel=1e-4)
        ratio = (got.steered + 1e-4) / (max(got.default, got.random) + 1e-4)
        assert got.score == pytest.approx(math.log(ratio), abs=1e-12)
        assert got.to_json()["score"] == got.score


def test_a_latent_built_to_write_scores_and_its_reverse_does_not(lm, make_sae):
    sae = make_sae("resid_post.1")
    token = 9
    with torch.no_grad():
        sae.W_dec[5] = lm.unembed[:, token]
    wanted = {i: {token: 1.0} for i in range(17)}
    scores = {
        s.latent: s.score for s in output_score(lm, sae, wanted, prompts=PROMPTS, times_norm=2.0)
    }
    assert max(scores, key=scores.get) == 5
    assert scores[5] > 1
    (backwards,) = output_score(lm, sae, {5: {token: 1.0}}, prompts=PROMPTS, times_norm=-2.0)
    assert backwards.score < 0


def test_weights_by_rank():
    assert by_rank([8, 3, 8, 5]) == {8: 1.0, 3: 1 / math.log2(3), 5: 0.5}
    assert by_rank([]) == {}


@pytest.mark.parametrize(
    ("promised", "error", "said"),
    [
        ({}, ConfigError, "no latents"),
        ({17: {3: 1.0}}, LatentError, "0 to 16"),
        ({1: {}}, ConfigError, "promises no tokens"),
        ({1: {999: 1.0}}, ConfigError, "token 999"),
        ({1: {3: 0.0}}, ConfigError, "weight 0.0"),
        ({1: {3: 1.5}}, ConfigError, "weight 1.5"),
    ],
)
def test_bad_promises(lm, make_sae, promised, error, said):
    with pytest.raises(error, match=said):
        output_score(lm, make_sae(), promised, prompts=PROMPTS)


def test_bad_counts_and_models(lm, make_sae):
    with pytest.raises(ConfigError, match="n_random"):
        output_score(lm, make_sae(), {1: {3: 1.0}}, n_random=0)
    with pytest.raises(MismatchError):
        output_score(lm, make_sae(model={"weights": "w7"}), {1: {3: 1.0}})
