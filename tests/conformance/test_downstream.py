"""What is built on an SAE works with every recipe: training, evaluation, atlas, edits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from monoscope.artifact import load_sae
from monoscope.data.harvest import collect
from monoscope.data.store import ActivationStore
from monoscope.errors import ConfigError
from monoscope.evals.run import evaluate
from monoscope.features.index import index
from monoscope.lm.protocol import Positions
from monoscope.sae.recipes import RECIPES
from monoscope.sites import Site
from monoscope.steer import Ablate
from monoscope.steer.apply import SiteEdits
from monoscope.train import train
from tests.conformance.world import Variant
from tests.unit.data.fake_lm import FakeLM, make_corpus

SETTINGS: dict[str, dict[str, Any]] = {
    "batchtopk+unit": {"normalisation": "unit"},
    "autoencoder+deep": {"hidden": [4, 4]},
}
NAMES = [*RECIPES, *SETTINGS]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    folder = tmp_path_factory.mktemp("store") / "s"
    return collect(
        FakeLM(), make_corpus(120), Site("resid_post", 1), 1500, folder, held_out=0.2,
        context_length=16, max_doc_tokens=40, batch_tokens=64, shard_tokens=400,
    )  # fmt: skip


def _train(name: str, store: ActivationStore, out: Path) -> None:
    recipe = name.split("+")[0]
    sizes: dict[str, Any] = {"d_sae": 3 if RECIPES[recipe].bottleneck else 20}
    if Variant(recipe).has_k:
        sizes["k"] = 0.15
    train(
        store, recipe=recipe, n_tokens=3000, batch_size=64, out=out,
        settings=SETTINGS.get(name), **sizes,
    )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_train_evaluate_index_edit(name: str, store: ActivationStore, tmp_path: Path) -> None:
    _train(name, store, tmp_path / "sae")
    sae = load_sae(tmp_path / "sae")
    assert sae.provenance["recipe"] == name.split("+")[0]
    assert len(sae.provenance["latent_max"]) == sae.d_sae
    result = evaluate(sae, store, baselines=False, bootstrap=20)
    assert 0 < result.fvu < 1.1 and 0 < result.l0 <= sae.d_sae
    if name == "autoencoder+deep":
        with pytest.raises(ConfigError, match="an index needs latents that are directions"):
            index(sae, store, out=tmp_path / "atlas")
        with pytest.raises(ConfigError, match="an edit needs latents that are directions"):
            Ablate(sae, 0)
        return
    atlas = index(sae, store, out=tmp_path / "atlas")
    assert atlas.n_features == sae.d_sae and atlas.n_alive > 0
    x = next(store.batches("held_out", 12)).acts.float()
    codes = sae.encode(x)
    latent = int(codes.indices[codes.values.argmax()])
    ones = torch.ones(1, len(x), dtype=torch.bool)
    at = Positions(torch.full((1, len(x)), 9), ones, ~ones, torch.arange(len(x))[None])
    edited = SiteEdits(((sae, (Ablate(sae, latent),)),))(x[None], at)[0]
    expected = x - codes.column(latent)[:, None] * sae.W_dec[latent].detach()
    torch.testing.assert_close(edited, expected, rtol=1e-4, atol=1e-4)
    assert not torch.equal(edited, x)
