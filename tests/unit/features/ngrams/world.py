"""A model whose latents fire on known n-grams, a corpus of random tokens, and what it stores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from monoscope.features.atlas import Atlas
from monoscope.features.index import index
from monoscope.features.labels import label
from monoscope.sae import SAE, SAEConfig
from tests.unit.features.atlas_world import IDENTITY, Doc

END, VOCAB = 0, 40
WORDS = [f" w{i}" for i in range(VOCAB)]
SITE = "resid_post.1"
D = 8
# latent: what it fires on
ONE, EITHER, PAIR, GAPPED, ALWAYS, LONG, DEAD, WEAK = range(D)


def activations(ids: Sequence[int]) -> np.ndarray:
    """x [S, D] of a row of tokens: the ground truth, in a form of its own.

    The first token is a sink, as in real models: it fires nothing and is far too long.
    """
    x = np.zeros((len(ids), D), np.float32)
    for t, token in enumerate(ids):
        before, earlier = (ids[t - 1] if t > 0 else -1), (ids[t - 2] if t > 1 else -1)
        x[t, ONE] = 4.0 * (token == 5)
        x[t, EITHER] = 3.0 * (token == 6) + 2.0 * (token == 7)
        x[t, PAIR] = 5.0 * (token == 9 and before == 8) + 1.0 * (token == 9 and before != 8)
        x[t, GAPPED] = 2.0 * (token == 11 and earlier == 10)
        x[t, ALWAYS] = 1.0 + 0.01 * token
        x[t, LONG] = 3.0 * (token == 12 and t > 12)
        x[t, WEAK] = 1.0 * (token == 13)
    x[0] = 0
    x[0, DEAD] = -1000.0
    return x


class NgramLM:
    """As lm.protocol.LM, as far as capture goes; it has no prefix of its own."""

    name, vocab_size, pad_id = "ngrams", VOCAB, 1
    prefix_ids: tuple[int, ...] = ()
    eos_ids = frozenset({END})
    special_ids = frozenset({END, 1})
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.identity = dict(IDENTITY)
        self.rows: list[tuple[int, ...]] = []

    def width(self, site: object) -> int:
        return D

    def token_text(self, token_id: int) -> str:
        return WORDS[token_id]

    def capture(self, ids: torch.Tensor, mask: torch.Tensor, site: object) -> torch.Tensor:
        rows = [tuple(r[m].tolist()) for r, m in zip(ids, mask, strict=True)]
        self.rows += rows
        out = torch.full((*ids.shape, D), 7.0)  # what padding holds must not matter
        for i, row in enumerate(rows):
            out[i, : len(row)] = torch.from_numpy(activations(row))
        return out


class NgramStore:
    """As data.store.ActivationStore: documents of 60 tokens, the first of each masked."""

    site, d_in, path = SITE, D, "a made-up store"

    def __init__(self, n_docs: int = 90, length: int = 60, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.docs: dict[int, Doc] = {}
        self.all_shards: list[Any] = []
        self.identity = dict(IDENTITY)
        self.mask_policy = SimpleNamespace(to_dict=lambda: POLICY)
        self.norm_stats = SimpleNamespace(mean_norm=2.0, median_norm=1.5)
        self.manifest = SimpleNamespace(
            corpus={"name": "ngrams"}, corpus_fingerprint="f" * 64, attribution=["nobody"]
        )
        for group, ids in enumerate(np.array_split(np.arange(n_docs), 6)):
            split = "held_out" if group % 2 else "train"
            self.all_shards.append(self._shard(ids.tolist(), split, length, rng))

    def _shard(self, numbers: list[int], split: str, length: int, rng: Any) -> Any:
        acts, doc, pos = [], [], []
        for number in numbers:
            ids = rng.integers(2, VOCAB, length)
            for first, second in ((8, 9), (10, -1)):  # some of each n-gram in every document
                for at in rng.integers(1, length - 4, 2).tolist():
                    ids[at] = first
                    ids[at + 1 if second > 0 else at + 2] = second if second > 0 else 11
            tokens = [int(i) for i in ids]
            pieces = [WORDS[i] for i in tokens]
            ends = np.cumsum([len(p) for p in pieces]).tolist()
            self.docs[number] = Doc(number, split, "".join(pieces), tokens, ends, {"lang": "en"})
            acts.append(activations(tokens)[1:])
            doc += [number] * (length - 1)
            pos += range(1, length)
        return SimpleNamespace(
            acts=torch.from_numpy(np.concatenate(acts)), doc=torch.tensor(doc),
            pos=torch.tensor(pos, dtype=torch.int32), split=split, n_tokens=len(doc),
        )  # fmt: skip

    def n_tokens(self, split: str | None = None) -> int:
        return sum(s.n_tokens for s in self.shards(split))

    def shards(self, split: str | None = None) -> list[Any]:
        return [s for s in self.all_shards if split in (None, s.split)]

    def read(self, shard: Any) -> Any:
        return shard

    def get_documents(self, ids: Any) -> dict[int, Doc]:
        return {int(i): self.docs[int(i)] for i in ids}


POLICY = {"special_ids": [END, 1], "sink_ratio": 10.0, "max_norm": 100.0}


def ngram_sae() -> SAE:
    """Reads the activations off as they are."""
    sae = SAE(SAEConfig(d_in=D, d_sae=D, activation="relu", k=None))
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(D))
        sae.W_dec.copy_(torch.eye(D))
    sae.provenance = {"site": SITE, "model": dict(IDENTITY), "mask_policy": POLICY}
    return sae


def ngram_atlas(store: NgramStore, folder: Path) -> Atlas:
    """Its atlas, labelled by rule."""
    return label(index(ngram_sae(), store, None, folder), ngram_sae(), store)
