"""Patterns against every place looked at one by one, and agreement against scipy and sklearn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.metrics import f1_score, recall_score, roc_auc_score

from monoscope.features.ngrams.agreement import agreement
from monoscope.features.ngrams.patterns import (
    Pattern,
    describe,
    from_json,
    merge,
    stripped,
    to_json,
)
from monoscope.features.ngrams.reading import Reading
from tests.unit.features.atlas_world import Doc


def sparse(dense):
    rows = np.flatnonzero(dense)
    return rows, dense[rows]


@pytest.mark.parametrize("seed", range(6))
def test_agreement_is_that_of_dense_vectors(seed):
    rng = np.random.default_rng(seed)
    n = 400
    a = np.where(rng.random(n) < 0.1, rng.random(n), 0)
    p = np.where(rng.random(n) < 0.15, rng.integers(1, 4, n), 0).astype(float)
    p = np.where(a > 0.3, 2.0, p)
    found = agreement(sparse(p), sparse(a), n)
    assert found.r == pytest.approx(pearsonr(p, a).statistic, abs=1e-12)
    assert found.auc == pytest.approx(roc_auc_score(a > 0, p), abs=1e-12)
    assert found.f1 == pytest.approx(f1_score(a > 0, p > 0), abs=1e-12)
    assert found.sensitivity == pytest.approx(recall_score(a > 0, p > 0), abs=1e-12)
    assert found.specificity == pytest.approx(recall_score(a == 0, p == 0), abs=1e-12)


def test_a_prediction_that_never_changes_is_worth_nothing():
    a = np.array([0, 1.0, 0, 2.0])
    for p in (np.zeros(4), np.ones(4)):
        found = agreement(sparse(p), sparse(a), 4)
        assert (found.r, found.auc) == (0.0, 0.5)
    assert agreement(sparse(a), sparse(np.zeros(4)), 4) is None
    assert agreement(sparse(a), sparse(np.ones(4)), 4) is None


def reading(rng, n_docs=4, vocab=4):
    docs, doc, pos = {}, [], []
    for number in range(n_docs):
        ids = rng.integers(0, vocab, rng.integers(1, 30)).tolist()
        docs[10 * number] = Doc(10 * number, "train", "", ids, [], {})
        kept = np.flatnonzero(rng.random(len(ids)) < 0.8)
        doc += [10 * number] * len(kept)
        pos += kept.tolist()
    doc, pos = np.array(doc, np.int64), np.array(pos, np.int64)
    return docs, doc, pos, Reading.build(docs, doc, pos)


tokens = st.lists(st.one_of(st.none(), st.integers(0, 5)), min_size=1, max_size=4)


@given(st.integers(0, 10**6), tokens)
def test_a_pattern_matches_where_each_of_its_tokens_stands(seed, some):
    pattern = stripped(some)
    if pattern is None:
        return
    docs, doc, pos, read = reading(np.random.default_rng(seed))
    expected = []
    for row, (d, p) in enumerate(zip(doc.tolist(), pos.tolist(), strict=True)):
        ids, first = docs[d].token_ids, p + 1 - len(pattern)
        if first >= 0 and all(
            w is None or w == t for w, t in zip(pattern, ids[first : p + 1], strict=True)
        ):
            expected.append(row)
    assert read.match(pattern).tolist() == expected


def test_the_largest_value_that_matches_is_predicted():
    rng = np.random.default_rng(3)
    _, doc, _, read = reading(rng, n_docs=30)
    some = [Pattern((1,), 0.5, 1), Pattern((2, 1), 2.0, 1), Pattern((None, 3), 1.0, 1)]
    some[2] = Pattern((3, None), 1.0, 1)
    dense = np.zeros(len(doc))
    for pattern in some:
        rows = read.match(pattern.tokens)
        dense[rows] = np.maximum(dense[rows], pattern.value)
    rows, values = read.predict(some)
    assert (np.flatnonzero(dense) == rows).all() and (dense[rows] == values).all()
    assert {0.5, 1.0, 2.0} == set(values.tolist())
    assert len(read.predict([])[0]) == 0
    assert len(read.predict([Pattern((1,), 0.0, 1)])[0]) == 0


def test_what_another_pattern_covers_joins_it():
    found = [((5,), 4.0), ((5,), 2.0), ((3, 5), 3.0), ((9, None), 1.0), ((9, 2), 1.0), ((6,), 9.0)]
    found.append(((4, 5), 8.0))  # much stronger than token 5 alone
    merged = {p.tokens: (p.value, p.n_contexts) for p in merge(found, 12)}
    assert merged == {(5,): (3.0, 3), (9, None): (1.0, 2), (6,): (9.0, 1), (4, 5): (8.0, 1)}
    assert [p.tokens for p in merge(found, 2)] == [(5,), (9, None)]
    assert Pattern((5,), 0, 0).covers((3, 5)) and not Pattern((3, 5), 0, 0).covers((5,))
    assert Pattern((3, None, 5), 0, 0).covers((1, 3, 4, 5))
    assert not Pattern((3, None, 5), 0, 0).covers((3, None, None))


def test_patterns_in_words_and_back():
    texts = {1: " of", 2: " Paris", 3: " a"}
    some = [Pattern((2,), 1.0, 1), Pattern((1, None, 3), 2.0, 3)]
    assert describe(some, texts) == '" of… a" · " Paris"'
    assert describe(some, texts, width=12) == '" of… a" +1'
    assert describe([], texts) is None
    assert from_json(to_json(some, texts)) == some
    assert stripped([None, None]) is None and stripped([None, 4, None]) == (4, None)
