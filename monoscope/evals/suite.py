"""The suites: which metric families each is made of, in order, and running them one by one.

A family is a module with VERSION and run(material) -> figures, and depends(material) where its
figures depend on more than `Material.key` says; a suite is a tuple of names and
modules. A family that cannot be measured here says why under "skipped"; nothing is left out in
silence. Every family, and the slow ones' parts, are kept by content as they finish.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

from monoscope.artifact.checks import check_together
from monoscope.errors import ConfigError, MismatchError, nearest
from monoscope.evals import (
    ablation,
    corpus_probes,
    density,
    downstream,
    geometry,
    label_scores,
    letters,
    probing,
    random_model,
    recovery,
    saebench,
    slices,
    specials,
    stability,
)
from monoscope.evals.cache import Figures
from monoscope.evals.material import Material
from monoscope.evals.run import evaluate


class _Core:
    """The spine's own evaluation, as a family."""

    VERSION = 2

    @staticmethod
    def depends(material: Material) -> Figures:
        return {} if material.beside else {"baselines": False}

    @staticmethod
    def run(material: Material) -> Figures:
        sizes = material.sizes
        inside = None if material.lm is None else downstream.of(material).by_document()
        return evaluate(
            material.sae,
            material.store,
            material.lm,
            n_tokens=sizes.held_out_tokens,
            n_splice_tokens=sizes.splice_tokens,
            baselines=material.beside,
            bootstrap=material.bootstrap,
            seed=material.seed,
            dead_tokens=sizes.dead_tokens,
            progress=partial(material.tell, "core: reconstruction and baselines"),
            inside=inside,
        ).to_json()


Family = ModuleType | type[_Core]

QUICK: tuple[tuple[str, Family], ...] = (  # what SAEBench's keys need
    ("core", _Core),
    ("density", density),
    ("geometry", geometry),
    ("saebench", saebench),
)
CORE: tuple[tuple[str, Family], ...] = (*QUICK, ("slices", slices), ("special_tokens", specials))
CPU_SUITE: tuple[tuple[str, Family], ...] = (
    *CORE,
    ("worlds", recovery),
    ("corpus_probes", corpus_probes),
    ("ablation", ablation),
    ("letters", letters),
    ("label_scores", label_scores),
    ("stability", stability),
    ("random_model", random_model),
    ("probing", probing),
)
SUITES: dict[str, tuple[tuple[str, Family], ...]] = {
    "quick": QUICK,
    "core": CORE,
    "cpu": CPU_SUITE,
    "full": CPU_SUITE,
}


def require_suite(name: str) -> None:
    """Raise ConfigError, naming the nearest, unless there is a suite of that name."""
    if name not in SUITES:
        close = nearest(name, SUITES)
        raise ConfigError(
            "no such suite",
            got=repr(name),
            expected=", ".join(SUITES),
            hint=f"Did you mean {close}?" if close else None,
        )


def run_suite(
    material: Material,
    suite: str = "quick",
    *,
    finished: Callable[[str, float], None] | None = None,
    clock: Callable[[], float] = time.time,
) -> dict[str, Any]:
    """Evaluate with every family of `suite`: the JSON object of `saebench.output`.

    How much is looked at is `material.sizes`; "cpu" and "full" are the same families, meant for
    the sizes CPU and FULL.

    finished: called with each family's name and seconds. clock: gives the date that is written.

    Raises ConfigError for an unknown suite, MismatchError if SAE, store, model, atlas or further
    SAEs do not belong together.
    """
    require_suite(suite)
    check_together(material.sae, material.store, material.lm)
    for other in material.others:
        check_together(other, material.store, None)
        if other.config.d_in != material.sae.config.d_in:
            raise MismatchError("the SAEs to compare have different widths")
    if material.atlas is not None:
        label_scores.check_atlas(material.atlas, material.weights)
    families: dict[str, Figures] = {}
    for name, family in SUITES[suite]:
        began = time.perf_counter()
        depends = getattr(family, "depends", _nothing_more)
        material.tell(name, 0, 1)
        families[name] = material.part(
            name, family.VERSION, depends(material), partial(family.run, material)
        )
        if finished is not None:
            finished(name, time.perf_counter() - began)
    return saebench.output(material, suite, families, at_millis=int(clock() * 1000))


def _nothing_more(material: Material) -> Figures:
    return {}
