"""From edits to hooks: what actually happens to the activations of a running model.

All edits at one site read f from the same, unedited x, and their moves are summed; so the order in
which edits are listed does not matter. Tokens that the SAE's own mask policy leaves out (padding,
special tokens, norm sinks) are never touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from monoscope.data.masking import recorded_policy
from monoscope.lm.protocol import Hook, Positions
from monoscope.sae.model import SAE
from monoscope.sites import Site
from monoscope.steer.edits import Edit


@dataclass
class Meter:
    """Adds up ‖Δ‖/‖x‖ over the positions that edits were applied to, at every site.

    A text read piece by piece adds up; one read again from its start (models without a cache are
    fed all of it at every step) counts once, as it was last read.
    """

    parts: dict[int, tuple[float, int]] = field(default_factory=dict)

    def begin(self, part: int) -> None:
        """Forget what one part, a hook, has counted: its text is read from the start."""
        self.parts.pop(part, None)

    def add(self, delta: Tensor, x: Tensor, part: int = 0) -> None:
        """Count rows delta [n,D] written onto rows x [n,D]."""
        ratio = delta.double().norm(dim=-1) / x.double().norm(dim=-1).clamp_min(1e-30)
        total, count = self.parts.get(part, (0.0, 0))
        self.parts[part] = (total + float(ratio.sum()), count + ratio.numel())

    @property
    def count(self) -> int:
        """How many positions were edited, each site counted by itself."""
        return sum(count for _, count in self.parts.values())

    @property
    def mean(self) -> float:
        """Mean ‖Δ‖/‖x‖ over edited positions; 0 where nothing was edited."""
        return sum(total for total, _ in self.parts.values()) / self.count if self.count else 0.0


@dataclass(frozen=True)
class SiteEdits:
    """A hook that applies every edit of one site.

    groups: each SAE at the site with its edits.  generated [B,S] overrides what the model says was
    generated, for a forward pass over text that is already there.  meter: where sizes are added up.
    """

    groups: tuple[tuple[SAE, tuple[Edit, ...]], ...]
    generated: Tensor | None = None
    meter: Meter | None = field(default=None, compare=False)

    def __call__(self, x: Tensor, positions: Positions) -> Tensor:
        """x [B,S,D] -> x' [B,S,D] in x's dtype; positions that no edit names keep every bit."""
        delta, edited = self.delta(x, positions)
        if self.meter is not None and (positions.position == 0).any():
            self.meter.begin(id(self))
        if not edited.any():
            return x
        if self.meter is not None:
            self.meter.add(delta[edited], x[edited], id(self))
        return add_where(x, delta, edited)

    def delta(self, x: Tensor, positions: Positions) -> tuple[Tensor, Tensor]:
        """The sum of all moves, [B,S,D] in at least fp32, and which positions they edit, [B,S]."""
        wide = torch.promote_types(x.dtype, torch.float32)
        delta = torch.zeros(x.shape, dtype=wide, device=x.device)
        edited = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        generated = positions.generated if self.generated is None else self.generated
        for sae, edits in self.groups:
            keep = kept(sae, x, positions)
            named = [keep & edit.place.named(generated) for edit in edits]
            union = torch.stack(named).any(0)
            if union.any():
                moves, moved = _moves(sae, edits, x[union], [n[union] for n in named])
                delta[union] += moves.to(delta)
                edited[union] |= moved.to(edited.device)
        return delta, edited


def _moves(
    sae: SAE, edits: Sequence[Edit], rows: Tensor, named: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Σ coefficient(f)·d over the edits, [n,D], for rows [n,D] of the unedited x.

    named: the rows each edit names, [n] bool.  Also returns which rows any edit was applied to:
    those named where the edit's condition, if it has one, holds as well.
    """
    rows = rows.to(sae.W_dec.device)
    wide = torch.promote_types(sae.W_dec.dtype, torch.float32)
    out = torch.zeros(rows.shape, dtype=wide, device=rows.device)
    moved = torch.zeros(rows.shape[0], dtype=torch.bool, device=rows.device)
    silent = torch.zeros(rows.shape[0], dtype=wide, device=rows.device)
    # the whole selection decides f: a TopK latent that is not selected has f = 0
    read = any(edit.reads or edit.place.when is not None for edit in edits)
    codes = sae.encode(rows) if read else None
    for edit, here in zip(edits, named, strict=True):
        here = here.to(rows.device)
        if codes is not None and edit.place.when is not None:
            here = here & (codes.column(edit.place.when).to(wide) > edit.place.above)
        f = codes.column(edit.latent).to(wide) if codes is not None and edit.reads else silent
        amount = torch.where(here, edit.coefficient(f), 0.0)
        out += amount[:, None] * edit.direction.to(wide)
        moved |= here
    return out, moved


def add_where(x: Tensor, delta: Tensor, where: Tensor) -> Tensor:
    """x + delta where `where` [B,S] is set, x bit for bit elsewhere; x's dtype is kept."""
    return torch.where(where[..., None], (x.to(delta.dtype) + delta).to(x.dtype), x)


def kept(sae: SAE, x: Tensor, positions: Positions) -> Tensor:
    """Positions the SAE was trained to read, [B,S] bool; all real tokens if it has no policy."""
    policy = recorded_policy(sae.provenance)
    if policy is None:
        return positions.mask
    return policy.keep(positions.token_ids, positions.mask, x)


def hooks_for(
    edits: Sequence[Edit], *, generated: Tensor | None = None, meter: Meter | None = None
) -> dict[Site, Hook]:
    """One hook for each site the edits name; no edits, no hooks."""
    sites: dict[Site, dict[int, list[Edit]]] = {}
    for edit in edits:
        sites.setdefault(edit.site, {}).setdefault(id(edit.sae), []).append(edit)
    return {
        site: SiteEdits(
            tuple((group[0].sae, tuple(group)) for group in groups.values()), generated, meter
        )
        for site, groups in sites.items()
    }
