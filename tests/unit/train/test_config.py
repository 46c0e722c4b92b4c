"""Settings: what is filled in, what is refused, and in which words."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from monoscope.errors import ConfigError, InputError, MismatchError
from monoscope.sae import SAE, SAEConfig
from monoscope.sae.recipes import RECIPES
from monoscope.train import start, train
from monoscope.train.config import TrainConfig, prefix_counts
from monoscope.train.order import Order
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
        (4096, 10_000, 2e-3),
        (4096, 50_000, 2e-3),
        (4096, 2500, 4e-3),  # a quarter of the steps, twice the rate
        (16_384, 2500, 2e-3),
        (4096, 50, 6e-3),  # no more than that
        (1024, 1250, 6e-3),
        (16_384, 50, 3e-3),  # nor than that by the width
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
_WORDS = ("recipe", "tied", "normalisation", "overrides")
_FIELDS = [f.name for f in fields(TrainConfig) if f.name not in _WORDS]
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


def test_a_k_to_start_from_is_annealed_over_half_of_the_run_unless_that_is_said() -> None:
    for settings, fraction in (({}, 0.5), ({"k_anneal_fraction": 0.2}, 0.2)):
        config = _config("topk", k_start=12, **settings)
        full = config.resolved(config.shape(D, 64, 4))
        assert (full.k_start, full.k_anneal_fraction) == (12, fraction)
    plain = _config("topk").resolved(_config("topk").shape(D, 64, 4))
    assert (plain.k_start, plain.k_anneal_fraction) == (None, 0.0)
    flat = _config("ksparse", k_anneal_fraction=0.0)
    assert flat.resolved(flat.shape(D, 64, 4)).k_start is None


def test_k_start_alone_changes_what_is_learnt() -> None:
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    runs = [
        train(x, recipe="topk", d_sae=16, k=2, n_tokens=640, batch_size=32, settings=settings)
        for settings in ({}, {"k_start": 8}, {"k_start": 8, "k_anneal_fraction": 0.5})
    ]
    assert not torch.equal(runs[0].sae.W_dec, runs[1].sae.W_dec)
    assert torch.equal(runs[1].sae.W_dec, runs[2].sae.W_dec)


@pytest.mark.parametrize("recipe", ["topk", "batchtopk", "matryoshka"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k_anneal_fraction": 0.5}, "needs a k to start from: got k_anneal_fraction 0.5 without"),
        ({"k_start": 8, "k_anneal_fraction": 0.0}, "k_start without time to become k: got k_start"),
    ],
)
def test_half_of_an_annealing_is_refused(recipe: str, settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Order(recipe=recipe, settings=settings).check()


OF_ROW = [
    ("topk", "adam_beta1", 0.5, 1.0, "0 <= adam_beta1 <= 0.9999"),
    ("bricken", "adam_beta2", 0.95, -0.1, "0 <= adam_beta2 <= 0.999999"),
    ("kl", "adam_eps", 1e-3, 0.0, "1e-30 <= adam_eps <= 1"),
    ("jumprelu", "threshold_lr", 1.0, 0.0, "0 < threshold_lr <= 10000"),
    ("jumprelu_tanh", "threshold_lr", 1.0, "1", "0 < threshold_lr <= 10000"),
    ("topk", "decoder_lr", 1.0, 0.0, "0 < decoder_lr <= 10000"),
    ("bricken", "decoder_lr", 3.0, -1.0, "0 < decoder_lr <= 10000"),
    ("topk", "huber", 0.0, -1.0, "0 <= huber <= 10000"),
    ("templeton", "init_norm", 0.05, 0, "0 < init_norm <= 1000"),
    ("topk", "whitening", 1.0, 1.5, "0 <= whitening <= 1"),
    ("topk", "rows", "random", "dat", "one of data, random. Did you mean data"),
    ("bricken", "start_l0", 0, -1, "0 <= start_l0 <= "),
    ("gated", "start_l0", 3, float("nan"), "0 <= start_l0 <= "),
]


@pytest.mark.parametrize(("recipe", "name", "value", "bad", "expected"), OF_ROW)
def test_a_field_of_the_row_is_set_ranged_and_changes_what_is_learnt(
    recipe: str, name: str, value: Any, bad: Any, expected: str
) -> None:
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))

    def weights(**settings: Any) -> torch.Tensor:
        asked: dict[str, Any] = {"recipe": recipe, "d_sae": 192, "n_tokens": 160, "batch_size": 32}
        asked |= {"k": 2} if recipe == "topk" else {}
        sae = train(x, **asked, settings=settings).sae
        return torch.cat([p.detach().flatten() for p in (sae.W_enc, sae.b_enc, sae.threshold)])

    held = getattr(RECIPES[recipe], name)
    assert not torch.equal(weights(), weights(**{name: value}))
    assert torch.equal(weights(), weights(**{name: held}))
    with pytest.raises(ConfigError) as caught:
        Order(recipe=recipe, settings={name: bad}).check()
    assert name in str(caught.value) and expected in str(caught.value)
    assert getattr(RECIPES[recipe], name) == held


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("topk", {"threshold_lr": 2.0}, "expected threshold_lr with jumprelu, jumprelu_tanh"),
        ("ksparse", {"decoder_lr": 2.0}, "decoder_lr does not go with recipe ksparse"),
        ("matryoshka", {"huber": 1.0}, "expected huber with topk, batchtopk"),
        ("topk", {"start_l0": 8}, "expected start_l0 with jumprelu, jumprelu_tanh, bricken"),
        ("topk", {"init_norm": 0.1}, "init_norm does not go with recipe topk: got init_norm 0.1"),
        ("kl", {"rows": "data"}, "rows does not go with recipe kl"),
        ("topk", {"rows": "random", "whitening": 0.5}, "expected rows data, or whitening 0"),
        ("autoencoder", {"rows": "data", "hidden": [8]}, "rows does not go with hidden layers"),
        ("bricken", {"start_l0": 17}, "0 <= start_l0 <= 16 = d_sae"),
        ("bricken", {"start_l00": 17}, "Did you mean start_l0"),
    ],
)
def test_a_field_of_the_row_that_would_do_nothing_is_refused(
    recipe: str, settings: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Order(recipe=recipe, d_sae=16, k=2 if recipe == "topk" else None, settings=settings).check()


def test_fields_of_the_row_are_recorded_and_compared(tmp_path: Path) -> None:
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    asked: dict[str, Any] = {"d_sae": 16, "k": 2, "n_tokens": 128, "batch_size": 32}
    train(x, **asked, out=tmp_path / "run", settings={"adam_beta2": 0.9, "whitening": None})
    note = json.loads((tmp_path / "run" / "run.json").read_text())
    assert note["config"]["train"]["overrides"] == {"adam_beta2": 0.9}
    assert TrainConfig.from_json(note["config"]["train"]).row.adam_beta2 == 0.9
    with pytest.raises(MismatchError, match=r"another overrides: got .*0\.8.*expected .*0\.9"):
        train(x, **asked, out=tmp_path / "run", resume=True, settings={"adam_beta2": 0.8})
    with pytest.raises(MismatchError, match="another overrides"):
        train(x, **asked, out=tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match="overrides are out of range: got 3"):
        _config(overrides=3)


def test_biases_stay_at_zero_where_no_start_is_asked_for() -> None:
    """A start L0 goes before the target: half of the latents fire at first, as in the papers."""
    x = torch.randn(512, D, generator=torch.Generator().manual_seed(0))
    for settings, b_enc_is_zero in (({"start_l0": 0}, True), ({}, False)):
        config = _config("bricken", target_l0=2, overrides=settings)
        shape = config.shape(D, 32, None)
        config = config.resolved(shape)
        sae = SAE(shape)
        start.initialise(sae, x, config.row, config, torch.Generator().manual_seed(0))
        assert bool((sae.b_enc == 0).all()) == b_enc_is_zero


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"k": 0}, "k is out of range"),
        ({"d_sae": -64}, "d_sae is out of range"),
        ({"d_sae": 16, "k": 32}, "k is larger than d_sae"),
        ({"lr": 2.0}, "lr is out of range"),
        ({"n_tokens": 0}, "n_tokens is out of range"),
        ({"recipe": "bricken", "target_l0": 5000}, "0 < target_l0 <= 4096"),
        ({"settings": {"hidden": [4]}}, "hidden layers do not go with batchtopk"),
    ],
)
def test_what_is_asked_is_checked_before_the_data(asked: dict[str, Any], message: str) -> None:
    """The data are too few for one batch, which is a later trouble."""
    with pytest.raises(ConfigError, match=message):
        train(torch.randn(4, 8), batch_size=64, **asked)


@pytest.mark.parametrize(
    ("recipe", "asked", "message"),
    [
        ("bricken", {"k": 8}, "k does not go with recipe bricken: got k 8; expected k with topk, "
         r"batchtopk, matryoshka, ksparse\. Set target_l0 \(--target-l0\) instead\."),
        ("autoencoder", {"d_sae": 4, "k": 8}, r"ksparse\. Leave it out\."),
        ("topk", {"target_l0": 8}, r"got target_l0 8; expected target_l0 with jumprelu, .*Set k"),
        ("topk", {"settings": {"rho": 0.1}}, r"got rho 0\.1; expected rho with kl\. Leave it out"),
        ("kl", {"settings": {"normalisation": "unit"}}, "got normalisation unit; expected none"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_a_recipe_says_with_which_it_does(
    recipe: str, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Order(recipe=recipe, **asked).check()
