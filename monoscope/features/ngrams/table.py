"""N-gram labels on disk: a table beside the atlas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from monoscope.features import front, side

if TYPE_CHECKING:
    from monoscope.features.atlas import Atlas

NAME = front.NGRAMS
METHOD = front.NGRAM


def save(atlas: Atlas, rows: Sequence[dict[str, Any]]) -> int:
    """Merge rows into the table and settle what stands in front; how many of them do."""
    side.merge_rows(atlas, NAME, rows)
    return front.settle(atlas, [row["latent"] for row in rows])[METHOD]
