"""Feature absorption by first letters: words whose letter the SAE's own letter latent misses.

After Chanin et al. 2024 (arXiv 2409.14507), on stored activations of whole English words, one
occurrence of each: a dense probe finds the direction p of "begins with this letter"; the letter's
latents are the k that a sparse probe wants; on held-out words that the dense probe gets right,
absorption is counted where every one of them is silent and one other latent alone carries at least
a given share of x's projection on p. Where the model barely represents the letter (see probe_auc),
the figure says nothing.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monoscope.evals.baselines import both_signs
from monoscope.evals.cache import Figures
from monoscope.evals.material import NO_DIRECTIONS, Material
from monoscope.evals.probes import Probe, mean_over, strongest

VERSION = 2
LEAST_WORDS = 30
SHARE = 0.4
"""Of the projection on p that the absorbing latent must carry."""
COSINE = 0.1
"""Least cosine of the absorbing latent's decoder row with p."""
MAX_K = 5
GAIN = 0.03
"""F1 that one more letter latent must add to the sparse probe, else there are no more."""

_WORD = re.compile(r"[ ]?[A-Za-z]{3,}")


@dataclass(frozen=True)
class Words:
    """One occurrence of each word: its letter (0–25) and x [n,D]."""

    letter: np.ndarray
    x: Tensor


def run(material: Material) -> Figures:
    """absorption and probe_auc as means over letters, for the SAE and each baseline.

    "neurons" and "pca" are the axes with both signs, of which the l0 largest fire on a token.
    """
    if not material.has_directions:
        return {"skipped": NO_DIRECTIONS}
    words = collect(material)
    rng = np.random.default_rng([material.seed, 5])
    test = np.zeros(len(words.letter), dtype=bool)
    test[rng.permutation(len(test))[: len(test) // 3]] = True
    counts = np.bincount(words.letter, minlength=26)
    letters = [i for i in range(26) if counts[i] >= LEAST_WORDS]
    if len(letters) < 2:
        return {"skipped": "too few different English words in the store"}
    decoder = material.sae.W_dec.detach().float().cpu().numpy()
    random = material.random
    fired = material.sae.encode(words.x.to(material.sae.W_dec.device))
    bases = {
        "sae": (fired.to_dense().cpu().numpy(), decoder),
        "random": (random.encode(words.x).to_dense().numpy(), random.directions.numpy()),
    }
    d_in, k = len(material.mean), max(1, round(material.l0))
    for name, axes in (("neurons", torch.eye(d_in)), ("pca", material.pca.components.T)):
        both, encode = both_signs(axes, material.mean, k)
        bases[name] = (encode(words.x).numpy(), both.numpy())
    rows: dict[str, list[Figures]] = {name: [] for name in bases}
    x = words.x.numpy()
    for done, letter in enumerate(letters):
        material.tell(f"letter {string.ascii_lowercase[letter]}", done, len(letters))
        y = (words.letter == letter).astype(int)
        probe = Probe(x[~test], y[~test], 0.01, material.seed)
        auc = probe.figures(x[test], y[test])["auc"]
        for name, (codes, directions) in bases.items():
            found = absorbed(codes, directions, x, y, test, probe)
            letter_name = string.ascii_lowercase[letter]
            rows[name].append(found | {"letter": letter_name, "probe_auc": auc})
    out: Figures = {"n_words": len(words.letter), "n_letters": len(letters)}
    for name, held in rows.items():
        rates = [r["absorption"] for r in held if r["absorption"] is not None]
        silent = [r["silent"] for r in held if r["absorption"] is not None]
        out[name] = {
            "absorption": mean_over(rates, material.bootstrap, material.seed),
            "silent": mean_over(silent, material.bootstrap, material.seed),
            "letters": held,
        }
    aucs = [r["probe_auc"] for r in rows["sae"]]
    out["probe_auc"] = mean_over(aucs, material.bootstrap, material.seed)
    return out


def collect(material: Material) -> Words:
    """The first occurrence of each word of the train split, up to letter_words of them."""
    letter: list[int] = []
    xs: list[Tensor] = []
    seen: set[str] = set()
    for info in material.store.shards("train"):
        shard = material.store.read(info)
        docs = material.store.get_documents(shard.doc.unique().tolist())
        for row, (doc, pos) in enumerate(zip(shard.doc.tolist(), shard.pos.tolist(), strict=True)):
            about = docs[doc]
            if about.meta.get("lang", "en") != "en":
                continue
            piece = about.text[about.ends[pos - 1] if pos else 0 : about.ends[pos]]
            word = piece.strip().lower()
            if (
                not _WORD.fullmatch(piece)
                or word in seen
                or not _is_whole(about.text, about.ends[pos])
            ):
                continue
            seen.add(word)
            letter.append(ord(word[0]) - ord("a"))
            xs.append(shard.acts[row].float())
            if len(seen) >= material.sizes.letter_words:
                return Words(np.array(letter), torch.stack(xs))
    d_in = material.store.d_in
    return Words(np.array(letter, dtype=np.int64), torch.stack(xs) if xs else torch.zeros(0, d_in))


def absorbed(
    codes: np.ndarray, directions: np.ndarray, x: np.ndarray, y: np.ndarray, test: np.ndarray,
    probe: Probe,
) -> Figures:  # fmt: skip
    """Rate of absorption among held-out words of the letter that the dense probe gets right.

    codes [n,L], directions [L,D], x [n,D], y [n] (1: the letter), test [n] bool.
    """
    latents = _letter_latents(codes[~test], y[~test])
    p = probe.direction()
    p = p / np.linalg.norm(p)
    along = directions @ p
    norms = np.linalg.norm(directions, axis=1)
    cosine = np.divide(along, norms, out=np.zeros_like(along), where=norms > 0)
    right = test & (y == 1) & (probe.scores(x) > 0)
    if not right.any():
        return {"absorption": None, "n_words": 0, "latents": latents.tolist()}
    parts = codes[right] * along
    total = parts.clip(min=0).sum(1)
    silent = (codes[right][:, latents] == 0).all(1)
    best = parts.argmax(1)
    share = np.divide(parts.max(1), total, out=np.zeros_like(total), where=total > 0)
    taken = silent & (share >= SHARE) & (cosine[best] >= COSINE)
    return {
        "absorption": float(taken.mean()),
        "silent": float(silent.mean()),
        "n_words": int(right.sum()),
        "latents": latents.tolist(),
    }


def _letter_latents(codes: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The strongest latent, and further ones for as long as each adds GAIN to the probe's F1."""
    order = strongest(codes, y, MAX_K)
    best = -1.0
    for k in range(1, MAX_K + 1):
        probe = Probe(codes[:, order[:k]], y, 1.0, 0)
        says = probe.scores(codes[:, order[:k]]) > 0
        both = int((says & (y == 1)).sum())
        f1 = 2 * both / max(int(says.sum()) + int(y.sum()), 1)
        if f1 < best + GAIN:
            return order[: k - 1]
        best = f1
    return order


def _is_whole(text: str, end: int) -> bool:
    """Whether the word ends where its token does."""
    return end >= len(text) or not (text[end].isalnum() or text[end] in "'-")
