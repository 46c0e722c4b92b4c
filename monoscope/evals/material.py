"""What a metric family is given: the SAE, the data, the model, how much of each, and the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from monoscope import __version__
from monoscope.artifact.checks import weights_hash
from monoscope.errors import require_at_least
from monoscope.evals import reconstruction, tokens
from monoscope.evals.baselines import FIT_TOKENS, PCA, Method, RandomSAE, fit_baselines
from monoscope.evals.cache import Cache, Figures
from monoscope.evals.probe_tasks import CPU_TASKS
from monoscope.sae.recipes import RECIPES
from monoscope.sites import Site

if TYPE_CHECKING:
    from monoscope.data.store import ActivationStore
    from monoscope.lm.protocol import LM
    from monoscope.sae import SAE

Tell = Callable[[str, int, int], None]
"""Called with what is being done, how many parts of it are done, and how many there are."""


Trainer = Callable[..., Any]
"""`monoscope.train.alike`, which this room may not import: an SAE and x [N,D] in, a run out."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of everything a suite looks at; tokens unless the name says otherwise."""

    splice_tokens: int = 16_384
    held_out_tokens: int | None = None
    slice_tokens: int | None = 32_768
    dead_tokens: int = 500_000
    probe_texts: int = 600
    probe_text_tokens: int = 48
    probe_tasks: tuple[str, ...] | None = CPU_TASKS
    corpus_docs: int = 2_000
    letter_words: int = 1_500
    train_tokens: int = 300_000
    n_seeds: int = 3
    world_samples: int = 400_000
    random_model_tokens: int = 60_000


NO_DIRECTIONS = "the latents of an autoencoder with hidden layers are no directions in x"
NEVER_OFF = ("sigmoid", "identity")
"""Activations under which every latent has a value on every token: their L0 is no setting."""

_L0_TOKENS = 16_384

CPU = Sizes()
FULL = Sizes(
    splice_tokens=131_072,
    slice_tokens=None,
    dead_tokens=10_000_000,
    probe_texts=2_000,
    probe_text_tokens=256,
    probe_tasks=None,
    corpus_docs=20_000,
    letter_words=6_000,
    train_tokens=4_000_000,
    n_seeds=5,
    world_samples=4_000_000,
    random_model_tokens=500_000,
)


@dataclass(frozen=True, kw_only=True)
class Material:
    """One SAE with all that its evaluation may need; `Material.key` says which it is.

    train: makes further SAEs as this one was made, for stability, worlds and the random-weights
    control; where it is None these families say so. others: SAEs of the same site trained with
    other seeds. atlas: folder of the SAE's atlas, for label scores. beside: whether the family
    "core" measures baselines too; the others always do.
    """

    sae: SAE
    store: ActivationStore
    lm: LM | None = None
    train: Trainer | None = None
    others: tuple[SAE, ...] = ()
    atlas: Path | None = None
    sizes: Sizes = CPU
    beside: bool = True
    seed: int = 0
    bootstrap: int = 1000
    cache: Cache = field(default_factory=lambda: Cache(None))
    tell: Tell = lambda what, done, total: None

    def __post_init__(self) -> None:
        require_at_least(self, {"bootstrap": 0})
        limited = {} if self.sizes.held_out_tokens is None else {"held_out_tokens": 1}
        require_at_least(self.sizes, {**limited, "splice_tokens": 1, "dead_tokens": 0})

    @property
    def site(self) -> Site:
        return Site.parse(self.store.site)

    @cached_property
    def weights(self) -> str:
        """SHA-256 of the SAE's weights."""
        return weights_hash(self.sae)

    @cached_property
    def data(self) -> str:
        """SHA-256 of the hashes of the store's shards."""
        marks = [(shard.sha256, shard.docs_sha256) for shard in self.store.manifest.shards]
        return hashlib.sha256(repr(marks).encode()).hexdigest()

    def key(self, name: str, version: int, **more: Any) -> dict[str, Any]:
        """What the figures of a family depend on."""
        return {
            "family": name,
            "version": version,
            "sae": self.weights,
            "config": self.sae.config.to_json(),
            "recipe": self.sae.provenance.get("recipe"),
            "trained": (self.sae.provenance.get("config") or {}).get("train"),
            "trains": self.train is not None,
            "monoscope": __version__,
            "store": self.data,
            "model": None if self.lm is None else dict(self.lm.identity),
            "seed": self.seed,
            "bootstrap": self.bootstrap,
            "sizes": asdict(self.sizes),
            **more,
        }

    def part(
        self, name: str, version: int, more: Mapping[str, Any], make: Callable[[], Figures]
    ) -> Figures:
        """A part of a family's work, from the cache or computed now."""
        return self.cache.get(name, self.key(name, version, **more), make)

    @cached_property
    def mean(self) -> Tensor:
        """Train mean [D] float32."""
        return torch.as_tensor(self.store.norm_stats.mean).float()

    @cached_property
    def l0(self) -> float:
        """Mean L0 on a sample of train tokens: what the baselines are held to."""
        return mean_l0(self.sae, self.sample)

    @property
    def sample(self) -> Iterable[Tensor]:
        """Tiles of train tokens [n,D] that mean L0 is taken on."""
        return tokens.train_tiles(self.store, _L0_TOKENS, self.seed)

    @property
    def untrainable(self) -> str | None:
        """Why no SAE can be trained as this one was, in words; None where it can."""
        recipe = self.sae.provenance.get("recipe")
        if self.train is None or recipe is None:
            return "needs a trainer and an SAE that says its recipe"
        return None if recipe in RECIPES else f"the SAE's recipe {recipe!r} is none of monoscope's"

    @property
    def has_directions(self) -> bool:
        """Whether a row of W_dec is a direction in x."""
        return not getattr(self.sae.config, "hidden", ())

    def train_alike(self, source: Any, **changes: Any) -> SAE:
        """Another SAE, trained on `source` as this one was, on its device; see `Trainer`.

        An SAE that recorded its recipe but no settings is held to its own L0.
        """
        assert self.train is not None
        sae = self.sae
        if not sae.provenance.get("config") and sae.config.activation not in NEVER_OFF:
            changes.setdefault("target_l0", self.l0 or None)
        changes.setdefault("device", str(sae.W_dec.device))
        made: SAE = self.train(sae, source, **changes).sae
        return made

    @cached_property
    def baselines(self) -> dict[str, Method]:
        """random, neurons, pca and mean, fitted on train tokens at the SAE's own L0."""
        train = tokens.train_tiles(self.store, FIT_TOKENS, self.seed)
        return fit_baselines(train, self.mean, self.sae.config.d_sae, self.l0, self.seed)

    @cached_property
    def random(self) -> RandomSAE:
        """The frozen random SAE among the baselines."""
        found = self.baselines["random"].reconstruct
        assert isinstance(found, RandomSAE)
        return found

    @cached_property
    def pca(self) -> PCA:
        """All D principal components of train tokens, the last one first in variance."""
        tiles = tokens.train_tiles(self.store, FIT_TOKENS, self.seed)
        return PCA(tiles, self.mean, len(self.mean))

    @property
    def methods(self) -> dict[str, reconstruction.Reconstruct]:
        """The SAE and every baseline as reconstructions."""
        mine = {"sae": reconstruction.with_sae(self.sae)}
        return mine | {name: method.reconstruct for name, method in self.baselines.items()}

    def held_out_docs(self, n_tokens: int | None) -> list[int]:
        """Held-out documents, in the seed's order, that hold n_tokens."""
        return tokens.choose_documents(self._lengths, n_tokens, self.seed)

    @cached_property
    def _lengths(self) -> dict[int, int]:
        return tokens.held_out_lengths(self.store)


def mean_l0(sae: SAE, tiles: Iterable[Tensor]) -> float:
    """Mean number of non-zero codes over tokens x [n,D]; 0 where there are none."""
    active = total = 0
    for x in tiles:
        codes = sae.encode(x.to(sae.W_dec.device))
        active += int((codes.values != 0).sum())
        total += len(x)
    return active / max(total, 1)
