"""The same figures with and without special tokens and attention sinks: how much the mask matters.

Without: tokens that the store's mask policy keeps. With: every real token, the beginning-of-text
token and norm sinks among them. One sink can carry most of the variance, so an FVU over all tokens
says more about the sink than about the SAE; that is why it is not the headline figure.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from monoscope.data.masking import MaskPolicy
from monoscope.evals import reconstruction, splice
from monoscope.evals.bootstrap import intervals, point
from monoscope.evals.cache import Figures
from monoscope.evals.material import Material

VERSION = 1
_ROWS = 8  # windows captured at once


def run(material: Material) -> Figures:
    """{"without": {…}, "with": {…}}, and the share of tokens and of variance that is masked."""
    if material.lm is None:
        return {"skipped": "needs the language model"}
    every = MaskPolicy(special_ids=())
    out: Figures = {}
    for name, policy in (("without", material.store.mask_policy), ("with", every)):
        out[name] = _reconstruction(material, policy) | _downstream(material, policy)
    masked = out["with"]["n_tokens"] - out["without"]["n_tokens"]
    out["share_of_tokens_masked"] = masked / out["with"]["n_tokens"]
    return out


def _rows(material: Material) -> list[splice.Window]:
    docs = material.held_out_docs(material.sizes.splice_tokens // 2)
    stored = material.store.get_documents(docs)
    manifest = material.store.manifest
    return splice.windows(
        [stored[d] for d in docs], manifest.prefix_ids, manifest.arguments.context_length
    )


def _tiles(material: Material, policy: MaskPolicy) -> Iterator[tuple[Tensor, Tensor]]:
    assert material.lm is not None
    rows = sorted(_rows(material), key=lambda row: -len(row.token_ids))
    for start in range(0, len(rows), _ROWS):
        batch = rows[start : start + _ROWS]
        ids, mask = splice.pad(batch, material.lm.pad_id, material.lm.device)
        x = material.lm.capture(ids, mask, material.site).float()
        keep = policy.keep(ids, mask, x)
        doc = torch.tensor([row.doc for row in batch])[:, None].expand(ids.shape)
        if keep.any():
            yield x[keep].cpu(), doc[keep.cpu()]


def _reconstruction(material: Material, policy: MaskPolicy) -> Figures:
    mean = reconstruction.mean_of(_tiles(material, policy))
    own = {"sae": reconstruction.with_sae(material.sae)}
    sums = reconstruction.measure(own, _tiles(material, policy), mean)["sae"].sums()
    found: Figures = dict(point(sums, reconstruction.figures))
    found["ci"] = intervals(sums, reconstruction.figures, material.bootstrap, material.seed)
    found["n_tokens"] = int(sums.total()["n"][0])
    return found


def _downstream(material: Material, policy: MaskPolicy) -> Figures:
    assert material.lm is not None
    sae, mean = reconstruction.with_sae(material.sae), material.mean
    replace: dict[str, splice.Replace] = {
        "sae": lambda x: sae(x)[0],
        "zero": torch.zeros_like,
        "mean": lambda x: mean.to(x).expand_as(x),
    }
    rows = _rows(material)
    sums = splice.splice(material.lm, material.site, policy, replace, rows).sums()
    metrics = partial(splice.figures, name="sae")
    found: Figures = {k: v for k, v in point(sums, metrics).items() if k != "ce"}
    found["n_predictions"] = int(sums.total()["n"][0])
    return found
