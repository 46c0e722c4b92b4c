"""The verbs that judge: eval, alone or as a suite, and report, which sets results side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from monoscope.cli import options as opt
from monoscope.cli.output import Bar, console, print_json, quiet_stdout
from monoscope.cli.stores import open_store
from monoscope.errors import ConfigError
from monoscope.files import write_atomic

if TYPE_CHECKING:
    from monoscope.evals.compare import Column, Row
    from monoscope.evals.material import Tell

_TOKENS = 1_000  # parts: a suite has fewer of them, and tokens are more


def evaluate(
    sae: opt.SaeDir,
    store: opt.StoreDir,
    model: opt.RecordedModel = None,
    no_model: opt.NoModel = False,
    tokens: Annotated[
        int | None,
        typer.Option("--tokens", metavar="N", min=1, help="Held-out tokens. Default: all."),
    ] = None,
    splice_tokens: Annotated[
        int | None,
        typer.Option(
            "--splice-tokens",
            metavar="N",
            min=1,
            help="Through the model. Default: 16384; full: 131072.",
        ),
    ] = None,
    baselines: Annotated[bool, typer.Option(help="Measure reference methods too.")] = True,
    bootstrap: Annotated[
        int, typer.Option("--bootstrap", metavar="N", min=0, help="Replicates behind intervals.")
    ] = 1000,
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="FILE", help="Write the result, too: SAEBench's JSON."),
    ] = None,
    suite: Annotated[
        str, typer.Option("--suite", metavar="S", help="quick, core, cpu or full: more families.")
    ] = "quick",
    atlas: Annotated[
        str | None, typer.Option("--atlas", metavar="DIR", help="cpu, full: whose labels count.")
    ] = None,
    other: Annotated[
        list[str] | None,
        typer.Option("--other", metavar="SAE", help="cpu, full: another seed's SAE; repeatable."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure again what is already known.")
    ] = False,
    seed: opt.Seed = 0,
    device: opt.Device = None,
    as_json: opt.Json = False,
) -> None:
    """Measure an SAE on held-out documents and inside its model."""
    from monoscope.artifact import load_sae
    from monoscope.evals.cache import Cache
    from monoscope.evals.material import CPU, FULL, Material
    from monoscope.evals.suite import SUITES, require_suite, run_suite
    from monoscope.train import alike

    one_model(model, no_model)
    require_suite(suite)
    if suite != "quick" and not baselines:
        raise ConfigError(
            "--no-baselines is for the quick suite: the others have them",
            got=f"--suite {suite}",
            hint="Leave one of the two out.",
        )
    for flag, given, by in (("--atlas", atlas, "label_scores"), ("--other", other, "stability")):
        if given and by not in dict(SUITES[suite]):
            raise ConfigError(
                f"{flag} is read by the larger suites", got=f"--suite {suite}",
                hint="Use --suite cpu.",
            )  # fmt: skip
    asked = {"held_out_tokens": tokens, "splice_tokens": splice_tokens}
    sizes: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    with quiet_stdout(as_json), Bar("eval") as bar:
        place = opt.checked_device(device)
        loaded = load_sae(sae).to(place)
        material = Material(
            sae=loaded,
            store=open_store(store),
            lm=None if no_model else opt.recorded_model(loaded, model, device),
            train=alike,
            others=tuple(load_sae(path).to(place) for path in other or ()),
            atlas=None if atlas is None else Path(atlas),
            sizes=replace(FULL if suite == "full" else CPU, **sizes),
            beside=baselines,
            seed=seed,
            bootstrap=bootstrap,
            cache=Cache.default(fresh=fresh),
            tell=_teller(bar),
        )
        told = run_suite(
            material, suite, finished=lambda name, s: bar.note(f"eval: {name} took {s:.1f} s")
        )
        if out is not None:
            write_atomic(out, json.dumps(told, indent=1, allow_nan=False) + "\n")
    if not as_json:
        return _show_result(told)
    ours = told["eval_result_unstructured"]["monoscope"]
    print_json(ours["families"]["core"] if suite == "quick" else told)


def _show_result(told: Mapping[str, Any]) -> None:
    """A result as a table, and below it what it was measured on and what it lacks."""
    from monoscope.evals import compare

    ours = told["eval_result_unstructured"]["monoscope"]
    families, core = ours["families"], ours["families"]["core"]
    _show([compare.row("this SAE", families)])
    lines = [
        f"{core['n_tokens']:,} held-out tokens of {core['n_documents']:,} documents, "
        f"{core['n_splice_tokens']:,} through the model; dead: silent in "
        f"{core['dead_window_tokens']:,} tokens"
    ]
    lines += [
        f"{name}: not measured, {figures['skipped']}"
        for name, figures in families.items()
        if "skipped" in figures
    ]
    if ours["not_saebench"]:
        blocks = ", ".join(ours["not_saebench"])
        lines.append(f"SAEBench demands numbers where null is: {blocks}")
    for line in lines:
        console().print(Text(line, style="dim"))


def _teller(bar: Bar) -> Tell:
    """A line for each part that is begun; for those that count tokens, how far they are."""

    def tell(what: str, done: int, total: int) -> None:
        task = f"eval: {what}"
        if total < _TOKENS:
            bar.note(f"{task} ({done + 1} of {total})")
            return
        if bar.task != task:
            bar.task, bar.first = task, None
            bar.note(task)
        bar.at(done, total)

    return tell


def report(
    results: Annotated[
        list[str], typer.Argument(metavar="RESULT…", help="Files that eval --out wrote.")
    ],
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="FILE", help="Write a page, too: HTML, or Markdown for .md."),
    ] = None,
    as_json: opt.Json = False,
) -> None:
    """Set evaluated SAEs side by side, here and as a page that needs no network."""
    from monoscope.evals import compare
    from monoscope.evals.compare_page import markdown, render

    rows = compare.read_results(results)
    if out is not None:
        write_atomic(out, (markdown if Path(out).suffix == ".md" else render)(rows))
    if as_json:
        return print_json(
            {
                "saes": {row.name: row.figures for row in rows},
                "ci": {row.name: row.ci for row in rows},
                "baselines": {
                    row.name: {b.name: b.figures for b in compare.baseline_rows(row.families)}
                    for row in rows
                },
                "out": out,
            }
        )
    _show(rows)


def one_model(model: str | None, no_model: bool) -> None:
    """Raise ConfigError where a model is both named and refused."""
    if model is not None and no_model:
        raise ConfigError("--model and --no-model exclude each other", hint="Leave one out.")


def _show(rows: Sequence[Row]) -> None:
    """SAEs as columns, figures as rows: a terminal is taller than it is wide.

    Baselines have columns of their own beside a lone SAE, and lines of their own under several.
    """
    from monoscope.evals import compare

    beside = {row.name: compare.baseline_rows(row.families) for row in rows}
    lone = len(rows) == 1
    across = [*rows, *beside[rows[0].name]] if lone else list(rows)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for row in across:
        table.add_column(Text(row.name), justify="right", overflow="fold")
    names = dict.fromkeys(b.name for held in beside.values() for b in held)
    for column in compare.shown(across):
        table.add_row(Text(column.title, style="dim"), *(_cell(row, column) for row in across))
        for name in () if lone else names:
            held = [next((b for b in beside[r.name] if b.name == name), None) for r in rows]
            if any(b is not None and b.figures[column.key] is not None for b in held):
                table.add_row(Text(f"  {name}", style="dim"), *(_cell(b, column) for b in held))
    console().print(table)


def _cell(row: Row | None, column: Column) -> Text:
    """A figure with its interval below it, dim; a dash for what is not there."""
    told = Text("–" if row is None else row.cell(column))
    if row is not None and row.interval(column):
        told.append(f"\n{row.interval(column)}", style="dim")
    return told
