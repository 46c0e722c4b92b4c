"""SAELens' run_evals on the tiny model: prints its metrics as JSON, without and with a mask."""

from __future__ import annotations

import json
import warnings
from types import SimpleNamespace

import torch
import torch.nn.functional as F

warnings.filterwarnings("ignore")

import tiny_model  # noqa: E402
from sae_lens.evals import EvalConfig, run_evals  # noqa: E402
from sae_lens.training.activation_scaler import ActivationScaler  # noqa: E402

HOOK = "x"
HELD = tiny_model.weights()


class Model:
    """As much of a hooked model as run_evals uses."""

    tokenizer = None

    def __call__(self, ids, return_type="both", loss_per_token=True, **_):
        return self.run_with_hooks(ids, fwd_hooks=[])

    def run_with_hooks(self, ids, fwd_hooks=(), **_):
        def edit(x):
            for _, hook in fwd_hooks:
                x = hook(x, None)
            return x

        logits = tiny_model.forward(HELD, ids, edit)
        log_p = F.log_softmax(logits, dim=-1)[:, :-1]
        return logits, -log_p.gather(2, ids[:, 1:, None])[..., 0]

    def run_with_cache(self, ids, **_):
        seen = {}

        def look(x):
            seen[HOOK] = x
            return x

        return tiny_model.forward(HELD, ids, look), seen


class SAE:
    """The tiny SAE with SAELens' members: relu, rows tied."""

    device = torch.device("cpu")
    cfg = SimpleNamespace(
        metadata=SimpleNamespace(hook_name=HOOK, hook_head_index=None), d_sae=tiny_model.L
    )
    W_enc, W_dec = HELD["rows"].T, HELD["rows"]
    b_enc = torch.zeros(tiny_model.L, dtype=torch.float64)

    def encode(self, x):
        return F.relu((x - HELD["bias"]) @ self.W_enc - 0.5)

    def decode(self, codes):
        return codes @ self.W_dec + HELD["bias"]


class Store:
    """Gives the same batch of tokens, again and again."""

    store_batch_size_prompts, context_size = tiny_model.B, tiny_model.S

    def get_batch_tokens(self, _):
        return tiny_model.tokens()

    def reset_input_dataset(self):
        pass


def main() -> None:
    config = EvalConfig(
        batch_size_prompts=tiny_model.B, n_eval_reconstruction_batches=1,
        n_eval_sparsity_variance_batches=1, compute_kl=True, compute_ce_loss=True,
        compute_l2_norms=True, compute_sparsity_metrics=True, compute_variance_metrics=True,
    )  # fmt: skip
    told = {}
    for name, ignored in (("all", []), ("masked", [3, 5])):
        with torch.no_grad():
            metrics, _ = run_evals(
                SAE(), Store(), Model(), ActivationScaler(), config,
                exclude_special_tokens=ignored or False,
            )  # fmt: skip
        told[name] = metrics
    print(json.dumps(told))


if __name__ == "__main__":
    main()
