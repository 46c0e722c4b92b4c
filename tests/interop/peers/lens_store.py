"""SAELens's own activation store, made from one of our exports: `python lens_store.py FOLDER`.

Prints the settings that it took from the file and the first token of every row it makes, as JSON.
"""

from __future__ import annotations

import json
import sys
import warnings
from types import SimpleNamespace

import torch

warnings.filterwarnings("ignore")

from datasets import Dataset  # noqa: E402
from sae_lens import SAE, ActivationsStore  # noqa: E402

BOS, WORD = 1, 5


class Model(torch.nn.Linear):
    """A tokenizer of one word a token, which is all the store asks for to make rows of tokens."""

    tokenizer = SimpleNamespace(bos_token_id=BOS, eos_token_id=2, sep_token_id=None)

    def to_tokens(self, text: str, **_: object) -> torch.Tensor:
        return torch.tensor([[WORD] * len(text.split())])


if __name__ == "__main__":
    sae = SAE.load_from_disk(sys.argv[1])
    store = ActivationsStore.from_sae(
        Model(1, 1), sae, Dataset.from_list([{"text": "one two three " * 50}] * 4),
        sequence_separator_token=None, store_batch_size_prompts=4,
    )  # fmt: skip
    rows = store.get_batch_tokens(4)
    told = {
        "prepend_bos": store.prepend_bos, "hook_name": store.hook_name,
        "shape": list(rows.shape), "first": rows[:, 0].tolist(),
        "exclude_special_tokens": sae.cfg.metadata.exclude_special_tokens,
        "dataset_path": sae.cfg.metadata.dataset_path,
    }  # fmt: skip
    print(json.dumps(told))
