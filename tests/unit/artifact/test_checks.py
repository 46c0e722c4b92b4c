"""Parts that do not belong together are refused, both sides named."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from monoscope.artifact.checks import NameWarning, check_model, check_together, weights_hash
from monoscope.errors import MismatchError
from monoscope.sae import SAE, SAEConfig
from monoscope.sites import Site

IDENTITY = {"model": "tiny", "weights": "a" * 64, "tokenizer": "b" * 64}


def make_sae(d_in: int = 12) -> SAE:
    provenance = {"site": "resid_post.0", "model": dict(IDENTITY)}
    return SAE(SAEConfig(d_in=d_in, d_sae=30, activation="topk", k=4), provenance)


@pytest.fixture
def sae() -> SAE:
    return make_sae()


@pytest.fixture
def store() -> SimpleNamespace:
    return SimpleNamespace(d_in=12, site="resid_post.0", identity=dict(IDENTITY))


@pytest.fixture
def lm() -> SimpleNamespace:
    return SimpleNamespace(identity=dict(IDENTITY), width=lambda site: 12)


def test_parts_that_belong_together(sae, store, lm):
    check_together(sae, store, lm)
    check_together(sae, store, None)


def test_other_width(store):
    with pytest.raises(MismatchError, match=r"different widths: got .*d_in 9; expected d_in 12"):
        check_together(make_sae(d_in=9), store, None)


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


def test_a_model_without_a_store(sae, lm):
    assert check_model(sae, lm) == Site("resid_post", 0)
    lm.width = lambda site: 99
    with pytest.raises(MismatchError, match=r"widths at resid_post\.0: got 99; expected 12"):
        check_model(sae, lm)
    lm.identity["weights"] = "c" * 64
    with pytest.raises(MismatchError, match=r"another weights than the SAE's"):
        check_model(sae, lm)
    sae.provenance = {}
    with pytest.raises(MismatchError, match="does not say at which site"):
        check_model(sae, lm)


def test_the_hash_is_of_every_weight(sae):
    seen = {weights_hash(sae)}
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"):
        with torch.no_grad():
            getattr(sae, name).view(-1)[-1] += 1
        seen.add(weights_hash(sae))
    assert len(seen) == 6
    assert weights_hash(make_sae()) == weights_hash(make_sae())


def test_the_hash_is_of_every_leaf_that_an_activation_or_a_hidden_layer_adds():
    for config in (
        SAEConfig(d_in=12, d_sae=9, activation="gated", k=None),
        SAEConfig(d_in=12, d_sae=9, activation="jumprelu", k=None),
        SAEConfig(d_in=12, d_sae=9, activation="relu", k=None, hidden=(7, 5)),
    ):
        sae = SAE(config)
        seen = {weights_hash(sae)}
        leaves = sae.state_dict()
        for leaf in leaves.values():
            leaf.view(-1)[-1] += 1
            seen.add(weights_hash(sae))
        assert len(seen) == len(leaves) + 1, config.activation
        again = SAE(config)
        again.load_state_dict(leaves)
        assert weights_hash(again) == weights_hash(sae)


def test_the_hash_of_an_sae_without_further_leaves_is_what_atlases_hold(sae):
    """Written out, so that atlases made before stay those of their SAEs."""
    digest = hashlib.sha256()
    for name, shape in (
        ("W_enc", (30, 12)), ("b_enc", (30,)), ("W_dec", (30, 12)), ("b_dec", (12,)),
        ("threshold", ()),
    ):  # fmt: skip
        digest.update(name.encode() + np.zeros(shape, np.float32).tobytes())
    assert weights_hash(sae) == digest.hexdigest()


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ("google/gemma-2-2b", "/models/gemma-2-2b/"),
        ("gpt2", "openai-community/gpt2"),
        ("google/Gemma-2-2B", "C:\\models\\gemma-2-2b"),
    ],
)
def test_names_that_end_alike_are_taken_for_the_same_model_and_it_is_said(sae, store, mine, theirs):
    sae.provenance["model"] = {"model": mine}
    store.identity = {**store.identity, "model": theirs}
    with pytest.warns(NameWarning, match="taken for the same model by name") as caught:
        check_together(sae, store, None)
    assert mine in str(caught[0].message) and theirs in str(caught[0].message)


def test_a_name_does_not_outweigh_other_weights_or_another_end(sae, store):
    store.identity = {**store.identity, "model": "/models/gemma-2-2b"}
    for other in (
        {"model": "google/gemma-2-9b"},
        {"model": "gemma-2-2b-it"},
        {"model": "google/gemma-2-2b", "weights": "c" * 64},
        {"model": "google/gemma-2-2b", "tokenizer": "c" * 64},
    ):
        sae.provenance["model"] = other
        with pytest.raises(MismatchError):
            check_together(sae, store, None)
