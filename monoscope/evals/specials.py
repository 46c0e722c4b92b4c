"""The same figures with and without special tokens and attention sinks: how much the mask matters.

Without: tokens that the store's mask policy keeps. With: every real token, the beginning-of-text
token and norm sinks among them. One sink can carry most of the variance, so an FVU over all tokens
says more about the sink than about the SAE; that is why it is not the headline figure.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from monoscope.data.masking import MaskPolicy
from monoscope.evals import downstream, reconstruction, splice
from monoscope.evals.bootstrap import Sums, intervals, point
from monoscope.evals.cache import Figures
from monoscope.evals.material import Material

VERSION = 2
_EVERY = MaskPolicy(special_ids=())
_ROWS = 8  # windows captured at once


def run(material: Material) -> Figures:
    """{"without": {…}, "with": {…}}, and the share of tokens that is masked.

    Each holds the SAE's figures with intervals, and under "baselines" fvu, l0, cosine and
    shrinkage of the reference methods on the same tokens.
    """
    if material.lm is None:
        return {"skipped": "needs the language model"}
    docs = material.held_out_docs(material.sizes.splice_tokens // 2)
    rows = downstream.windows(material, docs)
    without, every = _capture(material, rows)
    inside = downstream.of(material).by_document(docs)
    out: Figures = {"without": _figures(material, without, inside)}
    material.tell("special tokens: splicing", 1, 2)
    out["with"] = _figures(material, every, downstream.over(material, _EVERY, rows))
    masked = out["with"]["n_tokens"] - out["without"]["n_tokens"]
    out["share_of_tokens_masked"] = masked / out["with"]["n_tokens"]
    return out


_Tiles = list[tuple[Tensor, Tensor]]


def _capture(material: Material, rows: list[splice.Window]) -> tuple[_Tiles, _Tiles]:
    """x [n,D] and doc [n] at the tokens that the store's policy keeps, and at every real token."""
    assert material.lm is not None
    without: _Tiles = []
    every: _Tiles = []
    rows = sorted(rows, key=lambda row: -len(row.token_ids))
    for start in range(0, len(rows), _ROWS):
        batch = rows[start : start + _ROWS]
        ids, mask = splice.pad(batch, material.lm.pad_id, material.lm.device)
        x = material.lm.capture(ids, mask, material.site).float()
        doc = torch.tensor([row.doc for row in batch])[:, None].expand(ids.shape)
        for policy, tiles in ((material.store.mask_policy, without), (_EVERY, every)):
            keep = policy.keep(ids, mask, x)
            if keep.any():
                tiles.append((x[keep].cpu(), doc[keep.cpu()]))
    return without, every


def _figures(material: Material, tiles: _Tiles, inside: Sums) -> Figures:
    mean = reconstruction.mean_of(tiles)
    sums = reconstruction.measure(material.methods, tiles, mean)
    points = {name: point(held.sums(), reconstruction.figures) for name, held in sums.items()}
    own, cost = sums["sae"].sums(), partial(splice.figures, name="sae")
    found: Figures = points.pop("sae") | point(inside, cost)
    found["ci"] = intervals(
        own, reconstruction.figures, material.bootstrap, material.seed
    ) | intervals(inside, cost, material.bootstrap, material.seed)
    for name in (found, found["ci"]):
        name.pop("ce", None)  # of fewer documents than the core's, so not to be set beside it
    found["n_tokens"] = int(own.total()["n"][0])
    found["n_predictions"] = int(inside.total()["n"][0])
    found["baselines"] = points
    return found
