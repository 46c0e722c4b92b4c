"""How often latents fire: the distribution of L0 over tokens and of density over latents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from monoscope.evals import tokens
from monoscope.evals.cache import Figures
from monoscope.evals.material import Material
from monoscope.ops.codes import SparseCodes

VERSION = 2
PER_DECADE = 4
_GROUPS = 256
_REPLICATE_BLOCK = 1 << 23
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass
class Counts:
    """Sums over tokens: hits [L], documents in which each latent fired [L], counts of L0 [L+1].

    by_group [G,L] int32, sums [G,2] fp64: hits, and tokens and the sum of values, of documents that
    are dealt to G groups in turn: each its own group, where they are no more than G.
    """

    hits: torch.Tensor
    docs: torch.Tensor
    l0: torch.Tensor
    by_group: torch.Tensor
    sums: torch.Tensor
    n_documents: int = 0

    @classmethod
    def of(cls, d_sae: int) -> Counts:
        zero = torch.zeros(d_sae, dtype=torch.int64)
        n_groups = max(_GROUPS // 8, min(_GROUPS, (1 << 26) // d_sae))
        return cls(
            zero.clone(), zero.clone(), torch.zeros(d_sae + 1, dtype=torch.int64),
            torch.zeros(n_groups, d_sae, dtype=torch.int32),
            torch.zeros(n_groups, 2, dtype=torch.float64),
        )  # fmt: skip

    @property
    def n_tokens(self) -> int:
        return int(self.sums[:, 0].sum())

    @property
    def l1(self) -> float:
        """Sum of all values."""
        return float(self.sums[:, 1].sum())

    def add(self, codes: SparseCodes, doc: torch.Tensor) -> None:
        """Count tokens with their documents [N]; whole documents at a time."""
        fired = codes.values != 0
        latent, row = codes.indices[fired].long().cpu(), codes.rows[fired].cpu()
        self.hits += torch.bincount(latent, minlength=len(self.hits))
        per_token = torch.bincount(row, minlength=codes.n_tokens)
        self.l0 += torch.bincount(per_token, minlength=len(self.l0))
        pairs = torch.unique(doc.cpu()[row] * len(self.hits) + latent)
        self.docs += torch.bincount(pairs % len(self.hits), minlength=len(self.hits))
        names, of = torch.unique(doc.cpu(), return_inverse=True)
        group = (self.n_documents + of) % len(self.sums)
        flat = group[row] * len(self.hits) + latent
        self.by_group.view(-1).index_add_(0, flat, torch.ones(len(flat), dtype=torch.int32))
        values = torch.zeros(codes.n_tokens, dtype=torch.float64)
        values.index_add_(0, codes.rows.cpu(), codes.values.double().cpu())
        table = torch.stack([torch.ones_like(values), values], dim=1)
        self.sums.index_add_(0, group, table)
        self.n_documents += len(names)


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
    ci: 95 % bootstrap over documents (over at most 256 groups of them) of l1, share_over_… and
    mass_over_…. Quantiles and silent latents have none: which latents fire at all in a resample
    depends on how many documents it left out.
    """
    counts = count(material)
    return summary(counts) | {"ci": intervals(counts, material.bootstrap, material.seed)}


def intervals(counts: Counts, n_replicates: int, seed: int) -> Figures:
    """95 % percentile intervals by figure, from resampled groups; empty for no replicates."""
    kept = (counts.sums[:, 0] > 0).nonzero().flatten()
    if not n_replicates or len(kept) < 2:
        return {}
    hits, sums = counts.by_group[kept].float().numpy(), counts.sums[kept].numpy()
    rng = np.random.default_rng(seed)
    block = max(1, _REPLICATE_BLOCK // hits.shape[1])
    held: dict[str, list[np.ndarray]] = {}
    for start in range(0, n_replicates, block):
        n = min(block, n_replicates - start)
        drawn = rng.multinomial(len(kept), np.full(len(kept), 1 / len(kept)), size=n)
        n_tokens, l1 = (drawn @ sums).T
        density = (drawn.astype(np.float32) @ hits) / n_tokens[:, None]
        for name, values in {"l1": l1 / n_tokens, **_over(density)}.items():
            held.setdefault(name, []).append(values)
    joined = {name: np.concatenate(parts) for name, parts in held.items()}
    return {
        name: np.quantile(v, [0.025, 0.975]).tolist() if np.isfinite(v).all() else None
        for name, v in joined.items()
    }


def summary(counts: Counts) -> Figures:
    """What `run` returns, but for the intervals, from counts."""
    n = max(counts.n_tokens, 1)
    density = counts.hits.double().numpy() / n
    alive = density[density > 0]
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
    for name, values in _over(density[None]).items():
        out[name] = float(values[0]) if np.isfinite(values[0]) else None
    return out


def _over(density: np.ndarray) -> dict[str, np.ndarray]:
    """Shares and masses of latents over 1 % and 10 %, [R] of density [R,L]; NaN without firings."""
    firings = density.sum(1, dtype=np.float64)
    out = {}
    for percent in (1, 10):
        over = density > percent / 100
        mass = np.where(over, density, 0).sum(1, dtype=np.float64)
        out[f"share_over_{percent}_percent"] = over.mean(1)
        out[f"mass_over_{percent}_percent"] = np.divide(
            mass, firings, out=np.full(len(density), np.nan), where=firings > 0
        )
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
