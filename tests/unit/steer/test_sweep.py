"""The sweep tells, trial by trial, what the search over strengths would have found."""

from __future__ import annotations

import pytest
import torch

from monoscope.errors import ConfigError, LatentError
from monoscope.steer import search_strength
from monoscope.steer.rows import check_prompts
from monoscope.steer.sweep import Point, Progress, SweetSpot, sweep

PROMPTS = ("my favourite", "i think", "once")
TOKEN = 9
STRENGTHS = (0.2, 0.6, 1.5)


@pytest.fixture
def sae(lm, make_sae):
    """An SAE whose latent 5 both writes and reads the letter of TOKEN; the others are random."""
    sae = make_sae("resid_post.1", k=1)
    reads = lm.embed[TOKEN]
    with torch.no_grad():
        sae.W_dec[5] = lm.unembed[:, TOKEN]
        sae.W_enc[5] = 5 * reads
        sae.b_enc[5] = 5 * (sae.b_dec - 0.6 * reads) @ reads
    return sae


def run(lm, sae, **given):
    settings = {"prompts": check_prompts(lm, PROMPTS), "strengths": STRENGTHS, "max_new_tokens": 10}
    return list(sweep(lm, sae, 5, {TOKEN: 1.0}, **settings | given))


def test_trials_are_those_of_the_search(lm, sae):
    found = search_strength(
        lm, sae, 5, {TOKEN: 1.0}, prompts=PROMPTS, strengths=STRENGTHS, max_new_tokens=10
    )
    told = run(lm, sae)
    points = [event for event in told if isinstance(event, Point)]
    assert [p.trial for p in points if p.kind == "default"] == [found.default]
    assert [p.trial for p in points if p.kind == "steered"] == list(found.trials)
    best = found.best.times_norm
    assert next(
        p.trial for p in points if p.kind == "reversed" and p.trial.times_norm == -best
    ) == (found.reversed)
    assert next(p.trial for p in points if p.kind == "random" and p.trial.times_norm == best) == (
        found.random
    )
    spot = told[-1]
    assert isinstance(spot, SweetSpot)
    assert spot.best == found.best
    assert spot.best.score - spot.control == pytest.approx(found.score)
    assert spot.found == (found.score > 0)
    assert spot.found
    assert spot.prompt is None


def test_each_trial_is_told_as_soon_as_it_is_written(lm, sae):
    kinds = [e.kind if isinstance(e, Point) else None for e in run(lm, sae)]
    told = [(i, kind) for i, kind in enumerate(kinds) if kind]
    assert [kind for _, kind in told] == ["default", *["steered", "random", "reversed"] * 3]
    assert 1 <= told[0][0] <= 10  # as many tokens before it as the longest answer has
    assert told[4][0] - told[1][0] > 3


def test_progress_rises_to_its_total(lm, sae):
    progress = [e for e in run(lm, sae) if isinstance(e, Progress)]
    done = [p.done for p in progress]
    assert done == sorted(done)
    assert {p.total for p in progress} == {40}
    assert done[-1] <= 40


def test_the_prompt_control_is_judged_as_an_answer_to_the_plain_prompt(lm, sae):
    asked = check_prompts(lm, [f"{lm.decode([TOKEN]) * 9} {p}" for p in PROMPTS])
    told = run(lm, sae, asked=asked)
    trial = next(e.trial for e in told if isinstance(e, Point) and e.kind == "prompt")
    answers = lm.generate(asked, max_new_tokens=10)
    assert trial.texts == tuple(lm.decode(a) for a in answers)
    ce = []
    for prompt, answer in zip(check_prompts(lm, PROMPTS), answers, strict=True):
        ids = torch.tensor([prompt + answer])
        log_p = lm.logits(ids, torch.ones_like(ids).bool())[0].double().log_softmax(-1)
        ce += [-float(log_p[len(prompt) - 1 + i, t]) for i, t in enumerate(answer)]
    assert trial.ce == pytest.approx(sum(ce) / len(ce), abs=1e-4)
    assert told[-1].prompt == trial.score
    kls = []
    for plain, prompt, answer in zip(check_prompts(lm, PROMPTS), asked, answers, strict=True):
        q, p = (
            lm.logits(torch.tensor([given + answer]), torch.ones(1, len(given + answer)).bool())[
                0, len(given) - 1 : -1
            ]
            .double()
            .log_softmax(-1)
            for given in (plain, prompt)
        )
        kls += (p.exp() * (p - q)).sum(-1).tolist()
    assert trial.relative_norm == 0.0  # asking moves nothing, and is no less of a change
    assert trial.kl == pytest.approx(sum(kls) / len(kls), rel=1e-3)


def test_every_trial_says_what_it_cost(lm, sae):
    told = [e for e in run(lm, sae) if isinstance(e, Point)]
    assert (told[0].trial.relative_norm, told[0].trial.kl) == (0.0, 0.0)
    for point in told[1:]:
        assert point.trial.relative_norm > 0 and point.trial.kl > 0
        assert {"relative_norm", "kl"} <= set(point.to_json())
    norms = [p.trial.relative_norm for p in told if p.kind == "steered"]
    assert norms == sorted(norms) and norms[0] < norms[-1]


def test_a_direction_that_writes_nothing_is_not_called_a_sweet_spot(lm, sae):
    told = list(
        sweep(
            lm, sae, 2, {4: 1.0}, prompts=check_prompts(lm, PROMPTS), strengths=[0.01],
            max_new_tokens=4,
        )
    )  # fmt: skip
    assert not told[-1].found


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"strengths": [0.0]}, ConfigError, "numbers above 0"),
        ({"strengths": [float("nan")]}, ConfigError, "numbers above 0"),
        ({"prompts": []}, ConfigError, "at least one"),
        ({"asked": [[3]]}, ConfigError, "at least one"),
        ({"max_new_tokens": 10**6}, ConfigError, "outgrow"),
    ],
)
def test_bad_sweeps_are_refused_before_the_first_token(lm, sae, given, error, said):
    settings = {"prompts": check_prompts(lm, PROMPTS), "max_new_tokens": 4} | given
    with pytest.raises(error, match=said):
        sweep(lm, sae, 5, {TOKEN: 1.0}, **settings)
    with pytest.raises(LatentError):
        sweep(lm, sae, 99, {TOKEN: 1.0}, prompts=[[3]])
