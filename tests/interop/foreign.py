"""Small files in every foreign format, written by hand from its description, and what they compute.

Each `write_*` makes a folder or file and gives back its path; `truth` is fp64 arithmetic on the
same numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

D, L, K = 6, 14, 3


def numbers(seed: int = 0) -> dict[str, Tensor]:
    """W_enc, W_dec [L,D] (free norms), b_enc, threshold, r_mag, b_mag [L], b_dec [D]."""
    g = torch.Generator().manual_seed(seed)
    return {
        "W_enc": torch.randn(L, D, generator=g),
        "W_dec": torch.randn(L, D, generator=g),
        "b_enc": torch.randn(L, generator=g) * 0.5,
        "b_dec": torch.randn(D, generator=g),
        "threshold": torch.rand(L, generator=g) * 2,
        "r_mag": torch.randn(L, generator=g) * 0.4,
        "b_mag": torch.randn(L, generator=g) * 0.4,
    }


def activations(n: int = 40, seed: int = 1) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed)) * 3 + 0.7


def truth(
    x: Tensor,
    activation: str,
    *,
    centred: bool = True,
    scale: float = 1.0,
    layer_norm: bool = False,
    by_norm: bool = False,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """(codes, x̂) in fp64, by the definitions alone."""
    w = {n: t.double() for n, t in numbers(seed).items()}
    x = x.double() * scale
    mean, spread = x.mean(1, keepdim=True), x.std(1, keepdim=True)
    seen = (x - mean) / (spread + 1e-5) if layer_norm else x
    product = (seen - w["b_dec"] * centred) @ w["W_enc"].T
    z = product + w["b_enc"]
    if activation == "gated":
        f = (z > 0) * (product * w["r_mag"].exp() + w["b_mag"]).relu()
    elif activation == "topk":
        f = torch.zeros_like(z).scatter(1, z.topk(K, dim=1).indices, 1.0) * z.relu()
    elif activation == "jumprelu":
        size = w["W_dec"].norm(dim=1) if by_norm else 1.0
        f = z * (z * size > w["threshold"])
    elif activation == "batchtopk":
        f = z * (z > 1.25)
    else:
        f = z.relu()
    x_hat = f @ w["W_dec"] + w["b_dec"]
    x_hat = x_hat * spread + mean if layer_norm else x_hat
    return f, x_hat / scale


def put(folder: Path, name: str, tensors: dict[str, Tensor]) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({n: t.contiguous() for n, t in tensors.items()}, path)


def put_json(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def lens_tensors(architecture: str) -> dict[str, Tensor]:
    w = numbers()
    out = {"W_enc": w["W_enc"].T, "W_dec": w["W_dec"], "b_dec": w["b_dec"]}
    if architecture == "gated":
        return out | {"b_gate": w["b_enc"], "b_mag": w["b_mag"], "r_mag": w["r_mag"]}
    out["b_enc"] = w["b_enc"]
    return out | ({"threshold": w["threshold"]} if architecture == "jumprelu" else {})


def write_saelens(folder: Path, architecture: str = "standard", **settings: Any) -> Path:
    cfg = {
        "architecture": architecture, "d_in": D, "d_sae": L, "dtype": "float32",
        "apply_b_dec_to_input": True, "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": "6.54.12", "model_name": "gpt2-small",
            "hook_name": "blocks.4.hook_mlp_out",
        },
        **({"k": K} if architecture == "topk" else {}), **settings,
    }  # fmt: skip
    put_json(folder / "cfg.json", cfg)
    put(folder, "sae_weights.safetensors", lens_tensors(architecture))
    return folder


def write_sparsify(folder: Path, **settings: Any) -> Path:
    w, home = numbers(), folder / "layers.2.mlp"
    cfg = {"activation": "topk", "k": K, "num_latents": L, "d_in": D, "expansion_factor": 32}
    put_json(home / "cfg.json", cfg | settings)
    tensors = {"encoder.weight": w["W_enc"], "encoder.bias": w["b_enc"]}
    put(home, "sae.safetensors", tensors | {"W_dec": w["W_dec"], "b_dec": w["b_dec"]})
    return home


def write_dictionary(folder: Path, kind: str = "BatchTopKSAE", **state: Any) -> Path:
    w = numbers()
    tensors: dict[str, Any] = {
        "encoder.weight": w["W_enc"], "decoder.weight": w["W_dec"].T.contiguous(),
    }  # fmt: skip
    if kind == "GatedAutoEncoder":
        tensors |= {"decoder_bias": w["b_dec"], "gate_bias": w["b_enc"]}
        tensors |= {"mag_bias": w["b_mag"], "r_mag": w["r_mag"]}
    else:
        name = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias"}.get(kind, "b_dec")
        tensors |= {"encoder.bias": w["b_enc"], name: w["b_dec"]}
    if "TopK" in kind:
        tensors |= {"k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(1.25)}
    if kind == "JumpReluAutoEncoder":
        names = ("b_enc", "W_dec", "b_dec", "threshold")
        tensors = {n: w[n] for n in names} | {"W_enc": w["W_enc"].T.contiguous()}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors | state, folder / "ae.pt")
    trainer = {"dict_class": kind, "activation_dim": D, "dict_size": L, "k": K, "layer": 5,
               "lm_name": "EleutherAI/pythia-70m", "submodule_name": "mlp_out_layer_5"}  # fmt: skip
    put_json(folder / "config.json", {"trainer": trainer})
    return folder


def write_openai(folder: Path, *, topk: bool = True) -> Path:
    w = numbers()
    state: dict[str, Any] = {
        "encoder.weight": w["W_enc"], "decoder.weight": w["W_dec"].T.contiguous(),
        "pre_bias": w["b_dec"], "latent_bias": w["b_enc"],
        "stats_last_nonzero": torch.zeros(L, dtype=torch.long),
    }  # fmt: skip
    if topk:
        state |= {"activation": "TopK", "activation_state_dict": {"k": K, "postact_fn": "ReLU"}}
    where = "resid_post_mlp_v5_32k" if topk else "resid_delta_mlp"
    path = folder / "gpt2-small" / where / "autoencoders" / "8.pt"
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    return path


def write_gemma(folder: Path) -> Path:
    w = numbers()
    path = folder / "gemma-scope-9b-it-res" / "layer_9" / "width_16k" / "params.npz"
    path.parent.mkdir(parents=True)
    arrays = {n: w[n].numpy() for n in ("W_dec", "b_enc", "b_dec", "threshold")}
    np.savez(path, W_enc=w["W_enc"].T.contiguous().numpy(), **arrays)
    return path.parent


def write_openmoss(folder: Path, *, legacy: bool = False, **settings: Any) -> Path:
    """legacy: one threshold in raw units and nn.Linear weights; else log thresholds of all."""
    w, hook = numbers(), "blocks.7.hook_attn_out"
    cfg: dict[str, Any] = {
        "d_model": D, "hook_point_in": hook, "hook_point_out": hook, "act_fn": "jumprelu",
        "norm_activation": "dataset-wise", "sparsity_include_decoder_norm": True,
    }  # fmt: skip
    if legacy:
        cfg |= {"d_sae": L, "jump_relu_threshold": 0.9, "sparsity_include_decoder_norm": False,
                "dataset_average_activation_norm": {"in": 4.0, "out": 4.0}}  # fmt: skip
        put_json(folder / "hyperparams.json", cfg | settings)
        tensors = {"encoder.weight": w["W_enc"], "encoder.bias": w["b_enc"]}
        tensors |= {"decoder.weight": w["W_dec"].T, "decoder.bias": w["b_dec"]}
        put(folder, "checkpoints/final.safetensors", tensors)
        return folder
    put_json(
        folder / "config.json", cfg | {"sae_type": "sae", "expansion_factor": L / D} | settings
    )
    tensors = {"W_E": w["W_enc"].T, "b_E": w["b_enc"], "W_D": w["W_dec"], "b_D": w["b_dec"]}
    tensors["activation_function.log_jumprelu_threshold"] = w["threshold"].log()
    tensors[f"dataset_average_activation_norm.{hook}"] = torch.tensor(4.0)
    put(folder, "sae_weights.safetensors", tensors)
    return folder
