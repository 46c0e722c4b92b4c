"""Training again as an SAE says it was trained: every recipe, other budgets, other sizes."""

from __future__ import annotations

import pytest
import torch

from monoscope.errors import ConfigError
from monoscope.sae.recipes import RECIPES
from monoscope.train import alike, train

X = torch.randn(1024, 16, generator=torch.Generator().manual_seed(0)) @ torch.randn(
    16, 16, generator=torch.Generator().manual_seed(1)
)
TOKENS = 4096


def told(sae):
    return sae.provenance["config"]["train"]


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_at_the_same_budget_and_seed_it_is_the_same_sae(recipe):
    """Whatever was asked for beyond recipe, d_sae and k: without it the weights are others."""
    row = RECIPES[recipe]
    settings = {"warmup_fraction": 0.25, "normalisation": "standardize", "dead_after_tokens": 1000}
    if row.sparsity_coefficient is not None and row.sparsity != "kl":
        settings["sparsity_coefficient"] = 3.5 * row.sparsity_coefficient
    if row.prefixes is not None:
        settings["prefixes"] = [0.5, 1.0]
    made = train(
        X, d_sae=8 if row.bottleneck else 24, recipe=recipe, n_tokens=TOKENS, batch_size=128,
        lr=7e-4, seed=5, settings=settings, k=3 if "topk" in row.activation else None,
    ).sae  # fmt: skip
    again = alike(made, X, n_tokens=TOKENS, seed=5).sae
    assert told(again) == told(made) and again.config == made.config
    for name, value in made.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_target_is_replayed_and_replaced():
    made = train(
        X, d_sae=24, recipe="jumprelu", target_l0=4, n_tokens=TOKENS, batch_size=128,
        settings={"bandwidth": 0.25},
    ).sae  # fmt: skip
    assert told(alike(made, X, n_tokens=TOKENS, seed=1).sae)["target_l0"] == 4
    other = told(alike(made, X, n_tokens=TOKENS, seed=1, target_l0=6, k=6).sae)
    assert other["target_l0"] == 6 and other["bandwidth"] == 0.25
    few = alike(made, X, n_tokens=TOKENS, seed=1, target_l0=0.6).sae
    assert told(few)["target_l0"] == told(alike(few, X, n_tokens=TOKENS, seed=2).sae)["target_l0"]
    assert told(few)["target_l0"] == pytest.approx(0.6)


def test_at_another_budget_the_recipes_rule_holds_for_what_counts_tokens():
    kind = {"d_sae": 24, "recipe": "batchtopk", "k": 3, "batch_size": 128}
    made = train(X, n_tokens=TOKENS, settings={"dead_after_tokens": 7}, **kind).sae
    short, asked = (
        told(alike(made, X, n_tokens=1024, seed=0).sae),
        told(train(X, n_tokens=1024, **kind).sae),
    )
    assert short == asked
    faster = train(X, n_tokens=TOKENS, lr=told(made)["lr"] / 2, **kind).sae
    assert told(alike(faster, X, n_tokens=1024, seed=0).sae)["lr"] == asked["lr"] / 2


def test_at_another_size_counts_of_latents_are_the_recipes():
    made = train(
        X, d_sae=64, recipe="gated", n_tokens=TOKENS, batch_size=128, lr=2e-3,
        settings={"sparsity_coefficient": 9.0, "decay_fraction": 0.5},
    ).sae  # fmt: skip
    narrow = X[:, :8]
    small = alike(
        made, narrow, n_tokens=1024, seed=0, d_sae=12, k=2, target_l0=2.5, batch_size=64, lr=1e-4
    ).sae
    assert small.config.d_sae == 12 and told(small)["target_l0"] == 2.5
    assert told(small)["sparsity_coefficient"] == RECIPES["gated"].sparsity_coefficient
    assert told(small)["decay_fraction"] == 0.5 and told(small)["batch_size"] == 64
    then = RECIPES["gated"].default_lr(64, TOKENS // 128)
    assert told(small)["lr"] == pytest.approx(1e-4 * 2e-3 / then)


def test_what_an_older_version_recorded_beside_the_recipe_is_left_out():
    made = train(X, d_sae=24, recipe="topk", k=3, n_tokens=1024, batch_size=128).sae
    held = dict(told(made))
    made.provenance["config"]["train"] |= {"sparsity_coefficient": 0.0, "resample_every_tokens": 9}
    assert told(alike(made, X, n_tokens=1024, seed=0).sae) == held


def test_an_sae_that_says_only_its_recipe_and_one_that_says_nothing():
    made = train(X, d_sae=24, recipe="topk", k=3, n_tokens=1024, batch_size=128).sae
    made.provenance = {"recipe": "topk"}
    assert alike(made, X, n_tokens=1024, seed=0, batch_size=128).sae.config == made.config
    made.provenance = {}
    with pytest.raises(ConfigError, match="by which recipe"):
        alike(made, X, n_tokens=1024, seed=0)


def test_fields_of_the_recipes_row_and_a_falling_k_are_replayed_too():
    """What is refused alone, such as a share of the run without a k to start from, is kept."""
    settings = {"adam_beta2": 0.9, "whitening": 0.0, "k_start": 12, "k_anneal_fraction": 0.25}
    made = train(
        X, d_sae=24, recipe="topk", k=3, n_tokens=TOKENS, batch_size=128, settings=settings
    ).sae
    again = alike(made, X, n_tokens=TOKENS, seed=0).sae
    assert told(again) == told(made)
    assert told(again)["overrides"] == {"adam_beta2": 0.9, "whitening": 0.0}
    assert torch.equal(again.W_dec, made.W_dec)
    wider = told(alike(made, X, n_tokens=TOKENS, seed=0, d_sae=48).sae)
    assert wider["overrides"] == told(made)["overrides"] and wider["k_start"] is None
