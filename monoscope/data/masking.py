"""MaskPolicy: the one rule saying which tokens count, for training, statistics and edits alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from monoscope.errors import ConfigError


@dataclass(frozen=True)
class MaskPolicy:
    """Keep a token if it is real, not special, and no attention sink (‖x‖ ≤ max_norm).

    special_ids: vocabulary ids never kept (BOS, EOS, PAD, control tokens).
    sink_ratio: max_norm as a multiple of the median norm it was measured from.
    max_norm: the limit in model units; None while it has not been measured (no limit).
    """

    special_ids: tuple[int, ...]
    sink_ratio: float = 10.0
    max_norm: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sink_ratio) and self.sink_ratio > 0):
            raise ConfigError(
                "sink_ratio must be a positive number",
                got=self.sink_ratio,
                expected="> 0, such as 10",
            )
        object.__setattr__(self, "special_ids", tuple(sorted({int(i) for i in self.special_ids})))

    def candidates(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Tokens that are real and not special: ids [B,S], mask [B,S] bool -> bool [B,S]."""
        special = torch.tensor(self.special_ids, dtype=ids.dtype, device=ids.device)
        return mask.bool() & ~torch.isin(ids, special)

    def keep(self, ids: Tensor, mask: Tensor, x: Tensor) -> Tensor:
        """Tokens that count: ids [B,S], mask [B,S] bool, x [B,S,D] -> bool [B,S] on x's device."""
        if self.max_norm is None:
            return self.candidates(ids.to(x.device), mask.to(x.device))
        return self.keep_by_norm(ids.to(x.device), mask.to(x.device), token_norms(x))

    def keep_by_norm(self, ids: Tensor, mask: Tensor, norms: Tensor) -> Tensor:
        """`keep` for those who have the norms [B,S] of x already."""
        kept = self.candidates(ids, mask)
        return kept if self.max_norm is None else kept & (norms <= self.max_norm)

    def measured(self, norms: Tensor) -> MaskPolicy:
        """The same policy with max_norm = sink_ratio × median of `norms` [N] (at least one)."""
        return replace(self, max_norm=self.sink_ratio * float(norms.median()))

    def to_dict(self) -> dict[str, Any]:
        """The policy as plain JSON values; `from_dict` reads it back."""
        return asdict(self) | {"special_ids": list(self.special_ids)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MaskPolicy:
        """The policy that `to_dict` wrote."""
        return cls(tuple(data["special_ids"]), float(data["sink_ratio"]), data["max_norm"])


def recorded_policy(provenance: Mapping[str, Any]) -> MaskPolicy | None:
    """The policy by which an SAE's training left tokens out, or None where none is recorded."""
    recorded = provenance.get("mask_policy")
    if recorded is None or isinstance(recorded, MaskPolicy):
        return recorded
    return MaskPolicy.from_dict(recorded)


def token_norms(x: Tensor) -> Tensor:
    """‖x‖ over the last axis of x [..., D], in float32 or, where x is more exact, in its dtype."""
    return torch.linalg.vector_norm(x, dim=-1, dtype=torch.promote_types(x.dtype, torch.float32))
