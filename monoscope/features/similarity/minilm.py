"""all-MiniLM-L6-v2 with plain transformers: texts to unit vectors, means over their tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from monoscope import assets

WIDTH = 384
LONGEST = 256  # tokens, as the model was trained; what is beyond is cut
_BATCH = 32


class MiniLM:
    """The embedder, read from its package (see `assets`), offline, never trained.

    Raises AssetError if the package is altered, or neither installed nor to be fetched.
    """

    name = assets.MINILM.pin

    def __init__(self) -> None:
        from transformers import BertModel, PreTrainedTokenizerFast

        folder = str(assets.minilm_path())
        self._tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        self._model = BertModel.from_pretrained(
            folder, add_pooling_layer=False, local_files_only=True
        ).eval()

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts as rows [n, 384] of length 1: the mean of the last layer over a text's tokens."""
        out = np.zeros((len(texts), WIDTH), np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), _BATCH):
            some = order[start : start + _BATCH]
            given = self._tokenizer(
                [texts[i] for i in some], padding=True, truncation=True, max_length=LONGEST,
                return_tensors="pt",
            )  # fmt: skip
            states = self._model(
                input_ids=given["input_ids"], attention_mask=given["attention_mask"]
            ).last_hidden_state
            mask = given["attention_mask"][..., None].to(states.dtype)
            mean = (states * mask).sum(1) / mask.sum(1)
            out[some] = torch.nn.functional.normalize(mean, dim=1).numpy()
        return out
