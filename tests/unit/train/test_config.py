"""Settings: what is filled in, what is refused, and in which words."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import pytest
import torch

from monoscope.errors import ConfigError, InputError
from monoscope.sae import SAEConfig
from monoscope.sae.recipes import RECIPES
from monoscope.train import train
from monoscope.train.config import TrainConfig, prefix_counts
from monoscope.train.schedule import annealed_k

D = 16


def _config(recipe: str = "batchtopk", **values: Any) -> TrainConfig:
    return TrainConfig(n_tokens=1000, recipe=recipe, **values)


@pytest.mark.parametrize(
    ("recipe", "name", "value", "expected"),
    [
        ("topk", "lr", 2.0, "0 <= lr <= 1"),
        ("topk", "warmup_fraction", -0.1, "0 <= warmup_fraction <= 1"),
        ("topk", "decay_fraction", 1.1, "0 <= decay_fraction <= 1"),
        ("topk", "auxk_coefficient", -1, "0 <= auxk_coefficient <= 1000"),
        ("topk", "k_aux", 0, "a whole number >= 1"),
        ("topk", "k_anneal_fraction", 1.5, "0 <= k_anneal_fraction <= 1"),
        ("topk", "batch_size", 1, "a whole number >= 2"),
        ("topk", "grad_clip", 0, "0 < grad_clip"),
        ("topk", "dead_after_tokens", 0.5, "a whole number >= 1"),
        ("jumprelu", "bandwidth", 0.0, "0 < bandwidth <= 1000"),
        ("jumprelu", "sparsity_coefficient", float("nan"), "0 <= sparsity_coefficient"),
        ("jumprelu", "sparsity_warmup_fraction", 3, "0 <= sparsity_warmup_fraction <= 1"),
        ("jumprelu_tanh", "preact_coefficient", -1e-6, "0 <= preact_coefficient <= 1000"),
        ("kl", "rho", 1.0, "0 < rho <= 0.999"),
        ("kl", "rho", 0.0, "0 < rho <= 0.999"),
        ("bricken", "resample_every_tokens", 0, "a whole number >= 1"),
        ("ksparse", "tied", "yes", "true or false"),
        ("matryoshka", "prefixes", [0.5, 0.2, 1.0], "ascending shares"),
        ("matryoshka", "prefixes", [0.5, 0.9], "ascending shares of d_sae that end in 1"),
        ("matryoshka", "prefixes", [0.0, 1.0], "0 < a share in prefixes <= 1"),
        ("matryoshka", "prefixes", 3, "ascending shares"),
        ("topk", "normalisation", "mean_nrom", "Did you mean mean_norm"),
    ],
)
def test_out_of_range_names_the_range(recipe: str, name: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _config(recipe, **{name: value})
    assert expected in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "name", "value"),
    [
        ("topk", "sparsity_coefficient", 1.0),
        ("topk", "target_l0", 8),
        ("autoencoder", "target_l0", 8),
        ("topk", "rho", 0.1),
        ("batchtopk", "prefixes", [0.5, 1.0]),
        ("topk", "tied", True),
        ("bricken", "bandwidth", 0.1),
        ("bricken", "k_start", 8),
        ("bricken", "k_aux", 8),
        ("topk", "resample_every_tokens", 8),
        ("jumprelu", "preact_coefficient", 1e-6),
    ],
)
def test_a_setting_of_another_recipe_is_refused(recipe: str, name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} does not go with recipe {recipe}"):
        _config(recipe, **{name: value})


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_fills_in_what_it_needs_and_survives_a_round_trip(recipe: str) -> None:
    config = _config(recipe)
    shape = config.shape(D, None, None)
    full = config.resolved(shape)
    row = RECIPES[recipe]
    assert full.lr is not None and full.normalisation is not None
    for name in ("sparsity_coefficient", "bandwidth", "rho", "prefixes", "auxk_coefficient"):
        assert (getattr(full, name) is None) == (getattr(row, name) is None)
    assert TrainConfig.from_json(full.to_json()) == full
    assert full.resolved(shape) == full
    assert (shape.k is None) == (row.activation not in ("topk", "batchtopk"))
    assert shape.d_sae == (1 if row.bottleneck else 4096)


@pytest.mark.parametrize(
    ("d_sae", "n_steps", "lr"),
    [
        (4096, 2100, 2e-3),
        (4096, 50_000, 2e-3),
        (4096, 525, 4e-3),  # a quarter of the steps, twice the rate
        (16_384, 525, 2e-3),
        (4096, 50, 6e-3),  # no more than that
        (256, 50, 8e-3),  # and no less than what the width says
    ],
)
def test_a_short_run_takes_larger_steps(d_sae: int, n_steps: int, lr: float) -> None:
    config = TrainConfig(n_tokens=n_steps * 2048 + 7, recipe="topk")
    full = config.resolved(config.shape(D, d_sae, None))
    assert full.lr == pytest.approx(lr)
    same = TrainConfig(n_tokens=n_steps * 2048, recipe="kl")
    assert same.resolved(same.shape(D, d_sae, None)).lr == pytest.approx(1e-3)


def test_k_and_target_l0_as_shares() -> None:
    assert _config().shape(D, 1000, 0.032).k == 32
    assert _config().shape(D, 1000, 0.0001).k == 1
    bricken = _config("bricken", target_l0=0.05)
    assert bricken.resolved(bricken.shape(D, 200, None)).target_l0 == 10
    kl = _config("kl", target_l0=20)
    assert kl.resolved(kl.shape(D, 200, None)).rho == pytest.approx(0.1)


@pytest.mark.parametrize("k", [0, -1, 2.5, 0.0, True, 65, "8"])
def test_a_bad_k_is_refused(k: Any) -> None:
    with pytest.raises(ConfigError, match="k is"):
        _config().shape(D, 64, k)


@pytest.mark.parametrize("target", [65, 0, -3, float("nan"), "many"])
def test_a_target_outside_the_sae_names_the_range(target: Any) -> None:
    config = _config("bricken", target_l0=target)
    with pytest.raises(ConfigError, match="0 < target_l0 <= 64 = d_sae"):
        config.resolved(config.shape(D, 64, None))


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"k does not go with recipe bricken.*target_l0"):
        _config("bricken").shape(D, 64, 8)
    with pytest.raises(ConfigError, match=r"needs a bottleneck.*1 <= d_sae < 16"):
        _config("autoencoder").shape(D, 64, None)
    with pytest.raises(ConfigError, match="hidden layers do not go with topk"):
        _config("topk").shape(D, 64, 8, hidden=(4,))
    with pytest.raises(ConfigError, match="a width in hidden"):
        _config("autoencoder").shape(D, 4, None, hidden=(0,))
    with pytest.raises(ConfigError, match="unit does not go with kl"):
        _config("kl", normalisation="unit")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity_coefficent": 1}, "Did you mean sparsity_coefficient"),
        ({"prefixs": [1.0]}, "Did you mean prefixes"),
        ({"hiden": [4]}, "Did you mean hidden"),
        ({"recipe": "topk"}, "unknown key in training settings"),
    ],
)
def test_an_unknown_setting_names_the_nearest(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(torch.randn(64, 4), d_sae=8, k=2, n_tokens=64, batch_size=32, settings=settings)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean jumprelu"):
        train(torch.randn(64, 4), d_sae=8, recipe="jumpreluu", n_tokens=64, batch_size=32)


def test_prefixes_of_a_small_sae_are_distinct_and_whole() -> None:
    shares = RECIPES["matryoshka"].prefixes
    assert shares is not None
    assert prefix_counts(shares, 32) == (1, 3, 7, 15, 32)
    assert prefix_counts(shares, 4096) == (128, 384, 896, 1920, 4096)
    assert prefix_counts(shares, 2) == (1, 2)


def test_k_falls_in_a_line_and_stays() -> None:
    assert [annealed_k(d, 8, 40, 0.5) for d in (0.0, 0.25, 0.5, 0.9)] == [40, 24, 8, 8]
    assert annealed_k(0.3, 8, None, 0.5) == 8
    assert annealed_k(0.0, 8, 40, 0.0) == 8


# What no setting may be, whatever it is called; huge is beyond every range.
_NEVER = (float("nan"), float("inf"), "8", -1, 10**400, [1, "a"], True)
_FIELDS = [f.name for f in fields(TrainConfig) if f.name not in ("recipe", "tied", "normalisation")]
_SIZES = ("d_in", "d_sae", "k", "hidden")
# Values in range that look as if they were not.
_ALLOWED = {"hidden": ([1],)}
_ZERO_MEANS_OFF = {
    "seed", "lr", "warmup_fraction", "decay_fraction", "sparsity_coefficient", "auxk_coefficient",
    "sparsity_warmup_fraction", "k_anneal_fraction", "preact_coefficient",
    "checkpoint_every_tokens",
}  # fmt: skip


def _asked(recipe: str, values: dict[str, Any]) -> None:
    """Both configs in full, as a run makes them."""
    named = {"n_tokens": 10_000, "seed": 0, "d_sae": None, "k": None, "hidden": (), "d_in": D}
    named |= values
    sizes = {name: named.pop(name) for name in _SIZES}
    config = TrainConfig(recipe=recipe, **named)
    config.resolved(config.shape(**sizes))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", [*_FIELDS, *_SIZES])
def test_nothing_out_of_range_gets_past(recipe: str, name: str) -> None:
    _asked(recipe, {})
    for value in (*_NEVER, *(() if name in _ZERO_MEANS_OFF else (0,)), 10**30):
        with pytest.raises(ConfigError) as caught:
            _asked(recipe, {name: value})
        line = str(caught.value)
        assert "\n" not in line and len(line) < 400, value
        misplaced = "does not go with" in line
        assert misplaced or "expected" in line, (value, line)
        what, _, expected = line.partition("expected")
        assert name in what or (name == "prefixes" and "share in prefixes" in what), line
        assert misplaced or re.search(r"\d|layers", expected), (value, line)


@pytest.mark.parametrize("recipe", RECIPES)
def test_words_where_a_choice_is_asked(recipe: str) -> None:
    for name, value in (("tied", 1), ("tied", "yes"), ("normalisation", 3), ("normalisation", [])):
        with pytest.raises(ConfigError, match=name):
            _asked(recipe, {name: value})
    for value in (None, 3, [], "", float("nan")):
        with pytest.raises(ConfigError, match="unknown recipe"):
            TrainConfig(n_tokens=1, recipe=value)


@pytest.mark.parametrize("k", [0, -1, 0.0, -0.5, 1.0, 1.5, 4097, float("nan"), "8", None, True])
def test_a_bad_k_names_the_range_of_counts_and_that_of_shares(k: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        SAEConfig(d_in=8, d_sae=4096, k=k)
    assert "a whole number from 1 to 4096 = d_sae, or a share of d_sae, 0 < k < 1" in str(
        caught.value
    )


@pytest.mark.parametrize(
    "values",
    [
        {"batch_size": bad} for bad in (0, -1, 1, float("nan"), "8", 10**30)
    ] + [{"data_seed": bad} for bad in (-1, 2**70, 0.5, "0")]
    + [{"seed": bad} for bad in (-1, 2**70, 0.5, "0")],
    ids=str,
)  # fmt: skip
def test_what_is_used_before_the_configs_are_made_is_checked_first(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"(seed|batch_size) is out of range"):
        train(torch.randn(64, 4), d_sae=8, k=2, n_tokens=64, **values)


@pytest.mark.parametrize("activation", [3, [], "topkk", {}])
def test_an_activation_that_is_none(activation: Any) -> None:
    if activation in ([], {}):
        activation = [activation]
    with pytest.raises(ConfigError, match="unknown activation"):
        train(torch.randn(64, 4), d_sae=8, batch_size=8, n_tokens=64, activation=activation)
