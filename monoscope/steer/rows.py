"""Many small experiments in one batch: each row of a forward pass gets a move of its own.

A move is a vector added to x at the SAE's site, at every position its mask policy keeps; all the
moves compared with one another have the same length, so many × the median norm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from monoscope.errors import ConfigError
from monoscope.lm.protocol import LM, Positions
from monoscope.ops.codes import SparseCodes
from monoscope.sae.model import SAE
from monoscope.sae.trained import site_of
from monoscope.steer.apply import Meter, add_where, kept
from monoscope.steer.units import direction_norm, median_norm

TILE = 32  # rows of a forward pass whose logits are held at once


@dataclass(frozen=True)
class RowMoves:
    """A hook that moves row b by moves[b], [B,D], wherever the SAE's mask policy keeps a token.

    meter: where the sizes of one forward pass are added up.
    """

    sae: SAE
    moves: Tensor
    meter: Meter | None = field(default=None, compare=False)

    def __call__(self, x: Tensor, positions: Positions) -> Tensor:
        """x [B,S,D] -> x' [B,S,D]."""
        moves = self.moves.to(x.device)[:, None, :].expand(x.shape)
        moved = kept(self.sae, x, positions)
        if self.meter is not None:
            self.meter.add(moves[moved], x[moved])
        return add_where(x, moves, moved)


def latent_moves(sae: SAE, latents: Sequence[int], times_norm: float) -> Tensor:
    """Moves [n,D] along decoder rows, of length times_norm × the median norm at the site."""
    rows = [sae.W_dec[i].detach() / direction_norm(sae, i) for i in latents]
    return torch.stack(rows) * (times_norm * median_norm(sae))


def random_moves(sae: SAE, n: int, times_norm: float, seed: int) -> Tensor:
    """Moves [n,D] in directions even on the sphere, as long as those of `latent_moves`."""
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, sae.config.d_in, generator=rng)
    rows = rows / rows.norm(dim=1, keepdim=True)
    return rows.to(sae.W_dec.device) * (times_norm * median_norm(sae))


def check_prompts(lm: LM, prompts: Sequence[str]) -> list[list[int]]:
    """The prompts as ids with the model's prefix. Raises ConfigError for none or an empty one."""
    if not prompts or not all(prompts):
        raise ConfigError("prompts to try features on", got=list(prompts), expected="at least one")
    return [[*lm.prefix_ids, *encoded.ids] for encoded in lm.encode(list(prompts))]


def padded(rows: Sequence[Sequence[int]], lm: LM) -> tuple[Tensor, Tensor]:
    """Rows of ids as ids [B,S] and mask [B,S], padded on the right."""
    ids = torch.full((len(rows), max(map(len, rows))), lm.pad_id, dtype=torch.int64)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
        mask[i, : len(row)] = True
    return ids.to(lm.device), mask.to(lm.device)


@torch.no_grad()
def next_token_shares(
    lm: LM, sae: SAE, moves: Tensor, prompts: Sequence[Sequence[int]]
) -> Iterator[Tensor]:
    """For each of moves [n,D], the probability of each token coming next, [V].

    The mean over prompts of the distribution after the prompt's last token.
    """
    site, n_prompts = site_of(sae), len(prompts)
    ids, mask = padded(prompts, lm)
    last = mask.sum(1) - 1
    for some in moves.split(max(1, TILE // n_prompts)):
        n = len(some)
        hook = RowMoves(sae, some.repeat_interleave(n_prompts, 0))
        logits = lm.logits(ids.repeat(n, 1), mask.repeat(n, 1), {site: hook})
        rows = torch.arange(len(logits), device=logits.device)
        shares = logits[rows, last.repeat(n).to(logits.device)].float().softmax(-1)
        yield from shares.view(n, n_prompts, -1).mean(1)


@dataclass(frozen=True)
class Written:
    """What the model wrote after each prompt under one move, as the unedited model reads it.

    ids: new tokens of each prompt.  codes: the SAE's codes of all new tokens, in that order.
    ce: mean −log p of the new tokens under the unedited model, nats a token.
    distinct2: share of the bigrams of new tokens that are no repeat within their continuation.
    relative_norm: mean ‖Δ‖/‖x‖ over the positions moved while it was written.  kl: KL(writing ‖
    unedited) of the next-token distributions, mean over new tokens, nats.
    """

    ids: tuple[tuple[int, ...], ...]
    codes: SparseCodes
    ce: float
    distinct2: float
    relative_norm: float = 0.0
    kl: float = 0.0

    @property
    def tokens(self) -> Tensor:
        """All new tokens, [T] int64."""
        return torch.tensor([token for row in self.ids for token in row], dtype=torch.int64)


@torch.no_grad()
def write(
    lm: LM,
    sae: SAE,
    moves: Tensor,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> Iterator[Written]:
    """Continue every prompt under each of moves [n,D], up to 2·TILE rows at a time."""
    n_prompts = len(prompts)
    for some in moves.split(max(1, 2 * TILE // n_prompts)):
        hook = RowMoves(sae, some.repeat_interleave(n_prompts, 0))
        new = lm.generate(
            list(prompts) * len(some),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            hooks={site_of(sae): hook},
        )
        for i, move in enumerate(some):
            texts = new[i * n_prompts : (i + 1) * n_prompts]
            yield read(lm, sae, prompts, texts, move=move)


@torch.no_grad()
def read(
    lm: LM,
    sae: SAE,
    prompts: Sequence[Sequence[int]],
    new: Sequence[Sequence[int]],
    *,
    move: Tensor | None = None,
    written_after: Sequence[Sequence[int]] | None = None,
) -> Written:
    """Read the continuations `new` of the prompts with the unedited model.

    move: the vector [D] that they were written under, and written_after: the prompts they were
    written after where those are others; both only for what that cost, relative_norm and kl.
    """
    ids, mask = padded([[*a, *b] for a, b in zip(prompts, new, strict=True)], lm)
    at = torch.arange(ids.shape[1], device=ids.device)
    starts = torch.tensor([len(p) for p in prompts], device=ids.device)
    is_new = mask & (at >= starts[:, None])
    seen: list[Tensor] = []

    def note(x: Tensor, positions: Positions) -> Tensor:
        seen.append(x)
        return x

    logits = lm.logits(ids, mask, {site_of(sae): note})
    before = is_new.roll(-1, 1)  # the positions that predict the new tokens
    log_p = logits[before].float().log_softmax(-1)
    ce = -log_p.gather(1, ids[is_new][:, None]).double()
    cost = (0.0, 0.0)
    if move is not None or written_after is not None:
        cost = _cost(lm, sae, prompts if written_after is None else written_after, new, move, log_p)
    return Written(
        ids=tuple(tuple(row) for row in new),
        codes=sae.encode(seen[0][is_new].to(sae.W_dec.device)),
        ce=float(ce.mean()) if ce.numel() else 0.0,
        distinct2=_distinct2(new),
        relative_norm=cost[0],
        kl=cost[1],
    )


def _cost(
    lm: LM,
    sae: SAE,
    prompts: Sequence[Sequence[int]],
    new: Sequence[Sequence[int]],
    move: Tensor | None,
    log_q: Tensor,
) -> tuple[float, float]:
    """‖Δ‖/‖x‖ and KL of texts as they were written; log_q [T,V]: of the unedited model."""
    ids, mask = padded([[*a, *b[:-1]] for a, b in zip(prompts, new, strict=True)], lm)
    at = torch.arange(ids.shape[1], device=ids.device)
    begins = [len(a) - 1 if b else ids.shape[1] for a, b in zip(prompts, new, strict=True)]
    predicts = mask & (at >= torch.tensor(begins, device=ids.device)[:, None])
    meter = Meter()
    hooks = {}
    if move is not None:
        hooks = {site_of(sae): RowMoves(sae, move.expand(len(ids), -1), meter)}
    log_p = lm.logits(ids, mask, hooks)[predicts].float().log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1).double()
    return meter.mean, max(0.0, float(kl.mean())) if kl.numel() else 0.0


def _distinct2(rows: Sequence[Sequence[int]]) -> float:
    pairs = [list(pairwise(row)) for row in rows]
    total = sum(map(len, pairs))
    return sum(len(set(p)) for p in pairs) / total if total else 0.0
