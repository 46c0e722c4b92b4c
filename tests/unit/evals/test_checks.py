"""Parts that do not belong together are refused, both sides named."""

from __future__ import annotations

import pytest

from monoscope.errors import MismatchError
from monoscope.evals.checks import check_together


def test_parts_that_belong_together(sae, store, lm):
    check_together(sae, store, lm)
    check_together(sae, store, None)


def test_other_width(make, store):
    with pytest.raises(MismatchError, match=r"different widths: got .*d_in 9; expected d_in 12"):
        check_together(make.sae(d_in=9), store, None)


def test_other_site(sae, store):
    sae.provenance["site"] = "resid_post.7"
    with pytest.raises(MismatchError, match=r"resid_post\.7; expected resid_post\.0"):
        check_together(sae, store, None)


@pytest.mark.parametrize("part", ["weights", "tokenizer"])
def test_sae_of_another_model(sae, store, part):
    sae.provenance["model"] = {**store.identity, "model": "other", part: "c" * 64}
    with pytest.raises(MismatchError, match=rf"another .*{part}.* trained on other .*tiny"):
        check_together(sae, store, None)


def test_model_of_another_store(sae, store, lm, monkeypatch):
    monkeypatch.setattr(lm, "identity", {**store.identity, "model": "gpt", "weights": "d" * 64})
    with pytest.raises(MismatchError, match=r"the model gpt .*dddd.*expected tiny"):
        check_together(sae, store, lm)


def test_model_of_another_width(sae, store, lm, monkeypatch):
    monkeypatch.setattr(lm, "width", lambda site: 99)
    with pytest.raises(MismatchError, match=r"widths at resid_post\.0: got 99; expected 12"):
        check_together(sae, store, lm)


def test_the_same_weights_under_another_name(sae, store):
    sae.provenance["model"] = {**store.identity, "model": "/elsewhere/tiny"}
    check_together(sae, store, None)


def test_a_branch_name_is_no_proof(sae, store):
    store.identity = {**store.identity, "weights": "main"}
    sae.provenance["model"] = {**store.identity, "model": "other"}
    with pytest.raises(MismatchError, match="another model"):
        check_together(sae, store, None)


@pytest.mark.parametrize("provenance", [{}, {"model": {"model": "tiny"}}, {"model": {}}])
def test_what_an_imported_sae_does_not_say_is_not_checked(sae, store, provenance):
    sae.provenance = provenance
    check_together(sae, store, None)
