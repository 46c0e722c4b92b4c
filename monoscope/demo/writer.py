"""Which features to try steering with, what each promises to write, and the sample shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from monoscope.features.atlas import Atlas
from monoscope.features.feature import Example, Feature
from monoscope.lm.protocol import LM
from monoscope.sae import SAE
from monoscope.steer import Add, by_rank, find_writers, generate

# Not the prompts on which the feature and its strength are chosen.
SAMPLE_PROMPTS = (
    "I have been thinking about",
    "Today we are going to talk about",
    "The story begins with",
)
N_CANDIDATES = 120
DENSITY = (1e-4, 2e-2)
LEAST_F1 = 0.3
_REACH = 8  # tokens on each side of a peak whose words count as the feature's company
_LIFT, _IN_DOCUMENTS, _COMPANY = 5.0, 3, 8
_COMPANY_WEIGHT = 0.3


def steer_sample(lm: LM, sae: SAE, atlas: Atlas, *, seed: int) -> dict[str, Any]:
    """Find the feature that writes best, and what the model says with it turned up.

    The JSON of `steer` for the first prompt, all prompts under "samples", and the search under
    "writer", which is None (and "samples" empty) if no feature has a label good enough to try.
    """
    promised = promises(lm, candidates(atlas))
    if not promised:
        return {"n_candidates": 0, "writer": None, "samples": []}
    best = find_writers(lm, sae, promised, n_finalists=6, seed=seed)[0]
    edit = Add(sae, best.latent, times_norm=best.times_norm)
    samples = []
    for prompt in SAMPLE_PROMPTS:
        said = generate(lm, prompt, edits=[edit], max_new_tokens=40, seed=seed)
        samples.append({"prompt": prompt, **said.to_json()})
    wanted = sorted(promised[best.latent].items(), key=lambda pair: -pair[1])
    return {
        **samples[0],
        "n_candidates": len(promised),
        "label": atlas.feature(best.latent).label,
        "promised": [lm.token_text(token) for token, _ in wanted],
        "writer": best.to_json(),
        "samples": samples,
    }


def candidates(atlas: Atlas) -> list[Feature]:
    """Alive features with a good label that fire neither too seldom nor too often."""
    found: dict[int, None] = {}
    for order, limit in (("interest", N_CANDIDATES // 2), ("label_score", N_CANDIDATES)):
        for row in atlas.list(sort=order, limit=8 * N_CANDIDATES):
            good = row.label_f1 is not None and row.label_f1 >= LEAST_F1
            if good and DENSITY[0] <= row.density <= DENSITY[1] and len(found) < limit:
                found[row.latent] = None
    return [atlas.feature(latent) for latent in found]


def promises(lm: LM, features: Sequence[Feature]) -> dict[int, dict[int, float]]:
    """What each feature promises to write: latent -> token id -> weight; none, no entry.

    First the words it fires on, by how often (1/log2(2 + rank)), then at 0.3 the words that are
    commoner near its peaks than near those of the other features.
    """
    fired = {f.latent: _ranked(e.pieces[e.peak] for e in f.top) for f in features}
    near = {f.latent: Counter(w for e in f.top for w in _company(e)) for f in features}
    everywhere = sum(near.values(), Counter())
    n_contexts = sum(len(f.top) for f in features)
    company = {
        f.latent: _lifted(near[f.latent], len(f.top), everywhere, n_contexts)
        for f in features
        if f.top
    }
    pieces = sorted({p for group in (fired, company) for words in group.values() for p in words})
    ids = {p: e.ids[0] for p, e in zip(pieces, lm.encode(pieces), strict=True) if len(e.ids) == 1}
    out: dict[int, dict[int, float]] = {}
    for feature in features:
        own = by_rank(ids[p] for p in fired[feature.latent] if p in ids)
        if own:
            others = (ids[p] for p in company[feature.latent] if p in ids)
            out[feature.latent] = {token: _COMPANY_WEIGHT for token in others} | own
    return out


def _is_word(piece: str) -> bool:
    word = piece.strip()
    return len(word) > 3 and word.isalpha()


def _ranked(pieces: Iterable[str]) -> list[str]:
    return [piece for piece, _ in Counter(p for p in pieces if _is_word(p)).most_common()]


def _company(example: Example) -> set[str]:
    """The words within reach of an example's peak, its own token left out."""
    around = range(max(0, example.peak - _REACH), example.peak + _REACH + 1)
    pieces = [example.pieces[i] for i in around if i < len(example.pieces) and i != example.peak]
    return {piece for piece in pieces if _is_word(piece)}


def _lifted(
    near: Mapping[str, int], n: int, everywhere: Mapping[str, int], n_everywhere: int
) -> list[str]:
    """Words in three or more of a feature's n contexts and five times commoner there."""
    lift = {
        word: (count / n) / (everywhere[word] / n_everywhere)
        for word, count in near.items()
        if count >= _IN_DOCUMENTS
    }
    good = [word for word, value in lift.items() if value >= _LIFT]
    return sorted(good, key=lambda word: (-near[word], -lift[word], word))[:_COMPANY]
