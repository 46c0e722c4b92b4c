"""FVU, CE, KL and L0 of one SAE by us and by sae_lens.evals.run_evals: equal, or the reason named.

An SAE of ours is exported, loaded by SAELens, and encodes the same tokens of the same tiny model
(peers/tiny_model.py) on both sides, each by its own SAE.encode. Where they differ on purpose:
- KL: theirs also averages over the last position of a row, which predicts nothing; ours is over
  the predictions that cross-entropy is over.
- Loss recovered where ablation does not raise the loss: theirs is a number, ours is null.
- Zero ablation with a mask: theirs zeroes every token, the masked ones too; ours leaves the masked
  ones as they are, so that SAE and ablation change the same tokens.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from monoscope.artifact.interop.export import export_sae
from monoscope.data.masking import MaskPolicy
from monoscope.evals import reconstruction, splice
from monoscope.evals.bootstrap import point
from monoscope.lm.protocol import Positions
from monoscope.sae import SAE, SAEConfig
from monoscope.sites import Site

pytestmark = pytest.mark.peers
ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent / "peers"
SITE = Site("resid_post", 0)
MASKED = (3, 5)


def peer(name: str, script: str, *args: object):
    """What a script of peers/ prints last, run in the environment `name`."""
    python = ROOT / f".venv-peers-{name}" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no .venv-peers-{name}: run make test-peers")
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [python, HERE / script, *map(str, args)], capture_output=True, text=True, env=env
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def tiny():
    spec = importlib.util.spec_from_file_location("tiny_model", HERE / "tiny_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def lm(tiny):
    held = tiny.weights()

    def logits(ids, mask, hooks=None):
        at = Positions(ids, mask, torch.zeros_like(mask), mask.cumsum(1) - 1)

        def edit(x):
            for hook in (hooks or {}).values():
                x = hook(x, at)
            return x

        return tiny.forward(held, ids, edit)

    return SimpleNamespace(
        logits=logits, vocab_size=tiny.V, pad_id=0, device=torch.device("cpu"), held=held
    )


@pytest.fixture(scope="module")
def sae(tiny):
    """An SAE of ours on the tiny model: rows tied, relu, a bias."""
    held = tiny.weights()
    made = SAE(
        SAEConfig(d_in=tiny.D, d_sae=tiny.L, activation="relu", k=None),
        {
            "site": str(SITE), "model": {"model": "owner/tiny"}, "context_length": tiny.S,
            "prefix_ids": [], "corpus": {"kind": "hub", "name": "owner/texts"},
            "mask_policy": MaskPolicy(()).to_dict(),
        },
    )  # fmt: skip
    with torch.no_grad():
        made.W_enc.copy_(held["rows"])
        made.W_dec.copy_(held["rows"])
        made.b_enc.fill_(-0.5)
        made.b_dec.copy_(held["bias"])
    return made


@pytest.fixture(scope="module")
def theirs(sae, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sae") / "lens"
    export_sae(sae, folder, "saelens")
    return peer("lens", "lens_evals.py", folder)


def codes_of(sae, x):
    return sae.encode(x.reshape(-1, x.shape[-1]).float())


def x_hat(sae, x):
    return sae.decode(codes_of(sae, x)).reshape(x.shape).to(x.dtype)


def downstream(tiny, lm, sae, special, extra_token=False):
    """Our figures over the peer's tokens, each row one window of its own document."""
    ids = tiny.tokens()
    if extra_token:
        ids = torch.cat([ids, torch.zeros(len(ids), 1, dtype=torch.int64)], dim=1)
    rows = [splice.Window(i, tuple(row)) for i, row in enumerate(ids.tolist())]
    replace = {
        "sae": lambda x: x_hat(sae, x),
        "zero": torch.zeros_like,
        "mean": torch.zeros_like,
    }
    sums = splice.splice(lm, SITE, MaskPolicy(special), replace, rows).sums().total()
    found = {k: float(v[0]) for k, v in splice.figures(sums, "sae").items()}
    losses = {k: float(v[0]) for k, v in splice.losses(sums, ("clean", "zero")).items()}
    return found | losses | {"kl_zero": float(sums["kl_zero"][0] / sums["n"][0])}


@pytest.mark.parametrize(("name", "special"), [("all", ()), ("masked", MASKED)])
def test_reconstruction_is_the_same(theirs, tiny, lm, sae, name, special):
    seen = []
    ids = tiny.tokens()
    tiny.forward(lm.held, ids, lambda x: seen.append(x) or x)
    keep = MaskPolicy(special).candidates(ids, torch.ones_like(ids, dtype=torch.bool))
    x = seen[0][keep]
    tiles = [(x, torch.zeros(len(x), dtype=torch.int64))]

    def ours_of(part):
        return x_hat(sae, part), codes_of(sae, part).l0

    mean = reconstruction.mean_of(tiles)
    sums = reconstruction.measure({"sae": ours_of}, tiles, mean)["sae"].sums()
    ours, held = point(sums, reconstruction.figures), theirs[name]
    assert 1 - ours["fvu"] == pytest.approx(
        held["reconstruction_quality"]["explained_variance"], rel=1e-6
    )
    assert ours["cosine"] == pytest.approx(held["reconstruction_quality"]["cossim"], rel=1e-6)
    assert ours["l0"] == pytest.approx(held["sparsity"]["l0"], rel=1e-6)
    # l2_ratio: theirs is a mean of ratios, ours a ratio of sums
    assert ours["shrinkage"] != pytest.approx(held["shrinkage"]["l2_ratio"], rel=1e-3)
    norms = held["shrinkage"]
    assert ours["shrinkage"] == pytest.approx(norms["l2_norm_out"] / norms["l2_norm_in"], rel=1e-6)


@pytest.mark.parametrize(("name", "special"), [("all", ()), ("masked", MASKED)])
def test_cross_entropy_is_the_same(theirs, tiny, lm, sae, name, special):
    ours, held = downstream(tiny, lm, sae, special), theirs[name]["model_performance_preservation"]
    assert ours["ce_clean"] == pytest.approx(held["ce_loss_without_sae"], rel=1e-5)
    assert ours["ce"] == pytest.approx(held["ce_loss_with_sae"], rel=1e-5)
    if name == "all":
        assert ours["ce_zero"] == pytest.approx(held["ce_loss_with_ablation"], rel=1e-5)
        # untrained, so ablation lowers the loss and there is none to recover: theirs says 0.96
        assert ours["ce_zero"] < ours["ce_clean"] and math.isnan(ours["loss_recovered_zero"])
        assert held["ce_loss_score"] > 0.9
    else:  # theirs zeroes the masked tokens as well
        assert ours["ce_zero"] != pytest.approx(held["ce_loss_with_ablation"], rel=1e-4)


@pytest.mark.parametrize(("name", "special"), [("all", ()), ("masked", MASKED)])
def test_kl_is_the_same_once_the_last_position_counts(theirs, tiny, lm, sae, name, special):
    held = theirs[name]["model_behavior_preservation"]
    assert downstream(tiny, lm, sae, special)["kl"] != pytest.approx(
        held["kl_div_with_sae"], rel=1e-3
    )
    ours = downstream(tiny, lm, sae, special, extra_token=True)
    assert ours["kl"] == pytest.approx(held["kl_div_with_sae"], rel=1e-5)
    if name == "all":
        assert ours["kl_zero"] == pytest.approx(held["kl_div_with_ablation"], rel=1e-5)
