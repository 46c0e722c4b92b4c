"""The verb that trains a grid: sweep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from monoscope.cli import options as opt
from monoscope.cli.output import Bar, print_json, print_table, quiet_stdout
from monoscope.cli.stores import open_store
from monoscope.errors import ConfigError
from monoscope.sites import Site

_SHOWN = ("fvu", "l0", "dead_fraction", "target_reached", "status")


def register(app: typer.Typer) -> None:
    """Add the verb to the app."""
    example = "monoscope sweep runs/store --d-sae 1024,4096 --k 8,16,32 --out runs/sweep"
    app.command("sweep", epilog=f"Example: {example}")(sweep)


def sweep(
    d_sae: Annotated[str, typer.Option("--d-sae", metavar="L,L,…", help="Numbers of latents.")],
    stores: Annotated[
        list[str] | None,
        typer.Argument(metavar="STORE", help="Store, or one a site; or --model, --corpus, --site."),
    ] = None,
    model: opt.TrainModel = None,
    corpus: opt.TrainCorpus = None,
    site: Annotated[
        str | None,
        typer.Option("--site", metavar="S,S,…", help="… once for these sites; needs --tokens."),
    ] = None,
    max_doc_tokens: opt.TrainDocTokens = None,
    out: opt.Out = "runs/sweep",
    k: Annotated[
        str, typer.Option("--k", metavar="K,K,…", help="Latents a token; target L0 of penalties.")
    ] = "32",
    recipe: Annotated[
        str, typer.Option("--recipe", metavar="R,R,…", help="Recipes to compare.")
    ] = "batchtopk",
    seed: Annotated[str, typer.Option("--seed", metavar="S,S,…", help="Of the weights.")] = "0",
    tokens: Annotated[
        str | None,
        typer.Option("--tokens", metavar="N,N,…", help="Training tokens. Default: six passes."),
    ] = None,
    budget: Annotated[
        float | None, typer.Option("--budget", help="FLOP to spend on one SAE: what to train?")
    ] = None,
    budget_k: Annotated[
        float | None, typer.Option("--budget-k", help="At this L0. Default: the middle one.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Tokens of a step.")] = 2048,
    lr: Annotated[float | None, typer.Option("--lr", help="Default: the recipe's.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A further setting; repeatable."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the sweep in --out, or enlarge it.")
    ] = False,
    device: opt.Device = None,
    as_json: opt.Json = False,
) -> None:
    """Train a grid of SAEs on one pass; table, plots, scaling law, advice.

    Several sites are one pass too: with --model, it runs once for all of them.
    """
    further = opt.parse_settings(settings or [])
    opt.check_one_source("sweep", stores, model, corpus, site, max_doc_tokens)
    sizes, ks = _numbers("--d-sae", d_sae, int), _numbers("--k", k, float)
    seeds = _numbers("--seed", seed, int)
    totals = [] if tokens is None else _numbers("--tokens", tokens, int)
    if not totals and not stores:
        raise ConfigError(
            "--tokens is needed where a model reads", expected="numbers parted by commas"
        )
    sites = [] if site is None else _sites(site)
    from monoscope.sweep import sweep as run

    with quiet_stdout(as_json), Bar("sweep") as bar:
        if stores:
            sources: list[Any] = [open_store(store) for store in stores]
            totals = totals or [6 * min(store.n_tokens("train") for store in sources)]
        else:
            assert model is not None and corpus is not None
            sources = opt.live_sources(model, corpus, sites, 0, device, max_doc_tokens)
        made = run(
            sources[0] if len(sources) == 1 else sources, out=out, d_sae=sizes,
            k=[opt.count(value) or 0 for value in ks],
            recipe=recipe.split(","), seed=seeds, n_tokens=totals, batch_size=batch_size, lr=lr,
            settings=further, budget=budget, budget_k=budget_k,
            device=opt.checked_device(device), resume=resume, progress=bar.trained,
            measured=lambda row: bar.note(f"sweep: {row['name']}: {_told(row)}"),
        )  # fmt: skip
    told = made.to_json()
    if as_json:
        return print_json(told)
    shown: dict[str, Any] = {row["name"]: _told(row) for row in made.rows}
    for at, found in (told["sites"] or {"": told}).items():
        shown[f"{at} law".strip()] = found["law"] and found["law"]["parameters"]
        for name in ("no_law", "advice", "no_advice"):
            if found[name] is not None:
                shown[f"{at} {name.replace('_', ' ')}".strip()] = found[name]
    shown["out"] = told["out"]
    shown["page"] = f"{made.out}/sweep.html"
    print_table(shown)


def _sites(given: str) -> list[Site]:
    """Sites parted by commas, each once; raises SiteError and ConfigError before a model is loaded.

    What stands in braces is one site, of a form that is not supported and says so.
    """
    braced = given.lstrip().startswith("{")
    sites = [Site.parse(part) for part in ([given] if braced else given.split(","))]
    if len(set(sites)) != len(sites):
        raise ConfigError("a sweep needs each site once", got=", ".join(map(str, sites)))
    return sites


def _numbers(flag: str, given: str, kind: Callable[[str], Any]) -> list[Any]:
    """Values parted by commas; underscores in them are allowed.

    Raises ConfigError naming the flag and the value.
    """
    found = []
    for part in given.split(","):
        try:
            found.append(kind(part.strip()))
        except ValueError as error:
            raise ConfigError(
                f"bad value in {flag}", got=repr(part), expected="numbers parted by commas"
            ) from error
    return found


def _told(row: Mapping[str, Any]) -> str:
    """What an SAE came to, on one line."""
    known = (name for name in _SHOWN if row[name] is not None)
    return ", ".join(f"{name} {_cell(row[name])}" for name in known)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
