"""A sample of a store for labelling: tokens of whole documents, described, with their codes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from monoscope.features.rule_search import Firings
from monoscope.features.rules import StoredDoc, TokenTable
from monoscope.ops.codes import SparseCodes

if TYPE_CHECKING:
    from monoscope.data.manifest import Split
    from monoscope.data.store import ActivationStore
    from monoscope.sae.model import SAE

OVERSAMPLE = 8  # tokens of shards opened per token sampled, so that a sample spans many documents
ENCODE_BATCH = 4096
_MAX_META_VALUES = 64
_ABOUT_THE_FILE = {"licence", "license", "url", "path"}  # says where a text is from, not what it is

Progress = Callable[[int, int], None]
Hits = tuple[NDArray[np.int64], NDArray[np.float64]]


@dataclass(frozen=True)
class Sample:
    """Tokens of one split with their codes: a table of contexts and where each latent fires."""

    table: TokenTable
    firings: Firings
    doc: NDArray[np.int64]
    pos: NDArray[np.int64]


def draw_sample(
    sae: SAE,
    store: ActivationStore,
    split: Split,
    n_tokens: int,
    *,
    seed: int = 0,
    meta_keys: list[str] | None = None,
    progress: Progress | None = None,
) -> Sample:
    """About n_tokens tokens of whole documents of a split, spread over its shards, with codes.

    meta_keys: metadata to describe tokens by; None takes the keys with few distinct values.
    """
    rng = np.random.default_rng([seed, 0 if split == "train" else 1])
    infos = some_shards(store.shards(split), n_tokens * OVERSAMPLE, rng)
    wanted = min(1.0, n_tokens / max(sum(info.n_tokens for info in infos), 1))
    latents, rows, values, docs, positions = [], [], [], [], []
    done = 0
    for info in infos:
        shard = store.read(info)
        doc, pos = shard.doc.numpy().astype(np.int64), shard.pos.numpy().astype(np.int64)
        kept = _some_documents(doc, wanted, rng)
        for start in range(0, len(kept), ENCODE_BATCH):
            batch = kept[start : start + ENCODE_BATCH]
            codes = _encode(sae, shard.acts[torch.from_numpy(batch)])
            fired = codes.values > 0
            latents.append(codes.indices[fired].numpy().astype(np.int64))
            rows.append(codes.rows[fired].numpy() + done)
            values.append(codes.values[fired].double().numpy())
            done += len(batch)
            if progress is not None:
                progress(min(done, n_tokens), n_tokens)
        docs.append(doc[kept])
        positions.append(pos[kept])
    doc, pos = _joined(docs), _joined(positions)
    documents = store.get_documents(np.unique(doc).tolist())
    keys = _meta_keys(documents) if meta_keys is None else meta_keys
    table = TokenTable.build(documents, doc, pos, keys)
    value = np.concatenate(values) if values else np.zeros(0)
    firings = Firings(_joined(latents), _joined(rows), value, sae.config.d_sae)
    return Sample(table, firings, doc, pos)


def _encode(sae: SAE, acts: torch.Tensor) -> SparseCodes:
    with torch.no_grad():
        codes = sae.encode(acts.to(sae.W_dec.device))
    return SparseCodes(codes.indices.cpu(), codes.values.cpu(), codes.offsets.cpu(), codes.d_sae)


def some_shards(infos: list[Any], n_tokens: int, rng: np.random.Generator) -> list[Any]:
    """Shards in random order until they hold n_tokens, so a large store is not read whole."""
    kept, total = [], 0
    for i in rng.permutation(len(infos)).tolist():
        if total >= n_tokens:
            break
        kept.append(infos[i])
        total += infos[i].n_tokens
    return kept


def _some_documents(
    doc: NDArray[np.int64], share: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Row numbers of random whole documents that make up about `share` of a shard's tokens."""
    ids, lengths = np.unique(doc, return_counts=True)
    order = rng.permutation(len(ids))
    before = np.concatenate([[0], lengths[order].cumsum()[:-1]]) if len(ids) else lengths
    return np.flatnonzero(np.isin(doc, ids[order[before < share * len(doc)]]))


def _meta_keys(documents: Mapping[int, StoredDoc]) -> list[str]:
    """Metadata keys that sort documents into groups; titles and dates name single documents."""
    values: dict[str, set[str]] = {}
    for document in documents.values():
        for key, value in document.meta.items():
            values.setdefault(key, set()).add(value)
    most = min(_MAX_META_VALUES, len(documents) // 3)
    return sorted(
        key
        for key, held in values.items()
        if key not in _ABOUT_THE_FILE
        and 2 <= len(held) <= most
        and all(len(value) <= 40 for value in held)
    )


def by_latent(firings: Firings) -> list[Hits]:
    """The tokens on which each latent fires and its values there, L pairs, in order of token."""
    order = np.argsort(firings.latent, kind="stable")
    cuts = firings.totals.cumsum()[:-1]
    rows, values = np.split(firings.row[order], cuts), np.split(firings.value[order], cuts)
    return list(zip(rows, values, strict=True))


def _joined(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
