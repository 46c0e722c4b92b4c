"""Llamascopium (OpenMOSS): what it writes."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

warnings.filterwarnings("ignore")

from common import Answer, D, K, L, activations, main, weights  # noqa: E402
from llamascopium.models.sae import SAEConfig, SparseAutoEncoder  # noqa: E402

HOOK = "blocks.7.hook_resid_post"


def case_of(act_fn: str, *, include: bool, norm: str = "dataset-wise"):
    def case(folder: Path) -> Answer:
        cfg = SAEConfig(
            hook_point_in=HOOK, hook_point_out=HOOK, d_model=D, expansion_factor=L / D,
            act_fn=act_fn, top_k=K, norm_activation=norm, sparsity_include_decoder_norm=include,
        )  # fmt: skip
        sae, w = SparseAutoEncoder(cfg), weights(unit=False)
        sae.W_E.copy_(w["W_enc"].T)
        sae.b_E.copy_(w["b_enc"])
        sae.W_D.copy_(w["W_dec"])
        sae.b_D.copy_(w["b_dec"])
        if act_fn == "jumprelu":
            sae.activation_function.log_jumprelu_threshold.copy_(w["threshold"].log())
        if norm == "dataset-wise":
            sae.set_dataset_average_activation_norm({HOOK: 9.0})
        sae.save_pretrained(folder)
        cfg.save_hyperparameters(folder)
        return ask(SparseAutoEncoder.from_pretrained(str(folder)))

    return case


def ask(sae: SparseAutoEncoder) -> Answer:
    """Raw activations in, raw reconstruction out, as OpenMOSS's own analyses do it."""
    batch, scales = sae.normalize_activations({HOOK: activations()}, return_scale_factor=True)
    codes = sae.encode(batch[HOOK])
    out = sae.denormalize_activations({HOOK: sae.decode(codes)}, scales)
    return codes, out[HOOK]


def read(folder: Path, again: Path) -> None:
    raise NotImplementedError(folder)


WRITE = {
    "openmoss-relu": case_of("relu", include=True),
    "openmoss-jumprelu": case_of("jumprelu", include=False),
    "openmoss-jumprelu-norms": case_of("jumprelu", include=True),
    "openmoss-jumprelu-inference": case_of("jumprelu", include=True, norm="inference"),
    "openmoss-topk": case_of("topk", include=False),
    "openmoss-topk-norms": case_of("topk", include=True),
    "openmoss-topk-token-wise": case_of("topk", include=False, norm="token-wise"),
}

if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main(WRITE, read)
