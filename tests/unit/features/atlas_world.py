"""A small made-up world for the index's tests: documents, a store, an SAE and a language model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from monoscope.ops.codes import SparseCodes

PIECES = [" Paris", " London", " the", "é", "日本", " comparison", "\n", " x", ".", " Rome", " of"]
IDENTITY = {"model": "made-up", "weights": "a" * 64, "tokenizer": "b" * 64}


@dataclass(frozen=True)
class Doc:
    """As data.shards.StoredDoc."""

    doc: int
    split: str
    text: str
    token_ids: list[int]
    ends: list[int]
    meta: dict[str, str]


@dataclass
class FakeStore:
    """As data.store.ActivationStore: `shards_of` splits the rows at the given documents."""

    rows: SimpleNamespace
    docs: dict[int, Doc]
    cuts: list[int] = field(default_factory=list)
    site: str = "resid_post.1"
    identity: dict[str, str] = field(default_factory=lambda: dict(IDENTITY))

    def __post_init__(self) -> None:
        self.d_in = self.rows.acts.shape[1]
        self.mask_policy = SimpleNamespace(to_dict=lambda: {"special_ids": [0], "max_norm": 9.0})
        self.norm_stats = SimpleNamespace(mean_norm=2.0, median_norm=1.5)
        self.manifest = SimpleNamespace(
            corpus={"name": "made up"}, corpus_fingerprint="f" * 64, attribution=["nobody"]
        )
        self.reads = 0

    def n_tokens(self, split: str | None = None) -> int:
        return len(self.rows.doc)

    def shards(self, split: str) -> list[Any]:
        assert split == "train"
        bounds = [0, *np.searchsorted(self.rows.doc.numpy(), self.cuts), len(self.rows.doc)]
        return [
            SimpleNamespace(file=f"shard-{i}", rows=slice(int(a), int(b)))
            for i, (a, b) in enumerate(pairwise(bounds))
        ]

    def read(self, shard: Any) -> Any:
        self.reads += 1
        return SimpleNamespace(
            acts=self.rows.acts[shard.rows],
            doc=self.rows.doc[shard.rows],
            pos=self.rows.pos[shard.rows],
        )

    def get_documents(self, ids: Iterable[int]) -> dict[int, Doc]:
        return {int(i): self.docs[int(i)] for i in ids}


class FakeSAE:
    """k largest of relu(W_enc x): as sae.SAE, on CPU."""

    def __init__(self, d_in: int, d_sae: int, k: int, seed: int = 0) -> None:
        draw = torch.Generator().manual_seed(seed)
        config = {"d_in": d_in, "d_sae": d_sae, "k": k, "activation": "topk"}
        self.config = SimpleNamespace(**config, to_json=lambda: config)
        self.W_enc = torch.randn(d_sae, d_in, generator=draw)
        self.W_dec = torch.randn(d_sae, d_in, generator=draw)
        self.W_enc[3] = 0  # a latent that never fires
        self.b_enc, self.b_dec, self.threshold = torch.zeros(d_sae), torch.zeros(d_in), None
        self.provenance: dict[str, Any] = {"site": "resid_post.1", "model": dict(IDENTITY)}
        self.encoded = 0

    def encode(self, x: torch.Tensor) -> SparseCodes:
        self.encoded += len(x)
        z = x.double() @ self.W_enc.double().T  # fp64, so that batching does not change a bit
        least = z.topk(self.config.k, dim=1).values[:, -1:]
        return SparseCodes.from_dense(torch.where((z >= least) & (z > 0), z, 0).float())


class FakeLM:
    """As lm.protocol.LM, as far as the lens goes."""

    def __init__(self, d_model: int, vocab_size: int = 23, site_width: int | None = None) -> None:
        draw = torch.Generator().manual_seed(5)
        self.d_model, self.vocab_size = d_model, vocab_size
        self.site_width = d_model if site_width is None else site_width
        self.unembed = torch.randn(vocab_size, d_model, generator=draw)
        self.device = torch.device("cpu")
        self.identity = dict(IDENTITY)

    def width(self, site: object) -> int:
        return self.site_width

    def lens(self, directions: torch.Tensor) -> torch.Tensor:
        return directions @ self.unembed.T

    def token_text(self, token_id: int) -> str:
        return f" tok{token_id}"


def make_docs(n_docs: int, seed: int = 0, longest: int = 60) -> dict[int, Doc]:
    """Documents of 1 … longest tokens, numbered with gaps; keys: lang, topic, a unique title."""
    rng = np.random.default_rng(seed)
    docs = {}
    for i in range(n_docs):
        ids = rng.integers(0, len(PIECES), rng.integers(1, longest + 1)).tolist()
        pieces = [PIECES[t] for t in ids]
        meta = {"lang": str(rng.choice(["en", "fr"])), "title": f"title {i}"}
        if rng.random() < 0.7:
            meta["topic"] = str(rng.choice(["art", "law", "sea"]))
        ends = np.cumsum([len(p) for p in pieces]).tolist()
        docs[3 * i] = Doc(3 * i, "train", "".join(pieces), ids, ends, meta)
    return docs


def make_store(n_docs: int = 60, d_in: int = 12, seed: int = 0, longest: int = 60) -> FakeStore:
    """A store of made-up documents in three shards; about one token in eight is masked."""
    docs = make_docs(n_docs, seed, longest)
    rng = np.random.default_rng(seed + 1)
    doc = np.concatenate([[d.doc] * len(d.ends) for d in docs.values()])
    pos = np.concatenate([np.arange(len(d.ends)) for d in docs.values()])
    kept = rng.random(len(doc)) > 1 / 8
    acts = torch.from_numpy(rng.standard_normal((int(kept.sum()), d_in))).float()
    rows = SimpleNamespace(
        acts=acts,
        doc=torch.from_numpy(doc[kept].astype(np.int64)),
        pos=torch.from_numpy(pos[kept].astype(np.int32)),
    )
    return FakeStore(rows, docs, cuts=[n_docs, 2 * n_docs])
