"""SAELens' run_evals of an SAE that monoscope exported, on the tiny model; its metrics as JSON.

`python lens_evals.py FOLDER`: without and with a mask, through SAELens's own SAE.encode.
"""

from __future__ import annotations

import json
import sys
import warnings

import torch
import torch.nn.functional as F

warnings.filterwarnings("ignore")

import tiny_model  # noqa: E402
from sae_lens import SAE  # noqa: E402
from sae_lens.evals import EvalConfig, run_evals  # noqa: E402
from sae_lens.training.activation_scaler import ActivationScaler  # noqa: E402

HELD = tiny_model.weights()


class Model:
    """As much of a hooked model as run_evals uses."""

    tokenizer = None

    def __init__(self, hook):
        self.hook = hook

    def __call__(self, ids, return_type="both", loss_per_token=True, **_):
        return self.run_with_hooks(ids, fwd_hooks=[])

    def run_with_hooks(self, ids, fwd_hooks=(), **_):
        def edit(x):
            for _, hook in fwd_hooks:
                x = hook(x, None).to(x.dtype)  # the SAE is float32, the model float64
            return x

        logits = tiny_model.forward(HELD, ids, edit)
        log_p = F.log_softmax(logits, dim=-1)[:, :-1]
        return logits, -log_p.gather(2, ids[:, 1:, None])[..., 0]

    def run_with_cache(self, ids, **_):
        seen = {}

        def look(x):
            seen[self.hook] = x
            return x

        return tiny_model.forward(HELD, ids, look), seen


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
    sae, told = SAE.load_from_disk(sys.argv[1]), {}
    model = Model(sae.cfg.metadata.hook_name)
    for name, ignored in (("all", []), ("masked", [3, 5])):
        with torch.no_grad():
            metrics, _ = run_evals(
                sae, Store(), model, ActivationScaler(), config,
                exclude_special_tokens=ignored or False,
            )  # fmt: skip
        told[name] = metrics
    print(json.dumps(told))


if __name__ == "__main__":
    main()
