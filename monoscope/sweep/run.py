"""sweep(): train a grid of SAEs on one pass, measure each, and write table, plots and laws."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from monoscope import __version__
from monoscope.artifact.checks import weights_hash
from monoscope.errors import ConfigError, OutputError, TrainingError
from monoscope.evals.cache import Cache
from monoscope.evals.run import evaluate
from monoscope.files import require_folder, write_atomic
from monoscope.locks import folder_lock
from monoscope.sae import SAE
from monoscope.sae.config import WITH_K
from monoscope.sae.recipes import get_recipe
from monoscope.sweep.result import COLUMNS, FILES, MEASURED, NOTE, Sweep, conclude, write
from monoscope.sweep.scaling import flop_per_token
from monoscope.sweep.sources import sources_of
from monoscope.train.grid import Plan, Run, train_plans
from monoscope.train.loop import Progress
from monoscope.train.order import Order

_FIGURES = ("fvu", "l0", "dead_fraction")


def sweep(
    source: Any,
    *,
    out: str | Path,
    d_sae: int | Sequence[int],
    k: float | Sequence[float] = 32,
    recipe: str | Sequence[str] = "batchtopk",
    seed: int | Sequence[int] = 0,
    n_tokens: int | Sequence[int],
    batch_size: int = 2048,
    data_seed: int = 0,
    lr: float | None = None,
    settings: Mapping[str, Any] | None = None,
    budget: float | None = None,
    budget_k: float | None = None,
    device: str | None = None,
    resume: bool = False,
    n_eval_tokens: int | None = 65_536,
    progress: Callable[[Progress], None] | None = None,
    measured: Callable[[Mapping[str, Any]], None] | None = None,
) -> Sweep:
    """Train every combination of site, d_sae, k, recipe, seed and n_tokens on one pass.

    source: as for `train`; or a list of stores, or of Lives, with a site each. Lives share one
    reading: the model runs once for all of their sites.
    k: latents a token; the target L0 of recipes with a penalty; passed over by the others.
    n_tokens: of a run, each with a schedule of its own; several let the law say what tokens are
    worth.  budget: FLOP to spend on one SAE at L0 budget_k (default: the middle k of the sweep).
    n_eval_tokens: held-out tokens to measure each SAE on; a source without held-out tokens is
    measured on training data, and the table says so.  target_reached: whether the L0 of training
    came to the target it was steered to; null where it was not steered.
    resume: go on with the sweep in `out`; a larger grid, or more sites, keeps what is finished.
    progress: as for `train`.  measured: called with each row of the table as it comes.

    Writes sweep.json, sweep.parquet and sweep.csv (one row an SAE), sweep.html (FVU against L0,
    d_sae and tokens, with the law of each site), its plots as scaling-law.svg, and saes/<name>/.
    An SAE whose training diverges is a row with its error.

    Raises ConfigError, before anything is written, OutputError for a folder that holds a sweep
    that is not to be resumed, and what `train` raises.
    """
    sources = sources_of(source)
    grid = list(_orders(_listed(d_sae), _listed(k), _listed(recipe), _listed(seed),
                        _listed(n_tokens), lr, dict(settings or {})))  # fmt: skip
    with contextlib.ExitStack() as held:
        plans = [
            held.enter_context(Plan(
                data, _placed([order for order, _ in grid], Path(out), site, len(sources) > 1),
                batch_size=batch_size, data_seed=data_seed, device=device,
            ))
            for site, data in sources
        ]  # fmt: skip
        folder = held.enter_context(_held(out, resume))
        running = json.dumps({"status": "running"})
        results = train_plans(
            plans, resume=resume, progress=progress,
            begun=lambda: write_atomic(folder / NOTE, running),
        )  # fmt: skip
        cache = Cache(folder / MEASURED)
        rows, widths = [], {}
        for (site, data), plan, trained in zip(sources, plans, results, strict=True):
            widths[site] = next((made.sae.d_in for made in trained if isinstance(made, Run)), 0)
            for order, (_, asked), result in zip(plan.orders, grid, trained, strict=True):
                rows.append(_row(site, order, asked, result, data, n_eval_tokens, cache))
                if measured is not None:
                    measured(rows[-1])
        made = conclude(rows, widths, budget, budget_k, folder)
        write(made)
    return made


@contextlib.contextmanager
def _held(out: str | Path, resume: bool) -> Iterator[Path]:
    """The folder of a sweep, for this process alone."""
    folder = require_folder(out, NOTE, also=FILES)
    with folder_lock(folder, "sweep"):
        if (folder / NOTE).exists() and not resume:
            raise OutputError(
                f"{folder} already holds a sweep",
                hint="Add --resume to go on with it or enlarge it, or choose another --out.",
            )
        yield folder


def _listed(given: Any) -> list[Any]:
    """One value or several as a list; ConfigError for none, or one given twice."""
    values = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    if not values or len(set(values)) != len(values):
        raise ConfigError("a sweep needs each value once", got=values)
    return values


def _orders(
    d_saes: list[int], ks: list[float], recipes: list[str], seeds: list[int], totals: list[int],
    lr: float | None, settings: dict[str, Any],
) -> Iterable[tuple[Order, float | None]]:  # fmt: skip
    """Every combination once, with the k that was asked for; a recipe without k has it once.

    out: its name, as yet.
    """
    seen = set()
    for name, d_sae, k, seed, n_tokens in itertools.product(recipes, d_saes, ks, seeds, totals):
        row = get_recipe(name)
        how: dict[str, Any] = {}
        if row.activation in WITH_K:
            how = {"k": k}
        elif row.sparsity is not None:
            how = {"target_l0": k}
        called = f"{name}-d{d_sae}" + (f"-k{k:g}" if how else "") + f"-s{seed}-t{n_tokens}"
        if called in seen:
            continue
        seen.add(called)
        yield (
            Order(
                d_sae=d_sae, recipe=name, n_tokens=n_tokens, lr=lr, seed=seed, settings=settings,
                out=called, **how,
            ),
            k if how else None,
        )  # fmt: skip


def _placed(orders: list[Order], out: Path, site: str | None, several: bool) -> list[Order]:
    """The orders with their folders, named after the site too where there are several.

    A run of that site that was begun under the other name, before sites came or went, keeps it.
    """
    placed = []
    for order in orders:
        plain = out / "saes" / str(order.out)
        sited = plain if site is None else plain.with_name(f"{_as_name(site)}-{plain.name}")
        usual, other = (sited, plain) if several else (plain, sited)
        there = site is not None and _site_in(usual) != site and _site_in(other) == site
        placed.append(replace(order, out=other if there else usual))
    return placed


def _as_name(site: str) -> str:
    return site.replace(":", "-")


def _site_in(folder: Path) -> str | None:
    """The site that the run in a folder says it is of; None where there is no telling."""
    try:
        told = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        site = told["config"]["data"]["source"]["site"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(site)


def _row(
    site: str | None, order: Order, k: float | None, result: Run | TrainingError, store: Any,
    n_eval: int | None, cache: Cache,
) -> dict[str, Any]:  # fmt: skip
    assert order.out is not None
    row: dict[str, Any] = dict.fromkeys(COLUMNS.names)
    row |= {
        "name": Path(order.out).name, "site": site, "recipe": order.recipe, "d_sae": order.d_sae,
        "k": k, "seed": order.seed, "n_tokens": order.n_tokens, "out": str(order.out),
    }  # fmt: skip
    if isinstance(result, TrainingError):
        return row | {"status": "stopped", "error": str(result)}
    metrics = result.metrics
    figures = {name: metrics[name] for name in _FIGURES}
    measured_on = "train"
    if hasattr(store, "n_tokens") and store.n_tokens("held_out") > 0:
        figures = _held_out(result.sae, store, n_eval, metrics["measured_on_tokens"], cache)
        measured_on = "held_out"
    cost = flop_per_token(result.sae.d_in, order.d_sae or 0, figures["l0"]) * metrics["n_tokens"]
    return row | figures | {
        "status": "finished", "measured_on": measured_on, "n_tokens": metrics["n_tokens"],
        "target_reached": metrics.get("target", {}).get("reached"),
        "flop": float(cost), "tokens_per_step_second": metrics["tokens_per_step_second"],
    }  # fmt: skip


def _held_out(
    sae: SAE, store: Any, n_tokens: int | None, dead_tokens: int, cache: Cache
) -> dict[str, Any]:
    """The figures on n_tokens held-out tokens; kept, so that going on measures none twice."""
    there = store.n_tokens("held_out")
    key = {
        "sae": weights_hash(sae),
        "monoscope": __version__,
        "corpus": store.manifest.corpus_fingerprint,
        "n_tokens": there if n_tokens is None else min(n_tokens, there),
        "dead_tokens": dead_tokens,
    }

    def measure() -> dict[str, Any]:
        found = evaluate(
            sae, store, baselines=False, bootstrap=0, n_tokens=n_tokens, dead_tokens=dead_tokens
        )
        return {name: getattr(found, name) for name in _FIGURES}

    return cache.get("held-out", key, measure)
