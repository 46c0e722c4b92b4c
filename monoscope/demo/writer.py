"""Which features to try steering with, what each promises to write, and the sample shown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from monoscope.data.store import ActivationStore
from monoscope.features.atlas import Atlas
from monoscope.features.feature import Row
from monoscope.lm.protocol import LM
from monoscope.sae import SAE
from monoscope.steer import Add, WriterScore, by_rank, find_writers, generate

# Not the prompts on which the feature and its strength are chosen.
SAMPLE_PROMPTS = (
    "I have been thinking about",
    "Today we are going to talk about",
    "The story begins with",
)
N_WORDS, N_KINDS = 1024, 128  # features screened, at most
WORD_FINALISTS, KIND_FINALISTS = 20, 8
STRENGTHS, SCREEN_AT = (0.3, 0.4, 0.5), 0.45
DENSITY = (1e-4, 5e-2)
_READS = 0.25  # held-out F1 of its label from which a latent of words reads
_SHARED = 0.005  # a word that more than this share of latents fires on stands for none of them
_COMMON, _FEW = 0.02, 10  # a word of more documents than this share, and than so many, is common
_OWNED = 0.9  # share of its activation on one metadata value that makes a latent that value's own
_N_TYPICAL = 24

Promises = dict[int, dict[int, float]]  # latent -> token id -> weight in (0, 1]


def steer_sample(
    lm: LM, sae: SAE, atlas: Atlas, store: ActivationStore, *, seed: int
) -> dict[str, Any]:
    """Find the feature that writes best, and what the model says with it turned up.

    Features of words that read (their labels hold on held-out documents) promise the words that
    they fire on; where none of them writes, features of one metadata value (a language, say) are
    tried, which promise the tokens typical of its documents.

    The JSON of `steer` for the first prompt, all prompts under "samples", what was promised under
    "promise", and the search under "writer", which is None (and "samples" empty) if no feature
    promises anything to try.
    """
    rows = [
        row
        for row in atlas.list(sort="density", limit=atlas.n_features)
        if DENSITY[0] <= row.density <= DENSITY[1]
    ]
    owners = owned(atlas.meta_mass(), store)
    words = best_readers(word_promises(lm, rows, common_tokens(store)), rows, N_WORDS)
    kinds = kind_promises(rows, owners, typical_tokens(store, owners.values(), lm.special_ids))
    tried = [(words, WORD_FINALISTS), (kinds, KIND_FINALISTS)]
    if not words and not kinds:
        return {"n_candidates": 0, "writer": None, "samples": []}
    ranked: list[WriterScore] = []
    for group, n_finalists in tried:
        if group and not any(writer.score > 0 for writer in ranked):
            ranked += find_writers(
                lm, sae, group, n_finalists=n_finalists, screen_at=SCREEN_AT, strengths=STRENGTHS,
                seed=seed,
            )  # fmt: skip
    best = max(ranked, key=lambda writer: writer.score)
    edit = Add(sae, best.latent, times_norm=best.times_norm)
    samples = []
    for prompt in SAMPLE_PROMPTS:
        said = generate(lm, prompt, edits=[edit], max_new_tokens=40, seed=seed)
        samples.append({"prompt": prompt, **said.to_json()})
    wanted = sorted((words | kinds)[best.latent].items(), key=lambda pair: -pair[1])
    return {
        **samples[0],
        "n_candidates": len(words | kinds),
        "label": atlas.feature(best.latent).label,
        "promise": owners[best.latent] if best.latent in kinds else "the words it fires on",
        "promised": [lm.token_text(token) for token, _ in wanted],
        "writer": best.to_json(),
        "samples": samples,
    }


def kind_promises(
    rows: Iterable[Row], owners: Mapping[int, str], typical: Mapping[str, dict[int, float]]
) -> Promises:
    """What the latents owned by a metadata value promise; those that fire most, evenly by value."""
    of: dict[str, list[int]] = {value: [] for value in typical}
    for row in sorted(rows, key=lambda row: -row.density):
        if row.latent in owners:
            of[owners[row.latent]].append(row.latent)
    most = N_KINDS // max(1, len(of))
    return {latent: typical[value] for value, own in of.items() for latent in own[:most]}


def word_promises(lm: LM, rows: Iterable[Row], common: Collection[int] = ()) -> Promises:
    """The words each feature fires on, commonest first.

    Words that many features share, and those whose tokens are `common`, are left out.
    """
    fired = {row.latent: [token for token in row.tokens if _is_word(token)] for row in rows}
    shared = Counter(word for words in fired.values() for word in {_bare(w) for w in words})
    most = max(2.0, _SHARED * len(fired))
    own = {
        latent: [word for word in words if shared[_bare(word)] <= most]
        for latent, words in fired.items()
    }
    pieces = sorted({word for words in own.values() for word in words})
    ids = {p: e.ids[0] for p, e in zip(pieces, lm.encode(pieces), strict=True) if len(e.ids) == 1}
    ids = {piece: token for piece, token in ids.items() if token not in common}
    promised = {latent: by_rank(ids[w] for w in words if w in ids) for latent, words in own.items()}
    return {latent: tokens for latent, tokens in promised.items() if tokens}


def common_tokens(store: ActivationStore) -> set[int]:
    """Tokens of more than _COMMON of the train documents, and _FEW: a model writes them anyway."""
    n_docs, found_in = 0, Counter[int]()
    for doc in store.documents("train"):
        n_docs += 1
        found_in.update(set(doc.token_ids))
    return {token for token, n in found_in.items() if n > max(_FEW, _COMMON * n_docs)}


def owned(mass: Mapping[int, Mapping[str, float]], store: ActivationStore) -> dict[int, str]:
    """Latents that fire almost only on one metadata value, one of under a quarter of the corpus.

    A language or topic of much of the corpus is what a model writes anyway.
    """
    counts = _tokens_by_value(store)
    total = store.n_tokens("train")
    rare = {value for value, tokens in counts.items() if tokens.total() < total / 4}
    found = {}
    for latent, shares in mass.items():
        value = max(rare & set(shares), key=lambda v: shares[v], default=None)
        if value is not None and shares[value] >= _OWNED:
            found[latent] = value
    return found


def typical_tokens(
    store: ActivationStore, values: Iterable[str], left_out: frozenset[int]
) -> dict[str, dict[int, float]]:
    """For each metadata value v the tokens t that mark it most, by p(t|v) · log(p(t|v) / p(t))."""
    counts = _tokens_by_value(store)
    everywhere: Counter[int] = Counter()
    for doc in store.documents("train"):
        everywhere.update(doc.token_ids)
    n = everywhere.total()

    def mark(value: str, token: int) -> float:
        share = counts[value][token] / counts[value].total()
        return share * math.log(share * n / everywhere[token])

    return {
        value: dict.fromkeys(
            sorted(set(counts[value]) - left_out, key=lambda t: -mark(value, t))[:_N_TYPICAL], 1.0
        )
        for value in sorted(set(values))
    }


def best_readers(promised: Promises, rows: Sequence[Row], n: int) -> Promises:
    """The n latents of those that read whose labels have the highest held-out F1, best first.

    All that read are worth a screening: what a row promises by its logit lens says little of what
    it writes, since half of the model stands between.
    """
    f1 = {row.latent: row.label_f1 or 0.0 for row in rows}
    reads = [latent for latent in promised if f1[latent] >= _READS]
    return {latent: promised[latent] for latent in sorted(reads, key=lambda i: -f1[i])[:n]}


def _tokens_by_value(store: ActivationStore) -> dict[str, Counter[int]]:
    counts: dict[str, Counter[int]] = {}
    for doc in store.documents("train"):
        for key, value in doc.meta.items():
            counts.setdefault(f"{key}={value}", Counter()).update(doc.token_ids)
    return counts


def _is_word(piece: str) -> bool:
    word = piece.strip()
    return len(word) > 3 and word.isalpha()


def _bare(piece: str) -> str:
    return piece.strip().lower()
