"""`evaluate`: one SAE, measured on the held-out documents of a store and inside its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from monoscope.artifact.checks import check_together
from monoscope.errors import ConfigError, DataError
from monoscope.evals import downstream, reconstruction, splice, tokens
from monoscope.evals.baselines import FIT_TOKENS, Method, fit_baselines
from monoscope.evals.bootstrap import LEVEL, Array, Metrics, Sums, intervals, point, ratio
from monoscope.evals.reconstruction import Fired, Reconstruct
from monoscope.evals.result import Baseline, Result
from monoscope.sites import Site

if TYPE_CHECKING:
    from monoscope.data.store import ActivationStore
    from monoscope.lm.protocol import LM
    from monoscope.sae import SAE

Progress = Callable[[int, int], None]
"""Called with the tokens done, over all stages, and the tokens there will be."""

DEAD_TOKENS = 500_000
"""Tokens, held-out ones first and then train ones, in which a latent must fire not to be dead."""

_BASELINE_SHARE = 4  # baselines are spliced on a fourth of the documents: each costs a forward pass


@torch.no_grad()
def evaluate(
    sae: SAE,
    store: ActivationStore,
    lm: LM | None = None,
    *,
    n_tokens: int | None = None,
    n_splice_tokens: int = 16_384,
    baselines: bool = True,
    bootstrap: int = 1000,
    seed: int = 0,
    dead_tokens: int = DEAD_TOKENS,
    progress: Progress | None = None,
    inside: Sums | None = None,
) -> Result:
    """Measure an SAE on held-out documents; `Result` defines every figure it holds.

    n_tokens: held-out tokens to reconstruct, in whole documents drawn at random; None takes all.
    n_splice_tokens: tokens of these documents that pass through `lm` with the reconstruction
    really in place; without an lm the downstream figures are None. Baselines are spliced on a
    quarter of them.
    bootstrap: replicates behind the 95 % intervals; 0 leaves them out.
    dead_tokens: the window for dead latents, filled up with train tokens.
    inside: sums of `downstream.over` on these very documents, where they were made before.

    Raises DataError if the store has no held-out tokens or they do not vary, MismatchError if SAE,
    store and model do not belong together, ConfigError for a count out of range.
    """
    _check_counts(n_tokens, n_splice_tokens, bootstrap, dead_tokens)
    check_together(sae, store, lm)
    lengths = tokens.held_out_lengths(store)
    docs = tokens.choose_documents(lengths, n_tokens, seed)
    spliced = tokens.choose_documents(lengths, n_splice_tokens, seed) if lm is not None else []
    job = _Job(sae, store, lm, docs, spliced, bootstrap, seed, inside)
    bar = _Bar(progress, job.work(lengths, baselines, dead_tokens))

    fired = Fired(sae.config.d_sae)
    mean = reconstruction.mean_of(tokens.held_out_tiles(store, docs))
    own = job.reconstruct({"sae": reconstruction.with_sae(sae, fired)}, mean, bar)["sae"]
    _check_varies(own)
    job.watch(fired, dead_tokens, bar)
    methods = job.fit_baselines(own) if baselines else {}
    theirs = job.reconstruct({n: m.reconstruct for n, m in methods.items()}, mean, bar)
    inside, inside_theirs = job.splice_in(methods, bar)
    bar.finish()
    return Result(
        **job.row(own, inside, _downstream),
        dead_fraction=fired.dead_fraction,
        dead_window_tokens=fired.n_tokens,
        baselines={
            name: Baseline(
                method=method.description,
                **job.row(theirs[name], inside_theirs, partial(splice.figures, name=name)),
            )
            for name, method in methods.items()
        },
        provenance=job.provenance(),
    )


@dataclass(frozen=True)
class _Job:
    """What every stage of one evaluation needs.

    docs: held-out documents to reconstruct; spliced: those to splice, both in the seed's order;
    inside: the sums of splicing them, where they are there already.
    """

    sae: SAE
    store: ActivationStore
    lm: LM | None
    docs: list[int]
    spliced: list[int]
    bootstrap: int
    seed: int
    inside: Sums | None = None

    def work(self, lengths: Mapping[int, int], baselines: bool, dead_tokens: int) -> int:
        """Tokens that all stages together will look at."""
        n_held_out = sum(lengths[d] for d in self.docs)
        n_train = min(max(0, dead_tokens - n_held_out), self.store.n_tokens("train"))
        n_spliced = sum(lengths[d] for d in self.spliced)
        return n_held_out * (1 + baselines) + n_train + n_spliced

    def reconstruct(
        self, methods: Mapping[str, Reconstruct], mean: Tensor, bar: _Bar
    ) -> dict[str, Sums]:
        """Reconstruction sums of each method over the held-out tokens, whose mean is `mean`."""
        if not methods:
            return {}
        tiles = bar.over(tokens.held_out_tiles(self.store, self.docs))
        return {n: s.sums() for n, s in reconstruction.measure(methods, tiles, mean).items()}

    def watch(self, fired: Fired, dead_tokens: int, bar: _Bar) -> None:
        """Show the SAE train tokens until `fired` has seen dead_tokens, or all there are."""
        encode = reconstruction.with_sae(self.sae, fired)
        for x in tokens.train_tiles(self.store, dead_tokens - fired.n_tokens, self.seed):
            encode(x)
            bar.add(len(x))

    def fit_baselines(self, own: Sums) -> dict[str, Method]:
        """The baselines, fitted on train tokens, at the L0 that the SAE showed."""
        l0 = point(own, reconstruction.figures)["l0"]
        assert l0 is not None
        train = tokens.train_tiles(self.store, FIT_TOKENS, self.seed)
        return fit_baselines(train, self._train_mean(), self.sae.config.d_sae, l0, self.seed)

    def splice_in(
        self, methods: Mapping[str, Method], bar: _Bar
    ) -> tuple[Sums | None, Sums | None]:
        """Downstream sums of SAE and ablations, and, on fewer documents, those of all methods."""
        if self.lm is None:
            return None, None
        mine = downstream.replacements(self.sae, self._train_mean())
        own = self.inside or self._splice(mine, self.spliced, bar)
        if not methods:
            return own, None
        others = {n: _only_x_hat(m.reconstruct) for n, m in methods.items() if n not in mine}
        few = self.spliced[: max(1, len(self.spliced) // _BASELINE_SHARE)]
        return own, own.beside(self._splice(others, few, bar))

    def _splice(self, replace: Mapping[str, splice.Replace], docs: list[int], bar: _Bar) -> Sums:
        assert self.lm is not None
        manifest = self.store.manifest
        stored = self.store.get_documents(docs)
        rows = splice.windows(
            [stored[d] for d in docs], manifest.prefix_ids, manifest.arguments.context_length
        )
        site = Site.parse(self.store.site)
        return splice.splice(self.lm, site, self.store.mask_policy, replace, rows, bar.add).sums()

    def row(self, sums: Sums, inside: Sums | None, downstream: Metrics) -> dict[str, Any]:
        """The fields that SAE and baselines share, from their two tables of sums."""
        parts = [(sums, reconstruction.figures)] + ([(inside, downstream)] if inside else [])
        figures: dict[str, Any] = {"ci": {}, "n_splice_tokens": 0, "n_splice_documents": 0}
        for table, metrics in parts:
            figures |= point(table, metrics)
            figures["ci"] |= intervals(table, metrics, self.bootstrap, self.seed)
        figures["n_tokens"], figures["n_documents"] = _size(sums)
        if inside is not None:
            figures["n_splice_tokens"], figures["n_splice_documents"] = _size(inside)
        return figures

    def provenance(self) -> dict[str, Any]:
        """Where the figures come from, as JSON values."""
        return {
            "model": dict(self.store.identity),
            "site": str(self.store.site),
            "mask_policy": self.store.mask_policy.to_dict(),
            "context_length": self.store.manifest.arguments.context_length,
            "bootstrap": self.bootstrap,
            "level": LEVEL,
            "seed": self.seed,
        }

    def _train_mean(self) -> Tensor:
        return torch.as_tensor(self.store.norm_stats.mean).float()


class _Bar:
    """Adds up the tokens done over all stages and reports them."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def add(self, n: int) -> None:
        self.done = min(self.total, self.done + n)
        if self.progress is not None:
            self.progress(self.done, self.total)

    def over(self, tiles: reconstruction.Tiles) -> reconstruction.Tiles:
        for x, doc in tiles:
            yield x, doc
            self.add(len(x))

    def finish(self) -> None:
        """Masked tokens make the estimate inexact; the end is the end."""
        self.add(self.total)


def _downstream(sums: Mapping[str, Array]) -> dict[str, Array]:
    """Downstream figures of the SAE, and the cross-entropies they come from."""
    figures = splice.figures(sums, "sae")
    ablated = {f"kl_{name}": ratio(sums[f"kl_{name}"], sums["n"]) for name in ("zero", "mean")}
    losses = splice.losses(sums, ("clean", "sae", "zero", "mean"))
    return losses | ablated | {name: figure for name, figure in figures.items() if name != "ce"}


def _only_x_hat(reconstruct: Reconstruct) -> splice.Replace:
    return lambda x: reconstruct(x)[0]


def _size(sums: Sums) -> tuple[int, int]:
    """Tokens that count, and documents that have any."""
    return int(sums.total()["n"][0]), int(np.count_nonzero(sums.values[:, 0]))


def _check_varies(sums: Sums) -> None:
    """Raise DataError where Σ‖x−μ‖² is zero, for then there is no fraction of it."""
    total = sums.total()
    if not total["variance"][0] > 0:
        raise DataError(
            "the held-out activations are all the same: variance explained means nothing",
            got=f"{int(total['n'][0])} tokens",
            hint="Evaluate on a store with more held-out tokens.",
        )


def _check_counts(
    n_tokens: int | None, n_splice_tokens: int, bootstrap: int, dead_tokens: int
) -> None:
    counts = {
        "n_tokens": (1 if n_tokens is None else n_tokens, 1),
        "n_splice_tokens": (n_splice_tokens, 1),
        "bootstrap": (bootstrap, 0),
        "dead_tokens": (dead_tokens, 0),
    }
    for name, (value, low) in counts.items():
        if value < low:
            raise ConfigError(f"{name} is out of range", got=value, expected=f"at least {low}")
