"""Stand-ins for the other rooms: a store in memory, a tiny random Llama, a small dense TopK SAE."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from monoscope.data.masking import MaskPolicy
from monoscope.data.norms import NormStats
from monoscope.data.shards import Shard, StoredDoc
from monoscope.lm.protocol import Hook, Positions
from monoscope.ops.codes import SparseCodes
from monoscope.sites import Site

D, V, LAYER = 12, 37, 0
SITE = Site("resid_post", LAYER)
IDENTITY = {"model": "tiny", "weights": "a" * 64, "tokenizer": "b" * 64}


class TinySAE:
    """Dense TopK over random unit rows, with the members that `evaluate` uses."""

    def __init__(self, d_in: int = D, d_sae: int = 30, k: int = 4, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(d_sae, d_in, generator=generator)
        self.W_enc = self.W_dec = rows / rows.norm(dim=1, keepdim=True)
        self.b_dec = torch.randn(d_in, generator=generator) * 0.1
        self.config = SimpleNamespace(d_in=d_in, d_sae=d_sae, k=k)
        self.provenance: dict[str, Any] = {"site": str(SITE), "model": IDENTITY}

    def encode(self, x: Tensor) -> SparseCodes:
        z = (x - self.b_dec) @ self.W_enc.T
        values, indices = z.topk(self.config.k, dim=1)
        return SparseCodes.from_dense(torch.zeros_like(z).scatter(1, indices, values.relu()))

    def decode(self, codes: SparseCodes) -> Tensor:
        return codes.to_dense() @ self.W_dec + self.b_dec


class TinyLM:
    """A one-site LM: logits with hand-placed hooks on the output of one Llama block."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        self.model, self.identity = model, dict(IDENTITY)
        self.vocab_size, self.pad_id, self.device = V, 0, torch.device("cpu")
        self.max_logits = 0

    def width(self, site: Site) -> int:
        assert site == SITE
        return D

    def logits(self, ids: Tensor, mask: Tensor, hooks: Mapping[Site, Hook] | None = None) -> Tensor:
        at = Positions(ids, mask, torch.zeros_like(mask), mask.cumsum(1) - 1)
        handles = [
            self.model.model.layers[site.layer].register_forward_hook(
                lambda module, args, out, hook=hook: hook(out, at)
            )
            for site, hook in (hooks or {}).items()
        ]
        try:
            with torch.no_grad():
                out = self.model(ids, attention_mask=mask.long(), use_cache=False).logits
        finally:
            for handle in handles:
                handle.remove()
        self.max_logits = max(self.max_logits, out.numel())
        return out

    def hidden(self, ids: Tensor) -> Tensor:
        """x [1,S,D] at the site, from the model's own hidden states."""
        with torch.no_grad():
            out = self.model(ids, output_hidden_states=True, use_cache=False)
        return out.hidden_states[LAYER + 1]


class MemoryStore:
    """An ActivationStore whose shards are in memory; rows are made by `add`."""

    def __init__(self, d_in: int = D, context_length: int = 11, shard_docs: int = 5) -> None:
        self.d_in, self.site, self.identity = d_in, str(SITE), dict(IDENTITY)
        self.mask_policy = MaskPolicy((0, 1))
        self.manifest = SimpleNamespace(
            prefix_ids=[1], arguments=SimpleNamespace(context_length=context_length)
        )
        self.shard_docs = shard_docs
        self.rows: dict[str, list[Shard]] = {"train": [], "held_out": []}
        self.docs: dict[int, StoredDoc] = {}

    def add(self, split: str, token_ids: list[int], acts: Tensor, kept: Tensor) -> None:
        doc = len(self.docs)
        self.docs[doc] = StoredDoc(doc, split, "", token_ids, [0] * len(token_ids), {})
        pos = kept.nonzero().flatten()
        ids = torch.tensor(token_ids)[pos]
        self.rows[split].append(Shard(acts[pos], ids, torch.full_like(pos, doc), pos.int()))

    @property
    def norm_stats(self) -> NormStats:
        x = torch.cat([part.acts for part in self.rows["train"]])
        return NormStats(x.mean(0), float(x.norm(dim=1).mean()), float(x.norm(dim=1).median()), 1.0)

    def n_tokens(self, split: str | None = None) -> int:
        splits = [split] if split else list(self.rows)
        return sum(len(part) for s in splits for part in self.rows[s])

    def shards(self, split: str) -> list[tuple[str, int]]:
        return [(split, i) for i in range(0, len(self.rows[split]), self.shard_docs)]

    def read(self, shard: tuple[str, int]) -> Shard:
        parts = self.rows[shard[0]][shard[1] : shard[1] + self.shard_docs]
        names = ("acts", "token_ids", "doc", "pos")
        return Shard(**{n: torch.cat([getattr(p, n) for p in parts]) for n in names})

    def batches(self, split: str, batch_size: int) -> Iterator[Shard]:
        for info in self.shards(split):
            shard = self.read(info)
            for start in range(0, len(shard), batch_size):
                yield shard[start : start + batch_size]

    def get_documents(self, ids: list[int]) -> dict[int, StoredDoc]:
        return {i: self.docs[i] for i in ids}


def tensor_store(x: dict[str, list[Tensor]]) -> MemoryStore:
    """A store whose documents are given as activations, all tokens kept."""
    store = MemoryStore(d_in=x["held_out"][0].shape[1] if x["held_out"] else D)
    for split, docs in x.items():
        for acts in docs:
            store.add(split, [2] * len(acts), acts, torch.ones(len(acts), dtype=torch.bool))
    return store


def lm_store(lm: TinyLM, n_docs: int = 24, seed: int = 0) -> MemoryStore:
    """Random documents harvested from the tiny Llama in windows, sinks masked by a real policy."""
    store = MemoryStore()
    generator = torch.Generator().manual_seed(seed)
    step = store.manifest.arguments.context_length - 1
    docs, acts = [], []
    for _ in range(n_docs):
        length = int(torch.randint(1, 26, (1,), generator=generator))
        ids = torch.randint(2, V, (length,), generator=generator).tolist()
        windows = [ids[i : i + step] for i in range(0, length, step)]
        x = [lm.hidden(torch.tensor([[1, *window]]))[0, 1:] for window in windows]
        docs.append(ids)
        acts.append(torch.cat(x))
    norms = torch.cat(acts).norm(dim=1)
    store.mask_policy = MaskPolicy((0, 1), max_norm=float(norms.quantile(0.9)))
    for i, (ids, x) in enumerate(zip(docs, acts, strict=True)):
        tokens = torch.tensor([ids])
        kept = store.mask_policy.keep(tokens, torch.ones_like(tokens).bool(), x[None])[0]
        store.add("held_out" if i % 2 else "train", ids, x, kept)
    return store


@pytest.fixture(scope="session")
def lm() -> TinyLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=D,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.6,
        pad_token_id=0,
        bos_token_id=1,
    )
    return TinyLM(LlamaForCausalLM(config).eval())


@pytest.fixture(scope="session")
def harvested(lm: TinyLM) -> MemoryStore:
    return lm_store(lm)


@pytest.fixture
def store(harvested: MemoryStore) -> MemoryStore:
    return copy.deepcopy(harvested)


@pytest.fixture
def sae() -> TinySAE:
    return TinySAE()


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """The makers, for tests that need other sizes (test files cannot import this one)."""
    return SimpleNamespace(sae=TinySAE, store=tensor_store, site=SITE, d_in=D)
