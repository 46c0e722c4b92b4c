"""Feature splitting: which latents of a larger SAE a latent of a smaller one has become."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from monoscope.artifact.checks import check_together
from monoscope.errors import ConfigError, MismatchError
from monoscope.features.compare import nearest_links
from monoscope.files import atomic_path

if TYPE_CHECKING:
    from monoscope.data.store import ActivationStore
    from monoscope.sae import SAE

TILE_TOKENS = 4096
COLUMNS = pa.schema([
    ("child", pa.int64()), ("parent", pa.int64()), ("cosine", pa.float64()),
    ("n_child", pa.int64()), ("n_parent", pa.int64()), ("n_both", pa.int64()),
    ("parent_given_child", pa.float64()), ("contingency", pa.float64()),
    ("parent_by_firing", pa.int64()), ("contingency_by_firing", pa.float64()),
    ("n_siblings", pa.int64()), ("chance", pa.float64()),
])  # fmt: skip
_Counts = NDArray[np.int64]


def splitting(
    small: SAE,
    large: SAE,
    store: ActivationStore,
    *,
    n_tokens: int = 65_536,
    out: str | Path | None = None,
    seed: int = 0,
) -> pa.Table:
    """The family tree of two SAEs of one store: a row for each living latent of the larger.

    parent: the living latent of the smaller with the nearest decoder direction, at `cosine`.
    n_child, n_parent, n_both: tokens, of the first n_tokens train ones, on which they fire.
    contingency ΔP = P(parent fires | child fires) − P(parent fires | child silent).
    parent_by_firing: the latent of the smaller with the highest ΔP, whatever its direction; where
    both agree, the child is a part of the parent in direction and in use.  n_siblings: children
    with the same parent, this one among them.  chance: the cosine that 99 % of random directions,
    drawn as the larger's rows lie, stay below; the same on every row.
    out: a Parquet file to write the table to.

    Raises ConfigError if `small` is not the smaller, MismatchError if the SAEs are not of this
    store or no latent fires.
    """
    if small.d_sae >= large.d_sae:
        raise ConfigError(
            "splitting goes from a smaller SAE to a larger",
            got=f"d_sae {small.d_sae} and {large.d_sae}",
        )
    for sae in (small, large):
        check_together(sae, store, None)
    n, n_small, n_large, both = _count(small, large, store, n_tokens)
    alive, children = np.flatnonzero(n_small), np.flatnonzero(n_large)
    if not (len(alive) and len(children)):
        raise MismatchError("no latent of one of the SAEs fires on this store", got=f"{n} tokens")
    W_small, W_large = (sae.W_dec.detach().float().cpu().numpy() for sae in (small, large))
    links = nearest_links(W_large, W_small, children, alive, seed=seed)
    parents = links.to_b
    together = np.asarray(both[parents, children]).ravel().astype(np.int64)
    firing, best = _by_firing(both, n_small, n_large, n)
    named = np.bincount(parents, minlength=small.d_sae)
    table = pa.table(
        {
            "child": children, "parent": parents, "cosine": links.cos_a.astype(float),
            "n_child": n_large[children], "n_parent": n_small[parents], "n_both": together,
            "parent_given_child": together / n_large[children],
            "contingency": _contingency(together, n_small[parents], n_large[children], n),
            "parent_by_firing": pa.array(firing[children], mask=firing[children] < 0),
            "contingency_by_firing": pa.array(best[children], mask=firing[children] < 0),
            "n_siblings": named[parents], "chance": np.full(len(children), links.chance),
        },
        schema=COLUMNS,
    )  # fmt: skip
    if out is not None:
        with atomic_path(out) as part:
            pq.write_table(table, part)
    return table


def _count(
    small: SAE, large: SAE, store: ActivationStore, n_tokens: int
) -> tuple[int, _Counts, _Counts, csr_array]:
    """Tokens, firings of either side, and how often each pair fires together [L_small, L_large]."""
    n = 0
    n_small, n_large = np.zeros(small.d_sae, np.int64), np.zeros(large.d_sae, np.int64)
    both = csr_array((small.d_sae, large.d_sae), dtype=np.int64)
    for rows in store.batches("train", TILE_TOKENS):
        x = rows.acts[: n_tokens - n]
        a, b = _fired(small, x), _fired(large, x)
        n_small += a.sum(0)
        n_large += b.sum(0)
        both = both + a.T.tocsr() @ b
        n += x.shape[0]
        if n >= n_tokens:
            break
    return n, n_small, n_large, both


def _fired(sae: SAE, x: torch.Tensor) -> csr_array:
    """Which latents fire on which tokens [N, L], as ones."""
    codes = sae.encode(x.to(sae.W_dec.device))
    found = csr_array(
        ((codes.values > 0).cpu().numpy().astype(np.int64), codes.indices.cpu().numpy(),
         codes.offsets.cpu().numpy()),
        shape=(x.shape[0], sae.d_sae),
    )  # fmt: skip
    found.eliminate_zeros()
    return found


def _contingency(both: _Counts, parent: _Counts, child: _Counts, n: int) -> NDArray[np.float64]:
    silent = np.maximum(n - child, 1)
    return both / np.maximum(child, 1) - (parent - both) / silent


def _by_firing(
    both: csr_array, n_small: _Counts, n_large: _Counts, n: int
) -> tuple[_Counts, NDArray[np.float64]]:
    """For each latent of the larger, the one of the smaller with the highest ΔP; −1 for none."""
    pairs = both.tocoo()
    value = _contingency(pairs.data, n_small[pairs.row], n_large[pairs.col], n)
    order = np.lexsort((pairs.row, -value, pairs.col))
    child, first = np.unique(pairs.col[order], return_index=True)
    parent, best = np.full(len(n_large), -1, np.int64), np.full(len(n_large), np.nan)
    parent[child], best[child] = pairs.row[order][first], value[order][first]
    return parent, best
