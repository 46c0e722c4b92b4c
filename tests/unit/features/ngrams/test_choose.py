"""Choosing patterns: each step against every dense prediction, and endings by themselves."""

from __future__ import annotations

import numpy as np
import pytest

from monoscope.features.ngrams.choose import GAIN, choose, with_endings
from tests.unit.features.ngrams.test_agreement import reading


def dense(patterns, read, n):
    p = np.zeros(n)
    for pattern in patterns:
        rows = read.match(pattern.tokens)
        p[rows] = np.maximum(p[rows], pattern.value)
    return p


@pytest.mark.parametrize("seed", range(5))
def test_each_step_takes_what_raises_the_correlation_most(seed):
    rng = np.random.default_rng(seed)
    _, doc, _, read = reading(rng, n_docs=40)
    found = [((1, 2), 1.0), ((3,), 2.0), ((0, None, 2), 1.0), ((2, 3), 1.0), ((1,), 0.5)]
    a = np.zeros(len(doc))
    for tokens, value in (((1, 2), 3.0), ((3,), 1.0), ((0, None, 2), 2.0)):
        a[read.match(tokens)] += value
    a *= rng.uniform(0.5, 1.5, len(a))
    fair = rng.random(len(doc)) < 0.7
    candidates = with_endings(found)
    chosen = choose(candidates, read, a, fair, 4)
    so_far: list = []
    for step in chosen:
        scores = {}
        for c in candidates:
            at = read.match(c.tokens)
            at = at[fair[at]]
            if not len(at) or not a[at].mean() > 0 or c.tokens in {p.tokens for p in so_far}:
                continue
            value = a[at].mean()
            if c.tokens == step.tokens:
                assert step.value == pytest.approx(value)
            trial = [*so_far, type(c)(c.tokens, value, 1)]
            scores[c.tokens] = np.corrcoef(dense(trial, read, len(a))[fair], a[fair])[0, 1]
        before = np.corrcoef(dense(so_far, read, len(a))[fair], a[fair])[0, 1] if so_far else 0
        assert scores[step.tokens] == pytest.approx(max(scores.values()), abs=1e-12)
        assert scores[step.tokens] - before >= GAIN - 1e-12
        so_far.append(step)
    assert 1 <= len(chosen) <= 4


def test_an_ending_stands_for_contexts_that_needed_more():
    found = [((7, None, 2), 4.0), ((8, 2), 2.0), ((2, 1), 1.0)]
    made = {p.tokens: (p.value, p.n_contexts) for p in with_endings(found)}
    assert made == {
        (2,): (3.0, 2), (8, 2): (2.0, 1), (7, None, 2): (4.0, 1), (1,): (1.0, 1), (2, 1): (1.0, 1),
    }  # fmt: skip
    _, doc, _, read = reading(np.random.default_rng(0), n_docs=60)
    a = np.zeros(len(doc))
    a[read.match((2,))] = 1.0
    everywhere = np.ones(len(doc), bool)
    assert [p.tokens for p in choose(with_endings(found), read, a, everywhere, 9)] == [(2,)]
    assert choose(with_endings(found), read, np.zeros(len(doc)), everywhere, 9) == []
    assert choose(with_endings(found), read, a, ~everywhere, 9) == []
