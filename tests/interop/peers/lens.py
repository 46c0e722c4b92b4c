"""SAELens, sparsify and dictionary_learning: what they write, and what they make of ours."""

from __future__ import annotations

import json
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

warnings.filterwarnings("ignore")
# dictionary_learning imports nnsight for its activation buffers alone, which nothing here uses
sys.modules["nnsight"] = types.ModuleType("nnsight")
sys.modules["nnsight"].LanguageModel = object  # type: ignore[attr-defined]

import dictionary_learning.dictionary as dl  # noqa: E402
import sae_lens.loading.pretrained_sae_loaders as loaders  # noqa: E402
from common import Answer, D, K, L, activations, main, weights  # noqa: E402
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE  # noqa: E402
from dictionary_learning.trainers.matryoshka_batch_top_k import (  # noqa: E402
    MatryoshkaBatchTopKSAE,
)
from dictionary_learning.trainers.top_k import AutoEncoderTopK  # noqa: E402
from dictionary_learning.utils import load_dictionary  # noqa: E402
from sae_lens import (  # noqa: E402
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
)
from sae_lens.registry import get_sae_class  # noqa: E402
from sparsify import SparseCoder, SparseCoderConfig  # noqa: E402

HOOK = {"model_name": "gpt2-small", "hook_name": "blocks.5.hook_resid_post"}


def ask(sae: torch.nn.Module, x: torch.Tensor) -> Answer:
    codes = sae.encode(x)
    return codes, sae.decode(codes)


def lens_state(architecture: str, *, unit: bool = True) -> dict[str, torch.Tensor]:
    w = weights(unit=unit)
    state = {"W_enc": w["W_enc"].T.contiguous(), "W_dec": w["W_dec"], "b_dec": w["b_dec"]}
    if architecture == "gated":
        return state | {"b_gate": w["b_enc"], "b_mag": w["b_mag"], "r_mag": w["r_mag"]}
    state["b_enc"] = w["b_enc"]
    return state | ({"threshold": w["threshold"]} if architecture == "jumprelu" else {})


def saelens(architecture: str, *, unit: bool = True, **settings: object):
    """An SAE of SAELens's own class, saved by its own save_model."""

    def case(folder: Path) -> Answer:
        cls, config = get_sae_class(architecture)
        about = {"architecture": architecture, "d_in": D, "d_sae": L, "metadata": HOOK, **settings}
        if "topk" in architecture:
            about["k"] = K
        sae = cls(config.from_dict(about))
        sae.load_state_dict({k: v.to(sae.dtype) for k, v in
                             lens_state(architecture, unit=unit).items()})  # fmt: skip
        sae.save_model(folder)
        # in half precision the peer computes in it too; the weights are what is compared
        return ask(SAE.load_from_disk(folder, dtype="float32"), activations())

    return case


def batchtopk(folder: Path) -> Answer:
    """A BatchTopK training SAE, which SAELens saves for inference as a JumpReLU."""
    cfg = BatchTopKTrainingSAEConfig(d_in=D, d_sae=L, k=K, rescale_acts_by_decoder_norm=False)
    sae = BatchTopKTrainingSAE(cfg)
    sae.load_state_dict(lens_state("topk") | {"topk_threshold": torch.tensor(1.25).double()})
    sae.save_inference_model(folder)
    return ask(SAE.load_from_disk(folder), activations())


def checkpoint(cls, config, **settings: object):
    """A training checkpoint as SAELens leaves it; what it computes is said by its own finished SAE.

    With rows that have no unit norm, which the training SAE multiplies its codes by.
    """

    def case(folder: Path) -> Answer:
        sae = cls(config(d_in=D, d_sae=L, k=K, **settings))
        state = lens_state("topk", unit=False) | {"topk_threshold": torch.tensor(1.25).double()}
        sae.load_state_dict(state)
        sae.save_model(folder)
        sae.save_inference_model(folder / "finished")
        return ask(SAE.load_from_disk(folder / "finished"), activations())

    return case


def legacy(folder: Path, **settings: object) -> Answer:
    """A flat config of SAELens 3, beside weights of its own names; read by SAELens 6."""
    cfg = {
        "model_name": "gpt2-small", "hook_point": "blocks.5.hook_resid_pre",
        "hook_point_layer": 5, "d_in": D, "d_sae": L, "dtype": "torch.float32", "device": "cpu",
        "activation_fn_str": "relu", "normalize_activations": False, "context_size": 128,
        **settings,
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(cfg))
    state = lens_state("standard") | {"scaling_factor": torch.ones(L)}
    save_file(state, folder / "sae_weights.safetensors")
    return ask(SAE.load_from_disk(folder), activations())


def legacy_topk(folder: Path) -> Answer:
    return legacy(folder, activation_fn_str="topk", activation_fn_kwargs={"k": K})


def from_hub(loader, folder: Path, repo: str, name: str) -> Answer:
    """What SAELens's hub loader makes of local files, the download replaced by their place."""
    real = loaders.hf_hub_download
    loaders.hf_hub_download = lambda repo_id, filename, subfolder="", **_: str(
        folder / subfolder / filename
    )
    try:
        cfg, state, _ = loader(repo, name, device="cpu", cfg_overrides={"dtype": "float32"})
    finally:
        loaders.hf_hub_download = real
    cfg = loaders.handle_pre_6_0_config(cfg)
    cls, config = get_sae_class(cfg["architecture"])
    sae = cls(config.from_dict(cfg | {"d_sae": L, "d_in": D}))
    sae.load_state_dict(state)
    return sae


def gemma(folder: Path) -> Answer:
    w = weights(unit=False)
    home = folder / "gemma-scope-2b-pt-res" / "layer_20" / "width_16k" / "average_l0_71"
    home.mkdir(parents=True)
    names = ("W_dec", "b_enc", "b_dec", "threshold")
    arrays = {n: w[n].numpy() for n in names} | {"W_enc": w["W_enc"].T.contiguous().numpy()}
    np.savez(home / "params.npz", **arrays)
    name = "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"
    sae = from_hub(
        loaders.gemma_2_sae_huggingface_loader, folder, "google/gemma-scope-2b-pt-res", name
    )
    return ask(sae, activations())


def llama(folder: Path) -> Answer:
    w = weights()
    cfg = {
        "d_model": D, "d_sae": L, "hook_point_in": "blocks.7.hook_resid_post",
        "hook_point_out": "blocks.7.hook_resid_post", "act_fn": "jumprelu",
        "jump_relu_threshold": 1.1, "norm_activation": "dataset-wise",
        "sparsity_include_decoder_norm": True, "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": False,
        "dataset_average_activation_norm": {"in": 9.0, "out": 9.0},
    }  # fmt: skip
    (folder / "checkpoints").mkdir()
    (folder / "hyperparams.json").write_text(json.dumps(cfg))
    state = {
        "encoder.weight": w["W_enc"], "encoder.bias": w["b_enc"],
        "decoder.weight": w["W_dec"].T.contiguous(), "decoder.bias": w["b_dec"],
    }  # fmt: skip
    save_file(state, folder / "checkpoints" / "final.safetensors")
    sae = from_hub(loaders.llama_scope_sae_huggingface_loader, folder, "fnlp/x", ".")
    sae.fold_activation_norm_scaling_factor(D**0.5 / 9.0)
    return ask(sae, activations())


def sparsify(**settings: object):
    def case(folder: Path) -> Answer:
        home = folder / "layers.3"
        coder = SparseCoder(D, SparseCoderConfig(k=K, **settings))
        w = weights()
        n = coder.num_latents
        coder.encoder.weight.data = w["W_enc"][:n].clone()
        coder.encoder.bias.data = w["b_enc"][:n].clone()
        coder.W_dec.data, coder.b_dec.data = w["W_dec"][:n].clone(), w["b_dec"].clone()
        coder.save_to_disk(home)
        return ask_sparsify(SparseCoder.load_from_disk(home), activations())

    return case


def ask_sparsify(coder: SparseCoder, x: torch.Tensor) -> Answer:
    top = coder.encode(x)
    codes = torch.zeros(len(x), coder.num_latents).scatter(1, top.top_indices, top.top_acts)
    return codes, coder.forward(x).sae_out


_DL = {
    "AutoEncoder": (dl.AutoEncoder, ()), "AutoEncoderNew": (dl.AutoEncoderNew, ()),
    "AutoEncoderTopK": (AutoEncoderTopK, (K,)), "BatchTopKSAE": (BatchTopKSAE, (K,)),
    "MatryoshkaBatchTopKSAE": (MatryoshkaBatchTopKSAE, (K, [8, 16, L - 24])),
    "JumpReluAutoEncoder": (dl.JumpReluAutoEncoder, ()),
    "GatedAutoEncoder": (dl.GatedAutoEncoder, ()),
}  # fmt: skip


def dictionary(kind: str):
    def case(folder: Path) -> Answer:
        cls, extra = _DL[kind]
        sae, w = cls(D, L, *extra), weights(unit=kind != "AutoEncoderNew")
        plain = {"W_enc": w["W_enc"].T.contiguous(), **{n: w[n] for n in
                 ("b_enc", "W_dec", "b_dec", "threshold")}}  # fmt: skip
        linear = {
            "encoder.weight": w["W_enc"], "decoder.weight": w["W_dec"].T.contiguous(),
            "encoder.bias": w["b_enc"], "bias": w["b_dec"], "b_dec": w["b_dec"],
            "decoder.bias": w["b_dec"], "decoder_bias": w["b_dec"], "r_mag": w["r_mag"],
            "gate_bias": w["b_enc"], "mag_bias": w["b_mag"],
        }  # fmt: skip
        state = sae.state_dict()
        for name in state:
            if name == "threshold" and state[name].ndim == 0:
                state[name] = torch.tensor(1.25)
            elif name not in ("k", "group_sizes"):
                state[name] = (plain if "W_enc" in state else linear)[name]
        torch.save(state, folder / "ae.pt")
        trainer = {
            "dict_class": kind, "activation_dim": D, "dict_size": L, "layer": 5, "k": K,
            "lm_name": "EleutherAI/pythia-70m-deduped", "submodule_name": "resid_post_layer_5",
        }  # fmt: skip
        (folder / "config.json").write_text(json.dumps({"trainer": trainer}))
        # AutoEncoder's loader normalises the decoder; the rows here have norm 1 already
        return ask(load_dictionary(str(folder), "cpu")[0], activations())

    return case


def read(folder: Path, again: Path):
    if (folder / "sae.safetensors").is_file():
        coder = SparseCoder.load_from_disk(folder)
        coder.save_to_disk(again)
        return lambda x: ask_sparsify(coder, x)
    if (folder / "ae.pt").is_file():
        sae, config = load_dictionary(str(folder), "cpu")
        again.mkdir(parents=True, exist_ok=True)
        torch.save(sae.state_dict(), again / "ae.pt")
        (again / "config.json").write_text(json.dumps(config))
        return lambda x: ask(sae, x)
    loaded = SAE.load_from_disk(folder)
    loaded.save_model(again)
    return lambda x: ask(loaded, x)


WRITE = {
    "saelens-standard": saelens("standard"),
    "saelens-standard-uncentred": saelens("standard", unit=False, apply_b_dec_to_input=False),
    "saelens-topk": saelens("topk"),
    "saelens-topk-bf16": saelens("topk", dtype="bfloat16"),
    "saelens-topk-rescaled": saelens("topk", unit=False, rescale_acts_by_decoder_norm=True),
    "saelens-abstopk": saelens("abstopk"),
    "saelens-jumprelu": saelens("jumprelu"),
    "saelens-jumprelu-uncentred": saelens("jumprelu", apply_b_dec_to_input=False),
    "saelens-gated": saelens("gated"),
    "saelens-gated-uncentred": saelens("gated", apply_b_dec_to_input=False),
    "saelens-standard-layer_norm": saelens("standard", normalize_activations="layer_norm"),
    "saelens-topk-constant_norm": saelens("topk", normalize_activations="constant_norm_rescale"),
    "saelens-batchtopk": batchtopk,
    "saelens-checkpoint-batchtopk": checkpoint(BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig),
    "saelens-checkpoint-matryoshka": checkpoint(
        MatryoshkaBatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAEConfig,
        matryoshka_widths=[8, 24, L],
    ),
    "saelens-legacy": legacy,
    "saelens-legacy-topk": legacy_topk,
    "gemma_scope": gemma,
    "openmoss-llama_scope": llama,
    "sparsify": sparsify(num_latents=L),
    "sparsify-num_latents-0": sparsify(num_latents=0, expansion_factor=2),
    **{f"dictionary_learning-{kind}": dictionary(kind) for kind in _DL},
}

if __name__ == "__main__":
    main(WRITE, read)
