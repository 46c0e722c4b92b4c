"""The SAE and both ablations spliced into the model: once, for every family that asks what it cost.

A forward pass is what an evaluation spends most of its time on, so core figures, slices and the
comparison of masks all read the same sums, kept by document and by position in it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monoscope.evals import reconstruction, splice
from monoscope.evals.bootstrap import DocumentSums, Sums

if TYPE_CHECKING:
    from monoscope.data.masking import MaskPolicy
    from monoscope.evals.material import Material
    from monoscope.sae import SAE

VERSION = 1
POSITIONS = (0, 4, 16, 64, 128, 256, 512)
"""First position of each bucket; the last one is open."""


@dataclass(frozen=True)
class Inside:
    """Sums of splicing: a row for each document and bucket of positions that has predictions.

    sums: columns as `splice.columns(("sae", "zero", "mean"))`; a document stands in it once for
    each of its buckets.  bucket [G]: which of POSITIONS the row's tokens, predicted from, are in.
    """

    sums: Sums
    bucket: NDArray[np.int64]

    def by_document(self, docs: Collection[int] | None = None) -> Sums:
        """Sums by document, of those documents or of all."""
        held = self.sums
        if docs is not None:
            held = held.rows(np.isin(held.docs, np.array(sorted(docs), dtype=np.int64)))
        names, inverse = np.unique(held.docs, return_inverse=True)
        values = np.zeros((len(names), len(held.columns)))
        np.add.at(values, inverse, held.values)
        return Sums(held.columns, names, values)

    def at(self, bucket: int) -> Sums:
        """Sums by document of the predictions made from one bucket of positions."""
        return self.sums.rows(self.bucket == bucket)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` gives the very same numbers."""
        return {
            "columns": list(self.sums.columns),
            "docs": self.sums.docs.tolist(),
            "buckets": self.bucket.tolist(),
            "values": self.sums.values.tolist(),
        }

    @classmethod
    def from_json(cls, held: dict[str, Any]) -> Inside:
        columns = tuple(held["columns"])
        values = np.array(held["values"], dtype=np.float64).reshape(-1, len(columns))
        docs = np.array(held["docs"], dtype=np.int64)
        return cls(Sums(columns, docs, values), np.array(held["buckets"], dtype=np.int64))


def of(material: Material) -> Inside:
    """The sums over `splice_tokens` held-out tokens, from the cache or computed now."""
    return Inside.from_json(
        material.part("spliced", VERSION, {}, lambda: _measure(material).to_json())
    )


def _measure(material: Material) -> Inside:
    kept = DocumentSums(splice.columns(replacements(material.sae, material.mean)))
    n, done, total = len(POSITIONS), 0, material.sizes.splice_tokens

    def see(doc: Tensor, pos: Tensor, table: Tensor) -> None:
        nonlocal done
        kept.add(doc * n + bucket_of(pos), table)
        done += len(doc)
        material.tell("core: splicing", min(done, total), total)

    docs = material.held_out_docs(material.sizes.splice_tokens)
    over(material, material.store.mask_policy, windows(material, docs), see)
    sums = kept.sums()
    return Inside(Sums(sums.columns, sums.docs // n, sums.values), sums.docs % n)


def over(
    material: Material,
    policy: MaskPolicy,
    rows: list[splice.Window],
    see: splice.See | None = None,
) -> Sums:
    """Sums by document of SAE, zero and mean ablation over windows, under a mask policy."""
    assert material.lm is not None
    own = replacements(material.sae, material.mean)
    return splice.splice(material.lm, material.site, policy, own, rows, see=see).sums()


def replacements(sae: SAE, mean: Tensor) -> dict[str, splice.Replace]:
    """What stands in place of x: "sae" its reconstruction, "zero", and "mean" [D] of train."""
    reconstruct = reconstruction.with_sae(sae)
    return {
        "sae": lambda x: reconstruct(x)[0],
        "zero": torch.zeros_like,
        "mean": lambda x: mean.to(x).expand_as(x),
    }


def windows(material: Material, docs: list[int]) -> list[splice.Window]:
    """Documents in the windows they were harvested in."""
    stored = material.store.get_documents(docs)
    manifest = material.store.manifest
    return splice.windows(
        [stored[d] for d in docs], manifest.prefix_ids, manifest.arguments.context_length
    )


def bucket_names() -> list[str]:
    """ "0–3", "4–15", …, "512+"."""
    ends = [str(start - 1) for start in POSITIONS[1:]]
    named = [f"{start}–{end}" for start, end in zip(POSITIONS, ends, strict=False)]
    return [*named, f"{POSITIONS[-1]}+"]


def bucket_of(pos: Tensor) -> Tensor:
    """Which of POSITIONS each position [N] in a document belongs to, [N] int64."""
    starts = torch.tensor(POSITIONS)
    return torch.searchsorted(starts, pos.long().cpu(), right=True) - 1
