"""SAEBench's core evaluation of one of our SAEs, on given tokens of a model saved on disk.

`python bench.py SAE MODEL TOKENS.safetensors OUT.json`, with monoscope on the path. SAEBench's own
loaders want a hub; its run_evals takes any model and token source with the members used here.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

warnings.filterwarnings("ignore")

from sae_bench.evals.core.eval_config import CoreEvalConfig  # noqa: E402
from sae_bench.evals.core.main import run_evals  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

import monoscope as ms  # noqa: E402
from monoscope.interop import saebench  # noqa: E402


class Model:
    """A Hugging Face model with the three calls that SAEBench makes of a HookedTransformer."""

    def __init__(self, folder: str) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def __call__(self, tokens: Tensor, **_: object) -> tuple[Tensor, Tensor]:
        logits = self.model(tokens, use_cache=False).logits.float()
        log_p = logits[:, :-1].log_softmax(-1)
        return logits, -log_p.gather(-1, tokens[:, 1:, None])[..., 0]

    def run_with_cache(self, tokens: Tensor, names_filter: list[str], **_: object):
        seen: dict[str, Tensor] = {}
        name = names_filter[0]
        with self._hook(name, lambda x, hook: seen.update({name: x})):
            self.model.model(tokens, use_cache=False)
        return None, seen

    def run_with_hooks(self, tokens: Tensor, fwd_hooks: list, **_: object):
        name, edit = fwd_hooks[0]
        with self._hook(name, edit):
            return self(tokens)

    def _hook(self, name: str, edit):
        """After the block that TransformerLens names blocks.N.hook_resid_post."""
        number = int(name.removeprefix("blocks.").removesuffix(".hook_resid_post"))

        def after(module: object, args: object, out):
            x = out[0] if isinstance(out, tuple) else out
            new = edit(x, hook=None)
            if new is None:
                return out
            return (new, *out[1:]) if isinstance(out, tuple) else new

        return self.model.model.layers[number].register_forward_hook(after)


class Tokens:
    """The batches of tokens that SAEBench asks its ActivationsStore for."""

    def __init__(self, tokens: Tensor, batch: int) -> None:
        self.tokens, self.batch, self.at = tokens, batch, 0
        self.context_size, self.store_batch_size_prompts = tokens.shape[1], batch

    def get_batch_tokens(self, n: int) -> Tensor:
        part = self.tokens[self.at : self.at + n]
        self.at += n
        return part

    def reset_input_dataset(self) -> None:
        self.at = 0


@torch.no_grad()
def main(sae: str, model: str, tokens: str, out: str) -> None:
    rows = load_file(tokens)
    batch = 4
    n_batches = len(rows["tokens"]) // batch
    config = CoreEvalConfig(
        model_name="local", batch_size_prompts=batch, n_eval_reconstruction_batches=n_batches,
        n_eval_sparsity_variance_batches=n_batches, compute_featurewise_density_statistics=True,
        compute_kl=True, compute_ce_loss=True, compute_l2_norms=True,
        compute_sparsity_metrics=True, compute_variance_metrics=True,
        exclude_special_tokens_from_reconstruction=True,
    )  # fmt: skip
    metrics, _ = run_evals(
        sae=saebench(ms.load_sae(sae), model_name="local"),
        activation_store=Tokens(rows["tokens"], batch),
        model=Model(model),
        eval_config=config,
        ignore_tokens=set(rows["ignored"].tolist()),
    )
    Path(out).write_text(json.dumps(metrics))


if __name__ == "__main__":
    main(*sys.argv[1:])
