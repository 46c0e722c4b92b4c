"""A finished sweep: its rows, what follows from them at each site, and the files that hold it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from monoscope.errors import InputError
from monoscope.files import atomic_path, write_atomic
from monoscope.sweep.page import render
from monoscope.sweep.plot import panels, standalone
from monoscope.sweep.scaling import Advice, Law, fit_law, recommend

NOTE = "sweep.json"
PLOT = "scaling-law.svg"
MEASURED = "measured"  # held-out figures, as they come
FILES = ("sweep.parquet", "sweep.csv", "sweep.html", PLOT, MEASURED, "saes")
COLUMNS = pa.schema([
    ("name", pa.string()), ("site", pa.string()), ("recipe", pa.string()), ("d_sae", pa.int64()),
    ("k", pa.float64()), ("seed", pa.int64()), ("n_tokens", pa.int64()), ("status", pa.string()),
    ("fvu", pa.float64()), ("l0", pa.float64()), ("dead_fraction", pa.float64()),
    ("target_reached", pa.bool_()), ("measured_on", pa.string()), ("flop", pa.float64()),
    ("tokens_per_step_second", pa.float64()), ("out", pa.string()), ("error", pa.string()),
])  # fmt: skip
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Conclusion:
    """What follows from the runs at one site: the law and the advice, if any.

    no_law, no_advice: why there is none.
    """

    law: Law | None
    no_law: str | None
    advice: Advice | None
    no_advice: str | None

    def to_json(self) -> dict[str, Any]:
        """As it stands in sweep.json."""
        return {
            "law": None if self.law is None else self.law.to_json(),
            "no_law": self.no_law,
            "advice": None if self.advice is None else self.advice.to_json(),
            "no_advice": self.no_advice,
        }


@dataclass(frozen=True)
class Sweep(Conclusion):
    """A finished sweep: a row for each SAE, as in sweep.parquet; the law and the advice, if any.

    sites: what follows at each site where there are several; the whole has no law then.
    """

    rows: list[dict[str, Any]]
    out: Path
    sites: dict[str, Conclusion] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """What the command line prints."""
        return {
            "out": str(self.out),
            "rows": self.rows,
            **super().to_json(),
            "sites": {site: found.to_json() for site, found in self.sites.items()},
        }


def conclude(
    rows: list[dict[str, Any]], widths: Mapping[str | None, int], budget: float | None,
    budget_k: float | None, out: Path,
) -> Sweep:  # fmt: skip
    """The sweep of these rows; widths: d_in at each site.  A law mixes no sites and no recipes."""
    found = {
        site: _concluded([row for row in rows if row["site"] == site], d_in, budget, budget_k)
        for site, d_in in widths.items()
    }
    if len(found) == 1:
        (whole,) = found.values()
        return Sweep(whole.law, whole.no_law, whole.advice, whole.no_advice, rows, out)
    none = "a scaling law is for one site; this sweep has several, and a law of each"
    sites = {str(site): at for site, at in found.items()}
    return Sweep(None, none, None, None if budget is None else none, rows, out, sites)


def _concluded(rows: Rows, d_in: int, budget: float | None, budget_k: float | None) -> Conclusion:
    """Law and advice, where the finished rows of a site allow them. A law is for one recipe."""
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
    return Conclusion(law, no_law, advice, no_advice)


def write(made: Sweep) -> None:
    """The table, the page, the plots and, last, the note that says that the sweep is finished."""
    table = pa.Table.from_pylist(made.rows, schema=COLUMNS)
    with atomic_path(made.out / "sweep.parquet") as part:
        pq.write_table(table, part)
    with atomic_path(made.out / "sweep.csv") as part:
        pacsv.write_csv(table, part)
    drawn = _drawn(made)
    write_atomic(made.out / "sweep.html", render(made.rows, made.to_json(), drawn))
    if any(drawn.values()):
        write_atomic(made.out / PLOT, standalone(drawn))
    told = made.to_json() | {"status": "finished"}
    write_atomic(made.out / NOTE, json.dumps(told, indent=1) + "\n")


def _drawn(made: Sweep) -> dict[str, list[str]]:
    """The plots of each site; of a sweep with one site, under no name."""
    drawn = {}
    for site, found in (made.sites or {"": made}).items():
        done = [
            row for row in made.rows
            if row["status"] == "finished" and (not site or row["site"] == site)
        ]  # fmt: skip
        drawn[site] = panels(done, found.law) if done else []
    return drawn
