"""Texts and documents as feature vectors: the mean over kept tokens, in every basis compared.

Bases: "sae" codes [n,L], "random" codes of the frozen random SAE [n,L], "neurons" x itself [n,D],
"pca" x in principal components [n,D]. The mean is over the tokens that the mask policy keeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monoscope.data.manifest import Split
from monoscope.evals import splice
from monoscope.evals.material import Material
from monoscope.ops.codes import SparseCodes

BASES = ("sae", "random", "neurons", "pca")
_BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Pooled:
    """Mean features of n texts: by_basis["sae"] [n,L] float32 and so on; n_tokens [n]."""

    by_basis: dict[str, np.ndarray]
    n_tokens: np.ndarray

    @property
    def x(self) -> np.ndarray:
        """Mean activations [n,D]."""
        return self.by_basis["neurons"]

    def rows(self, which: np.ndarray) -> Pooled:
        """Those texts alone."""
        return Pooled({k: v[which] for k, v in self.by_basis.items()}, self.n_tokens[which])


class Pool:
    """Adds up tokens by text."""

    def __init__(self, material: Material, n_texts: int) -> None:
        d_sae, d_in = material.sae.config.d_sae, material.sae.config.d_in
        self.material = material
        self.sums = {"sae": torch.zeros(n_texts, d_sae), "random": torch.zeros(n_texts, d_sae)}
        self.x = torch.zeros(n_texts, d_in)
        self.counts = torch.zeros(n_texts)

    def add(self, x: Tensor, text: Tensor) -> None:
        """Tokens x [N,D] float32 of the texts numbered text [N]."""
        self.counts += torch.bincount(text, minlength=len(self.counts))
        self.x.index_add_(0, text, x.cpu())
        sae, random = self.material.sae, self.material.random
        _add_codes(self.sums["sae"], sae.encode(x.to(sae.W_dec.device)), text)
        _add_codes(self.sums["random"], random.encode(x), text)

    def pooled(self) -> Pooled:
        """The means; a text without a kept token is all zeros."""
        n = self.counts.clamp_min(1)[:, None]
        x = self.x / n
        found = {name: (total / n).numpy() for name, total in self.sums.items()}
        found["neurons"] = x.numpy()
        centred = x - self.material.mean
        found["pca"] = (centred @ self.material.pca.components).numpy()
        return Pooled(found, self.counts.numpy().astype(np.int64))


def pool_texts(material: Material, texts: Sequence[str], max_tokens: int) -> Pooled:
    """Run the model on each text's first max_tokens tokens, as its own row, and average."""
    lm = material.lm
    assert lm is not None
    prefix = tuple(lm.prefix_ids)
    encoded = [e.ids[:max_tokens] for e in lm.encode(list(texts))]
    rows = [splice.Window(i, (*prefix, *ids)) for i, ids in enumerate(encoded) if ids]
    pool = Pool(material, len(texts))
    for batch in _batches(rows):
        ids, mask = splice.pad(batch, lm.pad_id, lm.device)
        x = lm.capture(ids, mask, material.site).float()
        keep = material.store.mask_policy.keep(ids, mask, x)
        keep[:, : len(prefix)] = False
        text = torch.tensor([row.doc for row in batch])[:, None].expand(ids.shape)
        if keep.any():
            pool.add(x[keep].cpu(), text[keep.cpu()])
    return pool.pooled()


def pool_stored(
    material: Material, split: Split, n_docs: int
) -> tuple[Pooled, list[dict[str, str]]]:
    """Whole stored documents of a split, shards in the seed's order, with their metadata."""
    shards = material.store.shards(split)
    order = np.random.default_rng([material.seed, 4]).permutation(len(shards))
    parts: list[tuple[Tensor, Tensor]] = []
    row: dict[int, int] = {}
    for i in order.tolist():
        shard = material.store.read(shards[i])
        for doc in shard.doc.unique().tolist():
            if len(row) < n_docs:
                row.setdefault(doc, len(row))
        mine = torch.isin(shard.doc, torch.tensor(sorted(row)))
        parts.append(
            (shard.acts[mine].float(), torch.tensor([row[d] for d in shard.doc[mine].tolist()]))
        )
        if len(row) >= n_docs:
            break
    pool = Pool(material, len(row))
    for x, text in parts:
        for tile, owner in zip(x.split(2048), text.split(2048), strict=True):
            pool.add(tile, owner)
    meta = material.store.get_documents(row)
    return pool.pooled(), [meta[doc].meta for doc in row]


def _add_codes(total: Tensor, codes: SparseCodes, text: Tensor) -> None:
    """total[text of the token, latent] += value, for every code."""
    codes_text = text[codes.rows.cpu()]
    flat = codes_text * total.shape[1] + codes.indices.long().cpu()
    total.view(-1).index_add_(0, flat, codes.values.float().cpu())


def _batches(rows: list[splice.Window]) -> Iterable[list[splice.Window]]:
    """Rows of like length together, at most _BATCH_TOKENS tokens a batch."""
    batch: list[splice.Window] = []
    for row in sorted(rows, key=lambda row: -len(row.token_ids)):
        if batch and (len(batch) + 1) * len(batch[0].token_ids) > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
