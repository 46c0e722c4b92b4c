"""What the model loses when x at a site is replaced: cross-entropy and KL by really splicing.

One mask for everything: at tokens that the store's mask policy drops (BOS, padding, norm sinks) the
original activation stays, for the SAE and for every ablation alike, and averages cover only the
predictions made *from* kept tokens whose next token is real and in the same window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from monoscope.evals.bootstrap import Array, DocumentSums, ratio
from monoscope.sites import Site

if TYPE_CHECKING:
    from monoscope.data.masking import MaskPolicy
    from monoscope.data.shards import StoredDoc
    from monoscope.lm.protocol import LM, Hook, Positions

Replace = Callable[[Tensor], Tensor]
"""x [n,D] float32 at kept tokens -> what stands there instead, [n,D]."""

See = Callable[[Tensor, Tensor, Tensor], None]
"""Document [n], position in it [n] and columns [n,C] fp64 of scored predictions, by batch."""

TINY_GAP = 1e-4
"""Nats per token: where an ablation costs no more than this, loss recovered is undefined."""

_MAX_LOGITS = 1 << 25  # B·S·V of one forward pass: 128 MiB in float32
_CHUNK = 16  # tokens whose log-softmax is made at once: small enough to stay in the cache


@dataclass(frozen=True)
class Window:
    """A row of a forward pass: token_ids with the model's prefix in front, from document doc.

    first: position in the document that the row's first column would have, below 0 for a prefix.
    """

    doc: int
    token_ids: tuple[int, ...]
    first: int = 0


def windows(
    docs: Iterable[StoredDoc], prefix_ids: Sequence[int], context_length: int
) -> list[Window]:
    """Documents in the windows they were harvested in: the prefix, then consecutive tokens."""
    step = context_length - len(prefix_ids)
    return [
        Window(
            doc.doc, (*prefix_ids, *doc.token_ids[start : start + step]), start - len(prefix_ids)
        )
        for doc in docs
        for start in range(0, len(doc.token_ids), step)
    ]


def columns(names: Iterable[str]) -> tuple[str, ...]:
    """Names of the sums that `splice` keeps for these replacements."""
    return ("n", "ce_clean", *(f"{kind}_{name}" for name in names for kind in ("ce", "kl")))


def splice(
    lm: LM,
    site: Site,
    policy: MaskPolicy,
    replacements: Mapping[str, Replace],
    rows: Sequence[Window],
    progress: Callable[[int], None] | None = None,
    see: See | None = None,
) -> DocumentSums:
    """Per-document sums of ce_clean and, for every replacement, of its cross-entropy and KL.

    ce = −log p(next token) · kl = Σ_v p_clean (log p_clean − log p_spliced), in nats, both from a
    float32 log-softmax, summed in fp64 over scored predictions; "n" counts them.
    progress: called after each batch with the number of its predictions; see: with what they are.
    """
    out = DocumentSums(columns(replacements))
    for batch in _batches(rows, lm.vocab_size):
        doc, pos, table = _splice_batch(lm, site, policy, replacements, batch)
        out.add(doc, table)
        if see is not None:
            see(doc, pos, table)
        if progress is not None:
            progress(len(doc))
    return out


def losses(sums: Mapping[str, Array], names: Iterable[str]) -> dict[str, Array]:
    """Mean cross-entropies, nats per prediction, as "ce_name"."""
    return {f"ce_{name}": ratio(sums[f"ce_{name}"], sums["n"]) for name in names}


def figures(sums: Mapping[str, Array], name: str) -> dict[str, Array]:
    """Downstream figures of one replacement from sums that also hold "zero" and "mean".

    ce, delta_ce = ce − ce_clean, kl, and loss_recovered = (ce_abl − ce) / (ce_abl − ce_clean) for
    both ablations, undefined where the ablation costs no more than TINY_GAP.
    """
    of = losses(sums, {name, "clean", "zero", "mean"})
    ce, clean, zero, mean = of[f"ce_{name}"], of["ce_clean"], of["ce_zero"], of["ce_mean"]
    return {
        "ce": ce,
        "delta_ce": ce - clean,
        "kl": ratio(sums[f"kl_{name}"], sums["n"]),
        "loss_recovered_zero": ratio(zero - ce, zero - clean, TINY_GAP),
        "loss_recovered_mean": ratio(mean - ce, mean - clean, TINY_GAP),
    }


def _batches(rows: Sequence[Window], vocab_size: int) -> Iterator[list[Window]]:
    """Windows of like length together, so that one pass makes at most _MAX_LOGITS logits."""
    budget = _MAX_LOGITS // vocab_size
    batch: list[Window] = []
    for row in sorted(rows, key=lambda row: -len(row.token_ids)):
        if batch and (len(batch) + 1) * len(batch[0].token_ids) > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _splice_batch(
    lm: LM, site: Site, policy: MaskPolicy, replacements: Mapping[str, Replace], batch: list[Window]
) -> tuple[Tensor, Tensor, Tensor]:
    """Each scored prediction's document and position in it, [n], and its columns, [n,C] fp64."""
    ids, mask = pad(batch, lm.pad_id, lm.device)
    seen: list[Tensor] = []

    def look(x: Tensor, at: Positions) -> Tensor:
        seen.append(policy.keep(at.token_ids, at.mask, x))
        return x

    logits = lm.logits(ids, mask, hooks={site: look})
    keep = seen[0]
    scored = keep.clone()
    scored[:, :-1] &= mask[:, 1:]
    scored[:, -1] = False
    targets = ids.roll(-1, dims=1)[scored]
    clean = _log_softmax(logits[scored])
    del logits
    parts = [torch.ones(len(targets), dtype=torch.float64), _cross_entropy(clean, targets)]
    for replace in replacements.values():
        logits = lm.logits(ids, mask, hooks={site: _hook(replace, keep)})[scored]
        parts += _compare(clean, logits, targets)
    scored = scored.cpu()
    doc = torch.tensor([row.doc for row in batch])[:, None].expand(ids.shape)[scored]
    pos = (torch.tensor([row.first for row in batch])[:, None] + torch.arange(ids.shape[1]))[scored]
    return doc, pos, torch.stack([part.cpu() for part in parts], dim=1)


def _hook(replace: Replace, keep: Tensor) -> Hook:
    """Put `replace` at the kept tokens [B,S] and leave every other as it is."""

    def hook(x: Tensor, at: Positions) -> Tensor:
        out = x.clone()
        if keep.any():
            out[keep] = replace(x[keep]).to(x.dtype)
        return out

    return hook


def pad(batch: list[Window], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Right-padded ids [B,S] and mask [B,S]."""
    lengths = torch.tensor([len(row.token_ids) for row in batch])
    ids = torch.full((len(batch), int(lengths.max())), pad_id, dtype=torch.int64)
    for i, row in enumerate(batch):
        ids[i, : len(row.token_ids)] = torch.tensor(row.token_ids)
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    return ids.to(device), mask.to(device)


def _log_softmax(logits: Tensor) -> Tensor:
    """Float32 log-softmax of [n,V], a chunk of tokens at a time."""
    out = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
    for start in range(0, len(logits), _CHUNK):
        part = slice(start, start + _CHUNK)
        out[part] = F.log_softmax(logits[part].float(), dim=-1)
    return out


def _cross_entropy(log_p: Tensor, targets: Tensor) -> Tensor:
    """−log p(target), [n] fp64."""
    return -log_p.gather(1, targets[:, None])[:, 0].double()


def _compare(clean: Tensor, logits: Tensor, targets: Tensor) -> list[Tensor]:
    """Cross-entropy of spliced logits [n,V], and KL to them from clean log p [n,V]: [n] fp64."""
    ce, kl = [], []
    for start in range(0, len(logits), _CHUNK):
        part = slice(start, start + _CHUNK)
        log_p, log_q = clean[part], F.log_softmax(logits[part].float(), dim=-1)
        ce.append(_cross_entropy(log_q, targets[part]))
        kl.append((log_p.exp() * (log_p - log_q)).sum(-1, dtype=torch.float64))
    empty = torch.zeros(0, dtype=torch.float64, device=logits.device)
    return [torch.cat([empty, *ce]), torch.cat([empty, *kl])]
