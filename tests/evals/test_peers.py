"""FVU, CE, KL and L0 of one SAE by us and by sae_lens.evals.run_evals: equal, or the reason named.

Both sides run the same tiny model and SAE (peers/tiny_model.py). Where they differ on purpose:
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
import torch.nn.functional as F

from monoscope.data.masking import MaskPolicy
from monoscope.evals import reconstruction, saebench, splice
from monoscope.evals.bootstrap import point
from monoscope.evals.material import Material
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
def theirs():
    return peer("lens", "lens_evals.py")


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


def encode(held, x):
    return F.relu((x.double() - held["bias"]) @ held["rows"].T - 0.5)


def x_hat(held, x):
    return encode(held, x) @ held["rows"] + held["bias"]


def downstream(tiny, lm, special, extra_token=False):
    """Our figures over the peer's tokens, each row one window of its own document."""
    ids = tiny.tokens()
    if extra_token:
        ids = torch.cat([ids, torch.zeros(len(ids), 1, dtype=torch.int64)], dim=1)
    rows = [splice.Window(i, tuple(row)) for i, row in enumerate(ids.tolist())]
    replace = {
        "sae": lambda x: x_hat(lm.held, x),
        "zero": torch.zeros_like,
        "mean": torch.zeros_like,
    }
    sums = splice.splice(lm, SITE, MaskPolicy(special), replace, rows).sums().total()
    found = {k: float(v[0]) for k, v in splice.figures(sums, "sae").items()}
    losses = {k: float(v[0]) for k, v in splice.losses(sums, ("clean", "zero")).items()}
    return found | losses | {"kl_zero": float(sums["kl_zero"][0] / sums["n"][0])}


@pytest.mark.parametrize(("name", "special"), [("all", ()), ("masked", MASKED)])
def test_reconstruction_is_the_same(theirs, tiny, lm, name, special):
    seen = []
    ids = tiny.tokens()
    tiny.forward(lm.held, ids, lambda x: seen.append(x) or x)
    keep = MaskPolicy(special).candidates(ids, torch.ones_like(ids, dtype=torch.bool))
    x = seen[0][keep]
    tiles = [(x, torch.zeros(len(x), dtype=torch.int64))]

    def sae(part):
        return x_hat(lm.held, part), (encode(lm.held, part) > 0).sum(1)

    mean = reconstruction.mean_of(tiles)
    sums = reconstruction.measure({"sae": sae}, tiles, mean)["sae"].sums()
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
def test_cross_entropy_is_the_same(theirs, tiny, lm, name, special):
    ours, held = downstream(tiny, lm, special), theirs[name]["model_performance_preservation"]
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
def test_kl_is_the_same_once_the_last_position_counts(theirs, tiny, lm, name, special):
    held = theirs[name]["model_behavior_preservation"]
    assert downstream(tiny, lm, special)["kl"] != pytest.approx(held["kl_div_with_sae"], rel=1e-3)
    ours = downstream(tiny, lm, special, extra_token=True)
    assert ours["kl"] == pytest.approx(held["kl_div_with_sae"], rel=1e-5)
    if name == "all":
        assert ours["kl_zero"] == pytest.approx(held["kl_div_with_ablation"], rel=1e-5)


def test_a_suites_result_is_saebench_output_key_by_key(tmp_path):
    """Read with SAEBench's own class and written again, nothing is lost, added or changed."""
    sae = SAE(SAEConfig(d_in=4, d_sae=6, activation="topk", k=2))
    arguments = SimpleNamespace(context_length=128)
    store = SimpleNamespace(
        identity={"model": "tiny"}, site="resid_post.0", n_tokens=lambda split: 1000,
        manifest=SimpleNamespace(arguments=arguments, corpus={"name": "texts"}, shards=[]),
    )  # fmt: skip
    material = Material(sae=sae, store=store)
    core = dict.fromkeys(
        ("kl", "kl_zero", "ce_zero", "ce_sae", "ce_clean", "loss_recovered_zero", "fvu", "cosine",
         "shrinkage", "l0"), 0.5,
    )  # fmt: skip
    shape = {"max_cosine": {"mean": 0.3}}
    row = dict.fromkeys(
        ("feature_density", "consistent_activation_heuristic", "encoder_bias", "encoder_norm",
         "encoder_decoder_cosine_sim", "max_decoder_cosine_sim", "max_encoder_cosine_sim"), 0.5,
    )  # fmt: skip
    shares = dict.fromkeys(
        ("l1", "share_over_1_percent", "share_over_10_percent", "mass_over_1_percent",
         "mass_over_10_percent", "share_silent"), 0.25,
    )  # fmt: skip
    more = dict.fromkeys(
        ("explained_variance_legacy", "mse", "l2_norm_in", "l2_norm_out",
         "relative_reconstruction_bias"), 0.5,
    )  # fmt: skip
    families = {
        "core": core | {"n_splice_tokens": 9, "n_tokens": 1000},
        "density": shares,
        "geometry": {"encoder": shape, "decoder": shape},
        "saebench": more | {"latents": [{"index": 3, **row}]},
    }
    told = saebench.output(material, "core", families, at_millis=1_700_000_000_000)
    path = tmp_path / "result.json"
    path.write_text(json.dumps(told, allow_nan=False))
    read = peer("bench", "bench_schema.py", path)
    assert read["same"], read
    assert tuple(read["keys"]) == tuple(told) == saebench.KEYS
    assert read["config"] == list(told["eval_config"])
