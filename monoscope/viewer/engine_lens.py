"""What fires on a text or a chat, token by token and in total, and what differs between two."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from monoscope.errors import ConfigError
from monoscope.viewer.catalogue import Catalogue

if TYPE_CHECKING:
    from monoscope.features.text import TextFeatures
    from monoscope.viewer.engine import Loaded

MAX_TOKENS = 4096


class Fact(BaseModel):
    """What a list says of a latent besides its number. max: the largest value in the atlas."""

    label: str | None
    label_method: str | None
    density: float
    max: float


class LensToken(BaseModel):
    """One token: its text, whether the SAE's mask policy keeps it, and its strongest latents.

    latents and values: equally long, strongest first. n_active: how many fire in all.
    """

    piece: str
    token_id: int
    kept: bool
    n_active: int
    latents: list[int]
    values: list[float]


class LensTotal(BaseModel):
    """A latent over the whole text: Σ, mean over kept tokens and max of its values; its peak."""

    latent: int
    sum: float
    mean: float
    max: float
    n_tokens: int
    peak: int


class LensText(BaseModel):
    """One text as the lens sees it. n_active: latents that fire at all; totals: the strongest."""

    tokens: list[LensToken]
    n_kept: int
    n_active: int
    totals: list[LensTotal]


class Difference(BaseModel):
    """A latent in two texts: mean value over kept tokens in each, and a − b."""

    latent: int
    a: float
    b: float
    difference: float


def read(
    loaded: Loaded, given: str | Sequence[dict[str, str]], max_tokens: int = MAX_TOKENS
) -> TextFeatures:
    """The features of a text, or of a chat in the model's own template, all in one window.

    Raises CorpusError for no tokens, ConfigError for more than the context or max_tokens.
    """
    from monoscope.features.text import chat_text, features_on_ids

    lm = loaded.lm
    prefix: tuple[int, ...] = ()
    if isinstance(given, str):
        text, prefix = given, lm.prefix_ids
    else:
        # the template writes its own beginning; its special tokens are read back as what they are
        text = chat_text(lm, given)
    encoded = lm.encode([text])[0]
    most = min(max_tokens, lm.context_length - len(prefix))
    if len(encoded.ids) > most:
        raise ConfigError(
            "the text is longer than the lens reads at once",
            got=f"{len(encoded.ids)} tokens",
            expected=f"at most {most}",
            hint="Paste a part of it.",
        )
    return features_on_ids(
        lm, loaded.sae, encoded.ids, encoded.pieces(text), prefix=prefix,
        context_length=lm.context_length,
    )  # fmt: skip


def shown(
    found: TextFeatures,
    *,
    per_token: int,
    limit: int,
    by: Literal["sum", "max", "n_tokens"] = "sum",
    pinned: Iterable[int] = (),
) -> LensText:
    """What is answered for one text: the strongest of everything, in total those first by `by`.

    Latents told in total, and those pinned, are told on every token where they fire.
    """
    always = set(pinned)
    ranked = [t for rank, t in enumerate(found.ranked(by)) if rank < limit or t.latent in always]
    wanted = {t.latent for t in ranked}
    n_kept = sum(token.kept for token in found.tokens)
    tokens = []
    for token in found.tokens:
        active = [
            pair for rank, pair in enumerate(token.active) if rank < per_token or pair[0] in wanted
        ]
        tokens.append(
            LensToken(
                piece=token.piece,
                token_id=token.token_id,
                kept=token.kept,
                n_active=len(token.active),
                latents=[latent for latent, _ in active],
                values=[round(value, 4) for _, value in active],
            )
        )
    totals = [
        LensTotal(
            latent=t.latent, sum=t.sum, mean=t.sum / n_kept, max=t.max, n_tokens=t.n_tokens,
            peak=t.peak,
        )
        for t in ranked
    ]  # fmt: skip
    return LensText(tokens=tokens, n_kept=n_kept, n_active=len(found.totals), totals=totals)


def facts(catalogue: Catalogue, latents: Iterable[int]) -> dict[int, Fact]:
    """What the atlas knows of these latents, by number."""
    rows = catalogue.ask(
        "SELECT latent, label, label_method, density, peak AS max FROM rows "
        "WHERE latent IN (SELECT unnest($latents::BIGINT[]))",
        {"latents": sorted(set(latents))},
    )
    return {row.pop("latent"): Fact(**row) for row in rows}


def mentioned(*texts: LensText) -> Iterator[int]:
    """Every latent that the answer names."""
    for text in texts:
        for token in text.tokens:
            yield from token.latents
        yield from (total.latent for total in text.totals)
