"""sweep(): train a grid of SAEs on one pass, measure each, and write table, plots and law."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from monoscope.errors import ConfigError, InputError, OutputError, TrainingError
from monoscope.evals import evaluate
from monoscope.files import atomic_path, require_folder, write_atomic
from monoscope.locks import folder_lock
from monoscope.sae.config import WITH_K
from monoscope.sae.recipes import get_recipe
from monoscope.sweep.page import render
from monoscope.sweep.plot import panels, standalone
from monoscope.sweep.scaling import Advice, Law, fit_law, flop_per_token, recommend
from monoscope.train.grid import Plan, Run
from monoscope.train.loop import Progress
from monoscope.train.order import Order

NOTE = "sweep.json"
PLOT = "scaling-law.svg"
FILES = ("sweep.parquet", "sweep.csv", "sweep.html", PLOT, "saes")
COLUMNS = pa.schema([
    ("name", pa.string()), ("recipe", pa.string()), ("d_sae", pa.int64()), ("k", pa.float64()),
    ("seed", pa.int64()), ("n_tokens", pa.int64()), ("status", pa.string()),
    ("fvu", pa.float64()), ("l0", pa.float64()), ("dead_fraction", pa.float64()),
    ("target_reached", pa.bool_()), ("measured_on", pa.string()), ("flop", pa.float64()),
    ("tokens_per_step_second", pa.float64()), ("out", pa.string()), ("error", pa.string()),
])  # fmt: skip


@dataclass(frozen=True)
class Sweep:
    """A finished sweep: a row for each SAE, as in sweep.parquet; the law and the advice, if any.

    no_law, no_advice: why there is none.
    """

    rows: list[dict[str, Any]]
    law: Law | None
    no_law: str | None
    advice: Advice | None
    no_advice: str | None
    out: Path

    def to_json(self) -> dict[str, Any]:
        """What the command line prints."""
        return {
            "out": str(self.out),
            "rows": self.rows,
            "law": None if self.law is None else self.law.to_json(),
            "no_law": self.no_law,
            "advice": None if self.advice is None else self.advice.to_json(),
            "no_advice": self.no_advice,
        }


def sweep(
    store: Any,
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
) -> Sweep:
    """Train every combination of d_sae, k, recipe, seed and n_tokens on one pass over a store.

    k: latents a token; the target L0 of recipes with a penalty; passed over by the others.
    n_tokens: of a run, each with a schedule of its own; several let the law say what tokens are
    worth.  budget: FLOP to spend on one SAE at L0 budget_k (default: the middle k of the sweep).
    n_eval_tokens: held-out tokens to measure each SAE on; a source without held-out tokens is
    measured on training data, and the table says so.  target_reached: whether the L0 of training
    came to the target it was steered to; null where it was not steered.
    resume: go on with the sweep in `out`; a larger grid keeps what is finished there.

    Writes sweep.json, sweep.parquet and sweep.csv (one row an SAE), sweep.html (FVU against L0,
    d_sae and tokens, with the law), its plots as scaling-law.svg, and saes/<name>/. An SAE whose
    training diverges is a row with its error.

    Raises ConfigError, before anything is written, OutputError for a folder that holds a sweep
    that is not to be resumed, and what `train` raises.
    """
    orders = list(_orders(_listed(d_sae), _listed(k), _listed(recipe), _listed(seed),
                          _listed(n_tokens), lr, dict(settings or {}), Path(out)))  # fmt: skip
    plan = Plan(
        store, [order for order, _ in orders], batch_size=batch_size, data_seed=data_seed,
        device=device,
    )  # fmt: skip
    with plan, _held(out, resume) as folder:
        running = json.dumps({"status": "running"})
        results = plan.train(
            resume=resume, progress=progress, begun=lambda: write_atomic(folder / NOTE, running)
        )
        rows = [
            _row(order, asked, result, store, n_eval_tokens)
            for (order, asked), result in zip(orders, results, strict=True)
        ]
        d_in = next((r.sae.d_in for r in results if isinstance(r, Run)), 0)
        made = _concluded(rows, d_in, budget, budget_k, folder)
        _write(made, folder)
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
    lr: float | None, settings: dict[str, Any], out: Path,
) -> Iterable[tuple[Order, float | None]]:  # fmt: skip
    """Every combination once, with the k that was asked for; a recipe without k has it once."""
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
                out=out / "saes" / called, **how,
            ),
            k if how else None,
        )  # fmt: skip


def _row(
    order: Order, k: float | None, result: Run | TrainingError, store: Any, n_eval: int | None
) -> dict[str, Any]:
    assert order.out is not None
    row: dict[str, Any] = dict.fromkeys(COLUMNS.names)
    row |= {
        "name": Path(order.out).name, "recipe": order.recipe, "d_sae": order.d_sae, "k": k,
        "seed": order.seed, "n_tokens": order.n_tokens, "out": str(order.out),
    }  # fmt: skip
    if isinstance(result, TrainingError):
        return row | {"status": "stopped", "error": str(result)}
    metrics = result.metrics
    figures = {name: metrics[name] for name in ("fvu", "l0", "dead_fraction")}
    measured_on = "train"
    if hasattr(store, "n_tokens") and store.n_tokens("held_out") > 0:
        measured = evaluate(
            result.sae, store, baselines=False, bootstrap=0, n_tokens=n_eval,
            dead_tokens=metrics["measured_on_tokens"],
        )  # fmt: skip
        figures = {name: getattr(measured, name) for name in figures}
        measured_on = "held_out"
    cost = flop_per_token(result.sae.d_in, order.d_sae or 0, figures["l0"]) * metrics["n_tokens"]
    return row | figures | {
        "status": "finished", "measured_on": measured_on, "n_tokens": metrics["n_tokens"],
        "target_reached": metrics.get("target", {}).get("reached"),
        "flop": float(cost), "tokens_per_step_second": metrics["tokens_per_step_second"],
    }  # fmt: skip


def _concluded(
    rows: list[dict[str, Any]], d_in: int, budget: float | None, budget_k: float | None,
    folder: Path,
) -> Sweep:  # fmt: skip
    """Law and advice, where the finished rows allow them. A law is for one recipe."""
    done = [row for row in rows if row["status"] == "finished" and row["k"] is not None]
    law, no_law = None, None
    if len({row["recipe"] for row in done}) > 1:
        no_law = "a scaling law is for one recipe; this sweep has several"
    else:
        try:
            law = fit_law(
                *([row[name] for row in done] for name in ("d_sae", "l0", "n_tokens", "fvu"))
            )
        except InputError as error:
            no_law = str(error)
    advice, no_advice = None, None if budget is None else no_law
    if law is not None and budget is not None:
        ks = sorted(row["l0"] for row in done)
        try:
            advice = recommend(law, budget, budget_k or ks[len(ks) // 2], d_in)
        except InputError as error:
            no_advice = str(error)
    return Sweep(rows, law, no_law, advice, no_advice, folder)


def _write(made: Sweep, folder: Path) -> None:
    table = pa.Table.from_pylist(made.rows, schema=COLUMNS)
    with atomic_path(folder / "sweep.parquet") as part:
        pq.write_table(table, part)
    with atomic_path(folder / "sweep.csv") as part:
        pacsv.write_csv(table, part)
    done = [row for row in made.rows if row["status"] == "finished"]
    drawn = panels(done, made.law) if done else []
    write_atomic(folder / "sweep.html", render(made.rows, made.to_json(), drawn))
    if drawn:
        write_atomic(folder / PLOT, standalone(drawn))
    told = made.to_json() | {"status": "finished"}
    write_atomic(folder / NOTE, json.dumps(told, indent=1) + "\n")
