"""Results of several SAEs side by side: one row each, one column a figure, and Pareto fronts.

Reads what `eval --out` wrote, and core figures alone, as `eval --json` prints and the demo keeps
them; what a result does not hold is null, and SAEs are never ranked by a figure that one lacks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monoscope.errors import ConfigError, FormatError


@dataclass(frozen=True)
class Column:
    """A figure: where it stands in a result, how it is written, and whether less is better."""

    key: str
    title: str
    path: tuple[str, ...]
    form: str = ".3f"
    less: bool | None = None


COLUMNS = (
    Column("fvu", "FVU", ("core", "fvu"), ".3f", True),
    Column("l0", "L0", ("core", "l0"), ".1f", True),
    Column("cosine", "cosine", ("core", "cosine"), ".3f", False),
    Column("shrinkage", "shrinkage", ("core", "shrinkage"), ".3f"),
    Column("dead", "dead", ("core", "dead_fraction"), ".1%", True),
    Column("delta_ce", "ΔCE", ("core", "delta_ce"), "+.3f", True),
    Column("kl", "KL", ("core", "kl"), ".3f", True),
    Column("recovered", "recovered", ("core", "loss_recovered_zero"), ".3f", False),
    Column("probe_1", "probe k=1", ("probing", "mean", "sae", "1", "auc", "mean"), ".3f", False),
    Column("probe_5", "probe k=5", ("probing", "mean", "sae", "5", "auc", "mean"), ".3f", False),
    Column("dense", "dense probe", ("probing", "mean", "dense", "auc", "mean")),
    Column("mcc", "world MCC", ("worlds", "superposed", "sae", "mcc"), ".3f", False),
    Column("world_f1", "world F1", ("worlds", "superposed", "sae", "f1"), ".3f", False),
    Column("absorption", "absorption", ("letters", "sae", "absorption", "mean"), ".3f", True),
    Column(
        "ablation", "ablation", ("ablation", "by_basis", "sae", "10", "score", "mean"), ".3f", False
    ),
    Column("stability", "found again", ("stability", "between_seeds", "found"), ".1%", False),
    Column("rank", "eff. rank", ("geometry", "decoder", "effective_rank"), ".0f"),
    Column(
        "label_auc", "label AUC", ("label_scores", "scores", "label_auc", "median"), ".3f", False
    ),
)

_OURS = ("eval_result_unstructured", "monoscope")

FRONTS = (("l0", "fvu"), ("l0", "delta_ce"), ("l0", "probe_1"), ("fvu", "probe_1"))
"""Pairs of figures worth a plot: across, up."""


@dataclass(frozen=True)
class Row:
    """One SAE's figures and their intervals, by column key; null where its result holds none."""

    name: str
    figures: dict[str, float | None]
    families: Mapping[str, Any]
    ci: dict[str, tuple[float, float] | None]

    def cells(self) -> list[str]:
        """The figures as they are written, – for null."""
        return [self.cell(column) for column in COLUMNS]

    def cell(self, column: Column) -> str:
        """A figure as it is written, – for null."""
        held = self.figures[column.key]
        return "–" if held is None else format(held, column.form)

    def interval(self, column: Column) -> str:
        """A figure's interval as it is written; empty where there is none."""
        span = self.ci[column.key]
        if span is None:
            return ""
        low, high = (format(end, column.form.lstrip("+")) for end in span)
        return f"{low} to {high}" if low.startswith("-") else f"{low}–{high}"


def read_results(paths: Sequence[str | Path]) -> list[Row]:
    """The rows of result files, named by file, or by folder where files are named alike.

    Raises FormatError for a file that is no evaluation of monoscope's, ConfigError for none.
    """
    if not paths:
        raise ConfigError("no results to report on", hint="Give files that `eval --out` wrote.")
    files = [Path(path) for path in paths]
    stems = [file.stem for file in files]
    names = [
        stem if stems.count(stem) == 1 else f"{file.parent.name}/{stem}"
        for file, stem in zip(files, stems, strict=True)
    ]
    for i, name in enumerate(names):  # the same file twice, or alike to the folder
        if names.index(name) != i:
            names[i] = str(files[i])
    return [row(name, families_of(file)) for name, file in zip(names, files, strict=True)]


def families_of(path: Path) -> dict[str, Any]:
    """The figures by family that a result file holds.

    Raises FormatError unless the file is a result of `eval`, with or without a suite.
    """
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise FormatError(
            f"cannot read the result {path}",
            got="a folder" if path.is_dir() else exc,
            expected="a file written by `monoscope eval … --out FILE`",
        ) from exc
    families = families_in(held)
    if families is None:
        raise FormatError(
            f"{path} is no evaluation of monoscope's",
            expected="a file written by `eval --out`",
        )
    return families


def families_in(held: Any) -> dict[str, Any] | None:
    """The figures by family in a result read from JSON; None if it is no result."""
    if not isinstance(held, dict):
        return None
    if isinstance(held.get("figures"), dict):
        held = held["figures"]  # as a stage of the demo keeps it
    families = _at(held, (*_OURS, "families")) or {"core": held}
    core = _at(families, ("core",))
    whole = isinstance(core, Mapping) and "baselines" in core  # a run's own figures are none
    return dict(families) if whole and isinstance(core.get("fvu"), int | float) else None


def weights_in(held: Any) -> str | None:
    """The hash of the weights that a result read from JSON says it is of; None if it does not."""
    named = _at(held, (*_OURS, "key", "sae")) or _at(held, ("asked", "sae"))
    return named if isinstance(named, str) else None


def row(name: str, families: Mapping[str, Any]) -> Row:
    """The figures of COLUMNS among the families'."""
    figures = {c.key: _number(_at(families, c.path)) for c in COLUMNS}
    return Row(name, figures, families, {c.key: _interval(families, c.path) for c in COLUMNS})


def baseline_rows(families: Mapping[str, Any]) -> list[Row]:
    """The baselines of a result as rows of their own: random SAE, raw neurons, PCA, mean."""
    core = families["core"].get("baselines") or {}
    found = []
    for name, figures in core.items():
        parts: dict[str, Any] = {"core": figures}
        means = (families.get("probing") or {}).get("mean") or {}
        if name in means:
            parts["probing"] = {"mean": {"sae": means[name]}}
        by_basis = (families.get("ablation") or {}).get("by_basis") or {}
        if name in by_basis:
            parts["ablation"] = {"by_basis": {"sae": by_basis[name]}}
        world = (families.get("worlds") or {}).get("superposed") or {}
        if name in world:
            parts["worlds"] = {"superposed": {"sae": world[name]}}
        letters = (families.get("letters") or {}).get(name)
        if letters:
            parts["letters"] = {"sae": letters}
        found.append(row(name, parts))
    return found


def shown(rows: Iterable[Row]) -> list[Column]:
    """The columns that at least one row has a figure for."""
    held = list(rows)
    return [c for c in COLUMNS if any(r.figures[c.key] is not None for r in held)]


def front(points: Sequence[tuple[float, float]], less: tuple[bool, bool]) -> list[int]:
    """Which points no other beats in both figures at once, from left to right.

    less: for each axis, whether less is better. A point equal to another stays.
    """
    signed = [(x if less[0] else -x, y if less[1] else -y) for x, y in points]
    kept = [
        i
        for i, (x, y) in enumerate(signed)
        if not any(a <= x and b <= y and (a < x or b < y) for a, b in signed)
    ]
    return sorted(kept, key=lambda i: points[i])


def column(key: str) -> Column:
    """The column called `key`."""
    return next(c for c in COLUMNS if c.key == key)


def _interval(families: Mapping[str, Any], path: tuple[str, ...]) -> tuple[float, float] | None:
    """The interval beside a figure: "ci" of that name or of the mean it is, or range over pairs."""
    *place, name = path
    around = _at(families, tuple(place))
    if not isinstance(around, Mapping):
        return None
    span = around.get("ci")
    span = span.get(name) if isinstance(span, Mapping) else span
    span = around.get(f"{name}_range") if span is None else span
    return (float(span[0]), float(span[1])) if isinstance(span, list | tuple) else None


def _at(families: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    held: Any = families
    for part in path:
        held = held.get(part) if isinstance(held, Mapping) else None
    return held


def _number(held: Any) -> float | None:
    return float(held) if isinstance(held, int | float) else None
