"""Parts that do not belong together are refused by the verbs that take them; no model is loaded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from monoscope import cli
from monoscope.artifact import save_sae
from monoscope.artifact.checks import weights_hash
from monoscope.errors import ModelError
from monoscope.sae import SAE, SAEConfig


def make_sae(folder: Path, seed: int) -> SAE:
    """Two with other seeds differ in nothing but their weights."""
    sae = SAE(SAEConfig(d_in=4, d_sae=9, activation="topk", k=2), {"site": "resid_post.0"})
    with torch.no_grad():
        sae.W_dec.copy_(torch.randn(9, 4, generator=torch.Generator().manual_seed(seed)))
    save_sae(sae, folder, sae.provenance)
    return sae


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """An atlas of the SAE in `sae` beside it; `other` holds another of the same shape."""
    sae, _ = make_sae(tmp_path / "sae", 1), make_sae(tmp_path / "other", 2)
    atlas = SimpleNamespace(
        folder=tmp_path / "atlas",
        n_features=9,
        manifest={"sae": {"hash": weights_hash(sae)}},
        feature=lambda latent: SimpleNamespace(max=50.0),
        labels=lambda: {},
        dense=set,
    )
    monkeypatch.setattr("monoscope.features.atlas.load_atlas", lambda folder: atlas)

    def load_lm(name, **more):
        raise ModelError(f"asked for {name}")

    monkeypatch.setattr("monoscope.lm.load_lm", load_lm)
    return tmp_path


def refused(capsys, *args: object) -> str:
    with pytest.raises(SystemExit) as left:
        cli.main([*map(str, args)])
    told = capsys.readouterr()
    assert (left.value.code, told.out, told.err.count("\n")) == (2, "", 1), told
    return told.err


VERBS = {
    "steer": ("steer", "SAE", "--prompt=p", "--edit=3=set:5max", "--atlas=a"),
    "steer, no max in it": ("steer", "SAE", "--prompt=p", "--edit=3=set:5", "--atlas=a"),
    "sweep": ("steer", "SAE", "--prompt=p", "--sweep=3", "--atlas=a"),
    "text": ("features", "a", "--text=p", "--sae", "SAE"),
    "two texts": ("features", "a", "--text=p", "--text-b=q", "--sae", "SAE"),
    "chat": ("features", "a", "--messages=[]", "--sae", "SAE"),
}


@pytest.mark.parametrize("args", VERBS.values(), ids=VERBS)
def test_an_sae_of_the_same_shape_is_not_taken_for_the_atlass_own(capsys, parts, args):
    def given(name: str) -> list[object]:
        return [parts / name if arg == "SAE" else arg for arg in (*args, "--model=m")]

    assert "made with another SAE: got weights" in refused(capsys, *given("other"))
    assert "asked for m" in refused(capsys, *given("sae"))


@pytest.mark.parametrize("text", ["--text=p", "--messages=[]"])
def test_a_text_is_read_with_the_sae_beside_the_atlas(capsys, parts, text):
    assert "asked for m" in refused(capsys, "features", "a", text, "--model=m")
    (parts / "sae").rename(parts / "kept")
    assert "Name its folder with --sae" in refused(capsys, "features", "a", text, "--model=m")
    (parts / "other").rename(parts / "sae")
    assert "made with another SAE" in refused(capsys, "features", "a", text, "--model=m")
