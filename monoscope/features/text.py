"""Which features fire on a given text: one pass of the model, one of the autoencoder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from monoscope.data.masking import MaskPolicy, recorded_policy
from monoscope.errors import ConfigError, CorpusError
from monoscope.ops.codes import SparseCodes
from monoscope.sites import Site

if TYPE_CHECKING:
    from monoscope.lm.protocol import LM
    from monoscope.sae.model import SAE
from monoscope.sae.trained import check_fits, site_of

CONTEXT_LENGTH = 128  # the window a harvest uses unless told otherwise, prefix included
_ROWS = 16  # windows in one forward pass


@dataclass(frozen=True)
class TextToken:
    """One token of the text: its piece, and its active latents as (latent, value), strongest first.

    kept: False where the SAE's mask policy leaves the token out; it then has no active latents.
    """

    piece: str
    token_id: int
    kept: bool
    active: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class LatentTotal:
    """One latent over the whole text: Σ and max of its values, tokens it fires on, and its peak.

    peak: the token with the largest value, counted from 0.
    """

    latent: int
    sum: float
    max: float
    n_tokens: int
    peak: int


@dataclass(frozen=True)
class TextFeatures:
    """The features of one text: token by token, and in total (largest sum first)."""

    text: str
    site: str
    tokens: tuple[TextToken, ...]
    totals: tuple[LatentTotal, ...]

    def ranked(self, by: Literal["sum", "max", "n_tokens"] = "sum") -> list[LatentTotal]:
        """The totals, largest first by Σ value, largest value or number of tokens."""
        return sorted(self.totals, key=lambda t: (-getattr(t, by), t.latent))

    def without(self, latents: Collection[int]) -> TextFeatures:
        """The same reading with these latents left out, of the tokens and of the totals."""
        tokens = tuple(
            replace(token, active=tuple(pair for pair in token.active if pair[0] not in latents))
            for token in self.tokens
        )
        totals = tuple(total for total in self.totals if total.latent not in latents)
        return replace(self, tokens=tokens, totals=totals)

    def values(self, latent: int) -> list[float]:
        """One latent's value on every token, 0 where it is silent: [S]."""
        return [dict(token.active).get(latent, 0.0) for token in self.tokens]

    def to_json(
        self, *, per_token: int | None = None, limit: int | None = None,
        by: Literal["sum", "max", "n_tokens"] = "sum",
    ) -> dict[str, Any]:  # fmt: skip
        """A JSON-able dict; per_token and limit cut the lists of latents (None: all of them).

        by: the order of the totals, as `ranked` has it.
        """
        tokens = [
            asdict(token)
            | {"active": [{"latent": i, "value": v} for i, v in token.active[:per_token]]}
            for token in self.tokens
        ]
        totals = [asdict(total) for total in self.ranked(by)[:limit]]
        return {"text": self.text, "site": self.site, "tokens": tokens, "totals": totals}


@dataclass(frozen=True)
class TextDifference:
    """A latent in two texts: its mean value over kept tokens in each, and a − b."""

    latent: int
    a: float
    b: float
    difference: float


def differences(
    a: TextFeatures, b: TextFeatures, limit: int | None = None
) -> list[TextDifference]:  # fmt: skip
    """The latents of either text by a − b falling; limit: only so many from either end."""
    mean_a, mean_b = _means(a), _means(b)
    rows = [
        TextDifference(i, x, y, x - y)
        for i in mean_a.keys() | mean_b.keys()
        for x, y in [(mean_a.get(i, 0.0), mean_b.get(i, 0.0))]
    ]
    rows.sort(key=lambda row: (-row.difference, row.latent))
    if limit is None or len(rows) <= 2 * limit:
        return rows
    return rows[:limit] + rows[-limit:]


def features_on_text(
    lm: LM, sae: SAE, text: str, *, context_length: int = CONTEXT_LENGTH
) -> TextFeatures:
    """Read `text` with the model and name the latents of `sae` that fire on each of its tokens.

    The text is cut into windows of context_length tokens, the model's prefix included, as in a
    harvest; masked tokens have no features. The site and mask policy are the SAE's own.

    Raises ConfigError if the SAE does not say where it was trained or the window is too small;
    MismatchError if the SAE is another model's; CorpusError if the text holds no tokens.
    """
    encoded = lm.encode([text])[0]
    return features_on_ids(
        lm, sae, encoded.ids, encoded.pieces(text), prefix=lm.prefix_ids,
        context_length=context_length,
    )  # fmt: skip


def features_on_chat(
    lm: LM, sae: SAE, messages: Sequence[Mapping[str, str]], *, context_length: int = CONTEXT_LENGTH
) -> TextFeatures:
    """As `features_on_text`, for a chat in the model's own template, whose tokens are read too."""
    text = chat_text(lm, messages)
    encoded = lm.encode([text])[0]
    return features_on_ids(
        lm, sae, encoded.ids, encoded.pieces(text), context_length=context_length
    )  # fmt: skip


def chat_text(lm: LM, messages: Sequence[Mapping[str, str]]) -> str:
    """A chat as the model's template writes it, its beginning and special tokens included."""
    return lm.decode(lm.chat([dict(message) for message in messages]))


def features_on_ids(
    lm: LM,
    sae: SAE,
    ids: Sequence[int],
    pieces: Sequence[str],
    *,
    prefix: Sequence[int] = (),
    context_length: int = CONTEXT_LENGTH,
) -> TextFeatures:
    """As `features_on_text`, for tokens that are already there, such as a chat in its template.

    pieces: the text of each token.  prefix: what is put in front of every window.
    """
    site = site_of(sae)
    check_fits(lm, sae)
    if not ids:
        raise CorpusError("there is nothing to read: the text has no tokens")
    length = min(context_length, lm.context_length)
    if length <= len(prefix):
        raise ConfigError(
            "the window is too small",
            got=f"context_length {length}",
            expected=f"more than {len(prefix)}",
        )
    # where none is recorded, special tokens alone are left out
    policy = recorded_policy(sae.provenance) or MaskPolicy(tuple(lm.special_ids))
    x, kept = _activations(lm, site, policy, list(ids), list(prefix), length)
    codes = sae.encode(x[kept].to(sae.W_dec.device))
    active = _by_token(codes, kept)
    tokens = tuple(
        TextToken(piece, token_id, bool(k), fired)
        for piece, token_id, k, fired in zip(pieces, ids, kept.tolist(), active, strict=True)
    )
    return TextFeatures("".join(pieces), str(site), tokens, _totals(tokens))


def _activations(
    lm: LM, site: Site, policy: MaskPolicy, ids: list[int], prefix: list[int], length: int
) -> tuple[Tensor, Tensor]:
    """x [S, D] float32 and kept [S] bool for the S tokens of a text, window by window."""
    step = length - len(prefix)
    windows = [ids[start : start + step] for start in range(0, len(ids), step)]
    xs, kept = [], []
    for start in range(0, len(windows), _ROWS):
        rows = windows[start : start + _ROWS]
        width = len(prefix) + max(len(row) for row in rows)
        batch = torch.full((len(rows), width), lm.pad_id, dtype=torch.int64)
        mask = torch.zeros((len(rows), width), dtype=torch.bool)
        for r, row in enumerate(rows):
            batch[r, : len(prefix) + len(row)] = torch.tensor(prefix + row)
            mask[r, : len(prefix) + len(row)] = True
        batch, mask = batch.to(lm.device), mask.to(lm.device)
        x = lm.capture(batch, mask, site)
        own = mask.clone()
        own[:, : len(prefix)] = False
        xs.append(x[own].float().cpu())
        kept.append(policy.keep(batch, mask, x)[own].cpu())
    return torch.cat(xs), torch.cat(kept)


def _by_token(codes: SparseCodes, kept: Tensor) -> list[tuple[tuple[int, float], ...]]:
    """Active latents of every token, strongest first; none for masked tokens."""
    offsets, indices = codes.offsets.tolist(), codes.indices.tolist()
    values = codes.values.float().tolist()
    out: list[tuple[tuple[int, float], ...]] = []
    row = 0
    for keep in kept.tolist():
        if not keep:
            out.append(())
            continue
        span = range(offsets[row], offsets[row + 1])
        pairs = [(indices[e], values[e]) for e in span if values[e] > 0]
        out.append(tuple(sorted(pairs, key=lambda pair: (-pair[1], pair[0]))))
        row += 1
    return out


def _totals(tokens: tuple[TextToken, ...]) -> tuple[LatentTotal, ...]:
    fired: dict[int, list[tuple[float, int]]] = {}
    for at, token in enumerate(tokens):
        for latent, value in token.active:
            fired.setdefault(latent, []).append((value, at))
    totals = []
    for latent, hits in fired.items():
        top, peak = max(hits, key=lambda hit: (hit[0], -hit[1]))
        totals.append(LatentTotal(latent, sum(v for v, _ in hits), top, len(hits), peak))
    return tuple(sorted(totals, key=lambda t: (-t.sum, t.latent)))


def _means(found: TextFeatures) -> dict[int, float]:
    n = max(1, sum(token.kept for token in found.tokens))
    return {total.latent: total.sum / n for total in found.totals}
