"""Foreign files, written by hand from their description, compute what fp64 says they should."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest
import torch

import monoscope as ms
from monoscope.artifact.interop import InteropWarning, detect

sys.path.insert(0, str(Path(__file__).parent))
import foreign as f


def agrees(sae, x, codes, x_hat, lost_carriers: int = 0) -> None:
    mine = sae.encode(x)
    dense = mine.to_dense().double()
    if lost_carriers:
        dense = dense[:, :-lost_carriers] / dense[:, -lost_carriers, None]
    assert 0 < float((codes > 0).double().mean()) < 1
    scale = float(codes.abs().max())
    torch.testing.assert_close(dense, codes, rtol=0, atol=1e-5 * scale)
    scale = float(x_hat.abs().max())
    torch.testing.assert_close(sae.decode(mine).double(), x_hat, rtol=0, atol=1e-5 * scale)


S = f.D**0.5 / 4.0  # OpenMOSS: activations of mean norm 4 were brought to √D

CASES = {
    "saelens standard": (lambda p: f.write_saelens(p), "relu", {}),
    "saelens uncentred": (
        lambda p: f.write_saelens(p, apply_b_dec_to_input=False), "relu", {"centred": False},
    ),
    "saelens topk": (lambda p: f.write_saelens(p, "topk"), "topk", {}),
    "saelens jumprelu": (lambda p: f.write_saelens(p, "jumprelu"), "jumprelu", {}),
    "saelens gated": (lambda p: f.write_saelens(p, "gated"), "gated", {}),
    "sparsify": (lambda p: f.write_sparsify(p), "topk", {}),
    "sparsify, expansion factor": (
        lambda p: f.write_sparsify(p, num_latents=0, expansion_factor=f.L / f.D), "topk", {},
    ),
    "AutoEncoder": (lambda p: f.write_dictionary(p, "AutoEncoder"), "relu", {}),
    "AutoEncoderNew": (
        lambda p: f.write_dictionary(p, "AutoEncoderNew"), "relu", {"centred": False},
    ),
    "AutoEncoderTopK": (lambda p: f.write_dictionary(p, "AutoEncoderTopK"), "topk", {}),
    "BatchTopKSAE": (lambda p: f.write_dictionary(p), "batchtopk", {}),
    "JumpRelu": (
        lambda p: f.write_dictionary(p, "JumpReluAutoEncoder"), "jumprelu", {"centred": False},
    ),
    "Gated": (lambda p: f.write_dictionary(p, "GatedAutoEncoder"), "gated", {}),
    "openai relu": (lambda p: f.write_openai(p, topk=False), "relu", {}),
    "openai topk": (f.write_openai, "topk", {"layer_norm": True}),
    "gemma scope": (f.write_gemma, "jumprelu", {"centred": False}),
    "openmoss": (
        f.write_openmoss, "jumprelu", {"centred": False, "scale": S, "by_norm": True},
    ),
    "openmoss, folded": (
        lambda p: f.write_openmoss(p, norm_activation="inference"), "jumprelu",
        {"centred": False, "by_norm": True},
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::monoscope.artifact.interop.InteropWarning")
@pytest.mark.parametrize("case", CASES)
def test_it_computes_what_its_format_says(tmp_path, case):
    write, activation, how = CASES[case]
    sae, x = ms.load_sae(write(tmp_path)), f.activations()
    agrees(sae, x, *f.truth(x, activation, **how), lost_carriers=3 if "layer_norm" in how else 0)


def test_llama_scopes_one_threshold_is_in_raw_units(tmp_path):
    sae, x = ms.load_sae(f.write_openmoss(tmp_path, legacy=True)), f.activations()
    w = {n: t.double() for n, t in f.numbers().items()}
    z = (x.double() * S) @ w["W_enc"].T + w["b_enc"]
    codes = z * (z > 0.9 * S)
    agrees(sae, x, codes, (codes @ w["W_dec"] + w["b_dec"]) / S)


def test_sites_and_models_come_from_wherever_the_format_says_them(tmp_path):
    def said(path):
        origin = ms.load_sae(path).provenance
        return origin.get("site"), (origin.get("model") or {}).get("model")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InteropWarning)
        assert said(f.write_saelens(tmp_path / "a")) == ("mlp_out.4", "gpt2")
        assert said(f.write_sparsify(tmp_path / "b"))[0] == "mlp_out.2"
        assert said(f.write_dictionary(tmp_path / "c")) == ("mlp_out.5", "EleutherAI/pythia-70m")
        assert said(f.write_openai(tmp_path / "d")) == ("resid_post.8", "gpt2")
        assert said(f.write_openai(tmp_path / "e", topk=False)) == ("mlp_out.8", "gpt2")
        assert said(f.write_gemma(tmp_path / "f")) == ("resid_post.9", "google/gemma-2-9b-it")
        assert said(f.write_openmoss(tmp_path / "g"))[0] == "attn_out.7"


def test_a_weight_file_stands_for_its_folder(tmp_path):
    folder = f.write_saelens(tmp_path)
    assert detect(folder / "sae_weights.safetensors") == detect(folder)
    whole = ms.load_sae(folder).W_enc
    assert torch.equal(ms.load_sae(folder / "sae_weights.safetensors").W_enc, whole)


def test_half_precision_arrives_exactly(tmp_path):
    folder = f.write_saelens(tmp_path)
    halves = {n: t.to(torch.bfloat16) for n, t in f.lens_tensors("standard").items()}
    f.put(folder, "sae_weights.safetensors", halves)
    sae = ms.load_sae(folder)
    assert torch.equal(sae.W_dec.detach(), halves["W_dec"].float())
    assert sae.provenance["imported"]["dtype"] == "bfloat16"


@pytest.mark.parametrize("scaler", [True, False])
def test_an_input_scale_is_folded_or_named(tmp_path, scaler):
    folder = f.write_saelens(tmp_path, normalize_activations="expected_average_only_in")
    x = f.activations()
    if scaler:
        f.put_json(folder / "activation_scaler.json", {"scaling_factor": 0.4})
        agrees(ms.load_sae(folder), x, *f.truth(x, "relu", scale=0.4))
        return
    with pytest.warns(InteropWarning, match="without its factor"):
        agrees(ms.load_sae(folder), x, *f.truth(x, "relu"))
    agrees(ms.load_sae(folder, scale=0.4), x, *f.truth(x, "relu", scale=0.4))


def test_legacy_configs_are_flat_and_name_things_otherwise(tmp_path):
    legacy = {
        "model_name": "gpt2-small", "hook_point": "blocks.4.hook_resid_pre", "d_in": f.D,
        "d_sae": f.L, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": f.K},
        "normalize_activations": False, "finetuning_scaling_factor": True,
    }  # fmt: skip
    f.put_json(tmp_path / "cfg.json", legacy)
    factor = torch.linspace(0.5, 2, f.L)
    tensors = f.lens_tensors("topk") | {"scaling_factor": factor}
    f.put(tmp_path, "sae_weights.safetensors", tensors)
    sae, x = ms.load_sae(tmp_path), f.activations()
    codes, _ = f.truth(x, "topk")
    w = f.numbers()
    x_hat = (codes * factor.double()) @ w["W_dec"].double() + w["b_dec"].double()
    agrees(sae, x, codes, x_hat)
    assert sae.provenance["site"] == "resid_pre.4"


def test_abstopk_keeps_its_signs_as_latents_of_their_own(tmp_path):
    f.write_saelens(tmp_path, "topk")
    cfg = tmp_path / "cfg.json"
    cfg.write_text(cfg.read_text().replace('"topk"', '"abstopk"'))
    with pytest.warns(InteropWarning, match="twice as many latents"):
        sae = ms.load_sae(tmp_path)
    w, x = {n: t.double() for n, t in f.numbers().items()}, f.activations()
    z = (x.double() - w["b_dec"]) @ w["W_enc"].T + w["b_enc"]
    codes = torch.zeros_like(z).scatter(1, z.abs().topk(f.K, dim=1).indices, 1.0) * z
    agrees(sae, x, torch.cat([codes.relu(), (-codes).relu()], 1), codes @ w["W_dec"] + w["b_dec"])


def test_a_batchtopk_that_was_never_calibrated_is_named(tmp_path):
    folder = f.write_dictionary(tmp_path, threshold=torch.tensor(-1.0))
    with pytest.warns(InteropWarning, match="never set"):
        sae = ms.load_sae(folder)
    x = f.activations()
    agrees(sae, x, *f.truth(x, "relu"))


@pytest.mark.filterwarnings("ignore::monoscope.artifact.interop.InteropWarning")
def test_a_carried_frame_is_saved_with_the_sae(tmp_path):
    sae, x = ms.load_sae(f.write_openai(tmp_path)), f.activations()
    ms.save_sae(sae, tmp_path / "own")
    back = ms.load_sae(tmp_path / "own")
    assert torch.equal(back.decode(back.encode(x)), sae.decode(sae.encode(x)))
