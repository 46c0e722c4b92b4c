"""SAEConfig refuses what cannot be, says why in one line, and survives a round trip."""

from __future__ import annotations

from typing import Any

import pytest

from monoscope.errors import ConfigError
from monoscope.sae import SAEConfig
from monoscope.sae.recipes import RECIPES, get_recipe


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"d_in": 0}, "d_in is out of range"),
        ({"d_sae": -4}, "d_sae is out of range"),
        ({"d_sae": 2.0}, "d_sae is out of range"),
        ({"d_in": True}, "d_in is out of range"),
        ({"k": 0}, "k is out of range"),
        ({"k": None}, "k is out of range"),
        ({"k": 65}, "k is larger than d_sae"),
        ({"activation": "topkk"}, "Did you mean topk"),
        ({"activation": "relu"}, "k does not go with relu"),
    ],
)
def test_bad_values_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        SAEConfig(**{"d_in": 8, "d_sae": 64, "k": 4, **values})
    assert "\n" not in str(caught.value)


def test_the_largest_and_smallest_k_are_allowed() -> None:
    assert SAEConfig(d_in=8, d_sae=64, k=64).k == 64
    assert SAEConfig(d_in=1, d_sae=1, k=1).d_sae == 1
    assert SAEConfig(d_in=8, d_sae=64, activation="relu", k=None).k is None


@pytest.mark.parametrize("activation", ["topk", "batchtopk", "relu"])
def test_round_trip(activation: Any) -> None:
    config = SAEConfig(
        d_in=8, d_sae=64, activation=activation, k=None if activation == "relu" else 5
    )
    assert SAEConfig.from_json(config.to_json()) == config


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean d_sae"):
        SAEConfig.from_json({"d_in": 8, "d_saes": 64})


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean batchtopk"):
        get_recipe("batchtop")
    assert all(get_recipe(name) is row for name, row in RECIPES.items())
