"""The strength search and the choice of writers: figures by hand, and latents built to write."""

from __future__ import annotations

import json
import math

import pytest
import torch

from monoscope.errors import ConfigError, LatentError, MismatchError
from monoscope.ops.codes import SparseCodes
from monoscope.steer import Add, find_writers, search_strength
from monoscope.steer.apply import hooks_for
from monoscope.steer.rows import Written, check_prompts, read
from monoscope.steer.strength import Judge, search_strengths

PROMPTS = ("my favourite", "i think", "once")
TOKEN = 9


@pytest.fixture
def writer_sae(make_sae):
    """An SAE whose latent 5 both writes and reads the letter of TOKEN; the others are random."""

    def make(lm):
        sae = make_sae("resid_post.1", k=1)
        reads = lm.embed[TOKEN]
        with torch.no_grad():
            sae.W_dec[5] = lm.unembed[:, TOKEN]
            sae.W_enc[5] = 5 * reads
            sae.b_enc[5] = 5 * (sae.b_dec - 0.6 * reads) @ reads
        return sae

    return make


def written(rows, active, ce=2.0, distinct2=0.9):
    """A Written by hand: active lists the values of latent 3 on each token."""
    dense = torch.zeros(len(active), 6)
    dense[:, 3] = torch.tensor(active)
    return Written(tuple(map(tuple, rows)), SparseCodes.from_dense(dense), ce, distinct2)


def test_figures_of_a_trial_by_hand(lm):
    plain = written([[5, 6], [7, 8, 9]], [0, 1.0, 0, 0, 0], ce=1.5, distinct2=0.8)
    text = written([[5, 5, 10], [10, 7]], [2.0, 0, 0.5, 0, 0], ce=3.0, distinct2=0.6)
    judge = Judge(lm, 3, {5: 0.5, 10: 0.25}, plain)
    trial = judge.trial(text, 0.4)
    assert trial.promised == pytest.approx((0.5 + 0.5 + 0.25 + 0.25) / 5)
    assert trial.reread == pytest.approx(2 / 5)
    # prompt by prompt: 1.25 / 3 where it was 0.5 / 2, then 0.25 / 2 where it was 0
    kept = ((1.25 / 3 - 0.25) / 0.2 + (0.25 / 2) / 0.2) / 2
    fired = (min(1, (2 / 3 - 1 / 2) / 0.2) + 0) / 2
    effect = math.sqrt(kept * fired)
    assert trial.effect == pytest.approx(effect)
    assert trial.fluency == pytest.approx((0.6 / 0.8) ** 2 * math.exp(-(3.0 - 1.5 - 1)))
    assert trial.score == pytest.approx(trial.effect * trial.fluency)
    assert trial.texts == (lm.decode([5, 5, 10]), lm.decode([10, 7]))
    unsteered = judge.trial(plain, 0.0)
    assert (unsteered.effect, unsteered.fluency, unsteered.score) == (0.0, 1.0, 0.0)


def test_neither_count_alone_is_an_effect(lm):
    plain = written([[6] * 5], [0.0] * 5)
    judge = Judge(lm, 3, {5: 1.0}, plain)
    assert judge.trial(written([[5] * 5], [0.0] * 5), 1.0).score == 0.0  # promised, not reread
    assert judge.trial(written([[6] * 5], [1.0] * 5), 1.0).score == 0.0  # reread, not promised
    assert judge.trial(written([[5] * 5], [1.0] * 5), 1.0).score == 1.0
    assert judge.trial(written([[]], []), 1.0).score == 0.0


def test_a_broad_promise_is_kept_by_text_of_its_tokens(lm):
    plain = written([[0] * 6], [0.0] * 6)
    broad = {token: 1.0 for token in range(1, 13)}
    text = written([[1, 2, 3, 0, 0, 0]], [0.0] * 6)
    assert Judge(lm, 3, broad, plain).trial(text, 1.0).effect == 1.0
    del broad[12]
    assert Judge(lm, 3, broad, plain).trial(text, 1.0).effect == 0.0


def test_spam_after_one_prompt_is_no_effect_on_the_others(lm):
    plain = written([[6] * 5] * 4, [0.0] * 20)
    judge = Judge(lm, 3, {5: 1.0}, plain)
    text = written([[5] * 5, [6] * 5, [6] * 5, [6] * 5], [1.0] * 5 + [0.0] * 15)
    assert judge.trial(text, 1.0).effect == pytest.approx(1 / 4)


def test_better_text_than_the_default_gets_no_bonus(lm):
    judge = Judge(lm, 3, {5: 1.0}, written([[6] * 5], [0.0] * 5, ce=2.0, distinct2=0.5))
    assert judge.trial(written([[5] * 5], [1.0] * 5, ce=0.1, distinct2=1.0), 1.0).fluency == 1.0


def test_search_judges_the_texts_of_single_runs(lm, make_sae):
    sae = make_sae("resid_post.1")
    wanted = {7: 1.0, 12: 0.5}
    found = search_strength(
        lm, sae, 4, wanted, prompts=PROMPTS, strengths=(1.2, 0.3), max_new_tokens=8
    )
    prompts = check_prompts(lm, PROMPTS)

    def alone(times_norm):
        hooks = hooks_for([Add(sae, 4, times_norm=times_norm)]) if times_norm else {}
        new = [lm.generate([p], max_new_tokens=8, hooks=hooks)[0] for p in prompts]
        return read(lm, sae, prompts, new)

    judge = Judge(lm, 4, wanted, alone(0.0))
    assert [t.times_norm for t in found.trials] == [0.3, 1.2]
    for trial in (found.default, *found.trials, found.reversed):
        by_hand = judge.trial(alone(trial.times_norm), trial.times_norm)
        assert trial.texts == by_hand.texts
        assert trial.score == pytest.approx(by_hand.score, abs=1e-5)
        assert trial.ce == pytest.approx(by_hand.ce, rel=1e-4)
    assert found.best in found.trials
    assert found.best.score == max(t.score for t in found.trials)
    assert found.reversed.times_norm == -found.best.times_norm
    assert found.random.times_norm == found.best.times_norm
    assert found.score == found.best.score - max(found.random.score, found.reversed.score)


def test_several_latents_together_are_the_same_as_one_by_one(lm, make_sae):
    sae = make_sae()
    promised = {4: {7: 1.0}, 9: {8: 1.0}}
    options = {"prompts": PROMPTS, "strengths": (0.5, 1.0), "max_new_tokens": 6}
    together = search_strengths(lm, sae, promised, **options)
    for latent, found in zip(promised, together, strict=True):
        one = search_strength(lm, sae, latent, promised[latent], **options)
        assert one.latent == found.latent == latent
        assert one.score == pytest.approx(found.score, abs=1e-6)
        assert [t.texts for t in one.trials] == [t.texts for t in found.trials]


def test_a_latent_built_to_write_wins_and_its_controls_do_not(lm, writer_sae):
    sae = writer_sae(lm)
    candidates = {i: {TOKEN: 1.0} for i in range(17)}
    options = {"prompts": PROMPTS, "strengths": (0.3, 1.0, 2.0), "max_new_tokens": 10}
    ranked = find_writers(lm, sae, candidates, n_finalists=4, screen_at=2.0, **options)
    assert len(ranked) == 4
    assert ranked[0].latent == 5
    assert ranked[0].search.best.promised > 0.5
    assert ranked[0].search.best.reread > 0.5
    assert ranked[0].search.best.effect >= 2 / 3  # after two prompts of three at least
    assert ranked[0].search.random.effect < 0.5
    assert ranked[0].search.reversed.effect == 0.0
    assert ranked[0].score >= ranked[1].score
    screened = [w.output.score for w in ranked]
    assert ranked[0].output.score == max(screened)
    assert [w.score for w in ranked] == sorted((w.score for w in ranked), reverse=True)
    json.loads(json.dumps([w.to_json() for w in ranked]))


def test_same_seed_same_search(lm, make_sae):
    options = {
        "prompts": PROMPTS,
        "strengths": (0.5,),
        "max_new_tokens": 8,
        "temperature": 1.0,
    }
    sae = make_sae()
    one, same, other = (search_strength(lm, sae, 2, {7: 1.0}, seed=s, **options) for s in (3, 3, 4))
    assert one == same
    assert one.default.texts != other.default.texts


@pytest.mark.parametrize("strengths", [(), (0.0, 0.5), (-0.2,), (float("nan"),)])
def test_bad_strengths(lm, make_sae, strengths):
    with pytest.raises(ConfigError, match="above 0"):
        search_strength(lm, make_sae(), 1, {3: 1.0}, strengths=strengths)


def test_bad_latents_models_and_counts(lm, make_sae):
    with pytest.raises(LatentError):
        search_strength(lm, make_sae(), 99, {3: 1.0})
    with pytest.raises(MismatchError):
        search_strength(lm, make_sae(model={"weights": "w7"}), 1, {3: 1.0})
    with pytest.raises(ConfigError, match="n_finalists"):
        find_writers(lm, make_sae(), {1: {3: 1.0}}, n_finalists=0)
