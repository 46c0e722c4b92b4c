"""How often latents fire: the distribution of L0 over tokens and of density over latents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from monoscope.evals import tokens
from monoscope.evals.cache import Figures
from monoscope.evals.material import Material
from monoscope.ops.codes import SparseCodes

VERSION = 1
PER_DECADE = 4
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass
class Counts:
    """Sums over tokens: hits [L] and value sums [L], documents in which each fired, L0 counts."""

    hits: torch.Tensor
    docs: torch.Tensor
    l0: torch.Tensor
    l1: float = 0.0
    n_tokens: int = 0
    n_documents: int = 0

    @classmethod
    def of(cls, d_sae: int) -> Counts:
        zero = torch.zeros(d_sae, dtype=torch.int64)
        return cls(zero.clone(), zero.clone(), torch.zeros(d_sae + 1, dtype=torch.int64))

    def add(self, codes: SparseCodes, doc: torch.Tensor) -> None:
        """Count tokens with their documents [N]; whole documents at a time."""
        fired = codes.values != 0
        latent, row = codes.indices[fired].long().cpu(), codes.rows[fired].cpu()
        self.hits += torch.bincount(latent, minlength=len(self.hits))
        per_token = torch.bincount(row, minlength=codes.n_tokens)
        self.l0 += torch.bincount(per_token, minlength=len(self.l0))
        pairs = torch.unique(doc.cpu()[row] * len(self.hits) + latent)
        self.docs += torch.bincount(pairs % len(self.hits), minlength=len(self.hits))
        self.l1 += float(codes.values.double().sum())
        self.n_tokens += codes.n_tokens
        self.n_documents += len(doc.unique())


def count(material: Material) -> Counts:
    """The codes of all held-out tokens, counted; a document lies within one shard."""
    counts = Counts.of(material.sae.config.d_sae)
    for shard in material.store.shards("held_out"):
        rows = material.store.read(shard)
        for start, stop in _whole_documents(rows.doc):
            x = rows.acts[start:stop].float().to(material.sae.W_dec.device)
            counts.add(material.sae.encode(x), rows.doc[start:stop])
    return counts


def run(material: Material) -> Figures:
    """Quantiles and histograms; densities are shares of tokens, dead latents counted apart.

    share_over_1_percent: of latents that fire on more than 1 % of tokens. mass_over_1_percent:
    their share of all firings. A histogram's bin i of log10 density starts at 10^(first+i/4).
    """
    return summary(count(material))


def summary(counts: Counts) -> Figures:
    """What `run` returns, from counts."""
    n = max(counts.n_tokens, 1)
    density = counts.hits.double().numpy() / n
    alive = density[density > 0]
    firings = density.sum()
    out: Figures = {
        "n_tokens": counts.n_tokens,
        "n_documents": counts.n_documents,
        "l1": counts.l1 / n,
        "n_silent": int((density == 0).sum()),
        "share_silent": float((density == 0).mean()),
        "l0_quantiles": _l0_quantiles(counts),
        "l0_histogram": _trim(counts.l0.tolist()),
        "density_quantiles": {
            f"{q:g}": float(np.quantile(alive, q)) if len(alive) else None for q in _QUANTILES
        },
        "density_histogram": log_histogram(alive),
    }
    for percent in (1, 10):
        over = density[density > percent / 100]
        out[f"share_over_{percent}_percent"] = len(over) / len(density)
        out[f"mass_over_{percent}_percent"] = float(over.sum() / firings) if firings else None
    return out


def log_histogram(alive: np.ndarray) -> Figures:
    """Counts of positive values in equal steps of log10."""
    if not len(alive):
        return {"first": None, "per_decade": PER_DECADE, "counts": []}
    steps = np.floor(PER_DECADE * np.log10(alive)).astype(int)
    counts = np.bincount(steps - steps.min())
    return {
        "first": float(steps.min()) / PER_DECADE,
        "per_decade": PER_DECADE,
        "counts": counts.tolist(),
    }


def _l0_quantiles(counts: Counts) -> Figures:
    """Quantiles of L0 over tokens: the smallest L0 that a share q of tokens does not exceed."""
    cumulative = np.cumsum(counts.l0.numpy())
    if not counts.n_tokens:
        return {f"{q:g}": None for q in _QUANTILES}
    ranks = [max(1, int(np.ceil(q * counts.n_tokens))) for q in _QUANTILES]
    at = [int(np.searchsorted(cumulative, rank)) for rank in ranks]
    return {f"{q:g}": value for q, value in zip(_QUANTILES, at, strict=True)}


def _trim(values: list[int]) -> list[int]:
    last = max((i for i, value in enumerate(values) if value), default=-1)
    return values[: last + 1]


def _whole_documents(doc: torch.Tensor) -> list[tuple[int, int]]:
    """Runs of whole documents of about TILE tokens each; doc is sorted."""
    starts = [0, *((doc[1:] != doc[:-1]).nonzero().flatten() + 1).tolist()] if len(doc) else []
    runs: list[tuple[int, int]] = []
    begin = 0
    for start in starts[1:]:
        if start - begin >= tokens.TILE:
            runs.append((begin, start))
            begin = start
    return [*runs, (begin, len(doc))] if len(doc) else []
