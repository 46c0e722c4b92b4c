"""A document read anew by the running model agrees with what the atlas recorded of it."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from monoscope.viewer.config import ViewerConfig
from tests.viewer.conftest import serving

pytestmark = pytest.mark.slow


def test_every_token_has_a_value_and_the_recorded_ones_are_met(live: str) -> None:
    n_compared = n_new = 0
    with httpx.Client(base_url=f"{live}/api/v1", timeout=120) as client:
        for latent in range(0, 512, 64):
            for example in client.get(f"/features/{latent}").json()["examples"][:2]:
                path = f"/documents/{example['doc']}"
                held = client.get(path, params={"latent": latent}).json()
                told = client.get(f"{path}/values", params={"latent": latent}).json()
                assert len(told["values"]) == len(held["pieces"])
                for mine, theirs in zip(told["values"], held["values"], strict=True):
                    if theirs is None:
                        n_new += 1
                    elif theirs > 0 and mine:  # near its threshold a latent may fire in one alone
                        n_compared += 1
                        assert mine == pytest.approx(theirs, rel=0.05, abs=0.3)  # stored bfloat16
                assert told["values"][example["pos"]] == pytest.approx(example["value"], rel=0.05)
    assert n_compared > 20
    assert n_new > 100


def test_what_is_not_there_is_told(live: str) -> None:
    with httpx.Client(base_url=f"{live}/api/v1", timeout=120) as client:
        assert client.get("/documents/99999999/values?latent=1").status_code == 404
        assert client.get("/documents/1/values?latent=99999").status_code == 404
        assert client.get("/documents/1/values").status_code == 422


def test_without_a_model_it_is_unavailable(slide: Path) -> None:
    with serving(ViewerConfig(atlas=slide / "atlas", port=0)) as address:
        answer = httpx.get(f"{address}/api/v1/documents/1/values?latent=1")
        assert answer.status_code == 503
        assert "--sae" in answer.json()["hint"]
