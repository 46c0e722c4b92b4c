"""What features promise to write: which words count, and which a model writes anyway."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from monoscope.demo.writer import common_tokens, word_promises

IDS = {" maths": 7, " different": 8, " fern": 9}


class Words:
    """A language model of which only the tokenizer is asked."""

    def encode(self, texts):
        return [SimpleNamespace(ids=[IDS[text]] if text in IDS else [1, 2]) for text in texts]


def features(**tokens):
    return [
        SimpleNamespace(latent=int(name[1:]), tokens=tuple(words)) for name, words in tokens.items()
    ]


def test_words_of_many_documents_are_not_promised():
    rows = features(f1=[" maths", " different"], f2=[" different"], f3=[" fern", " two words", "a"])
    assert set(word_promises(Words(), rows)) == {1, 2, 3}
    promised = word_promises(Words(), rows, {8})
    assert {latent: set(tokens) for latent, tokens in promised.items()} == {1: {7}, 3: {9}}


def test_words_that_many_features_fire_on_are_not_promised():
    rows = features(f1=[" maths"], f2=[" Maths", " fern"], f3=[" maths"], f4=[" fern"])
    assert set(word_promises(Words(), rows)) == {2, 4}


@pytest.mark.parametrize(("n_docs", "most"), [(1000, 20), (100, 10)])
def test_common_is_what_more_than_a_fiftieth_of_the_documents_hold(n_docs, most):
    """Counted once a document, however often it stands there; of few documents, more than ten."""
    docs = [SimpleNamespace(token_ids=[5] * 99 if i == 0 else [100 + i]) for i in range(n_docs)]
    for i in range(most + 1):
        docs[i].token_ids.append(6)
    for i in range(most):
        docs[i].token_ids.append(7)
    store = SimpleNamespace(documents=lambda split: iter(docs) if split == "train" else iter(()))
    assert common_tokens(store) == {6}
