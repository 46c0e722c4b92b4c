"""The verbs that read what was made: features, view, info."""

from __future__ import annotations

from typing import Annotated

import typer

from monoscope.cli import options as opt
from monoscope.cli import split
from monoscope.cli.lens import BY, Reader, compared, on_text
from monoscope.cli.output import console, print_json, print_table, quiet_stdout
from monoscope.cli.steering import turns
from monoscope.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the verbs to the app."""
    for name, verb, example in (
        ("features", features, "monoscope features runs/atlas --search Paris"),
        ("view", view, "monoscope view runs/demo/atlas"),
        ("info", info, "monoscope info runs/store"),
    ):
        app.command(name, epilog=f"Example: {example}")(verb)


def features(
    atlas: opt.AtlasDir,
    search: Annotated[
        str | None,
        typer.Option("--search", metavar="Q", help="Words and filters, such as density<1e-3."),
    ] = None,
    text: Annotated[
        str | None, typer.Option("--text", metavar="T", help="Which fire on a text.")
    ] = None,
    text_b: Annotated[
        str | None,
        typer.Option("--text-b", metavar="T", help="Which fire more in --text than in this."),
    ] = None,
    messages: Annotated[
        str | None,
        typer.Option("--messages", metavar="JSON", help="Which fire on a chat."),
    ] = None,
    latent: Annotated[int | None, typer.Option("--id", metavar="N", help="One feature.")] = None,
    children: Annotated[
        int | None,
        typer.Option("--children", metavar="N", help="What it splits into in larger SAEs."),
    ] = None,
    sae: opt.SaeBeside = None,
    model: opt.RecordedModel = None,
    sort: Annotated[
        str,
        typer.Option(
            "--sort",
            help="interest, relevance, latent, density, fires, max, mean, score, auc, reads, "
            "writes. Default: relevance of a search, else interest.",
        ),
    ] = "",
    order: Annotated[str, typer.Option("--order", help="asc or desc. Default: the sort's.")] = "",
    box: Annotated[
        str, typer.Option("--box", metavar="X0,Y0,X1,Y1", help="On the map, from 0 to 1.")
    ] = "",
    by: Annotated[str, typer.Option("--by", help="Order on a text: sum, max or n_tokens.")] = "sum",
    context_length: Annotated[
        int, typer.Option("--context-length", min=1, help="Tokens of a text read at once.")
    ] = 128,
    dense: Annotated[
        bool, typer.Option("--dense/--no-dense", help="On a text: with those on > 10 % of tokens.")
    ] = True,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Features shown.")] = 20,
    device: opt.Device = None,
    as_json: opt.Json = False,
) -> None:
    """Read an atlas: a list, a search, one feature, or those that fire on a text or a chat."""
    questions = {"--search": search, "--text": text, "--messages": messages, "--id": latent}
    questions["--children"] = children
    given = [name for name, value in questions.items() if value is not None]
    if len(given) > 1:
        raise ConfigError("one question at a time", got=" and ".join(given))
    reads = text is not None or messages is not None
    if sae is not None and not reads:
        raise ConfigError("--sae is what a text is read with", hint="Give --text or --messages.")
    if text_b is not None and text is None:
        raise ConfigError("--text-b is compared with --text", hint="Give both.")
    if by not in BY:
        raise ConfigError("bad --by", got=by, expected=", ".join(BY))
    from monoscope.features.atlas import load_atlas

    opened = load_atlas(atlas)
    if children is not None:
        return split.children(opened, children, as_json)
    if reads:
        reader = Reader(opened, sae or opt.sae_beside(opened), model, device, context_length, dense)
        if text is not None and text_b is not None:
            return compared(reader, text, text_b, limit, as_json)
        asked = turns(messages) if messages is not None else text or ""
        return on_text(reader, asked, by, limit, as_json)
    from monoscope.features.show import feature_page, feature_table
    from monoscope.viewer.finding import find_features

    if latent is not None:
        page = opened.feature(latent)
        return print_json(page.to_json()) if as_json else console().print(feature_page(page))
    rows = find_features(opened, search or "", sort=sort, order=order, box=box, limit=limit)
    if as_json:
        print_json({"n": len(rows), "features": [row.to_json() for row in rows]})
    else:
        console().print(feature_table(rows) if rows else "no such feature")


def view(
    atlas: opt.AtlasDir,
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0: any free.")] = 8642,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address, open nothing.")
    ] = False,
    model: opt.RecordedModel = None,
    sae: opt.SaeBeside = None,
    runs: Annotated[
        str | None,
        typer.Option("--runs", metavar="DIR", help="Where runs lie. Default: beside the atlas."),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Other than 127.0.0.1: open to others, with a token.")
    ] = "127.0.0.1",
    device: opt.Device = None,
    as_json: opt.Json = False,
) -> None:
    """Open an atlas as a page on this machine; Ctrl-C ends it."""
    from monoscope.viewer.serve import leave, serve, settings

    config = settings(atlas, port=port, model=model, sae=sae, runs=runs, host=host, device=device)
    said = (lambda url: print_json({"url": url})) if as_json else print
    if serve(config, browser=not no_browser, said=said):
        leave()


def info(
    path: Annotated[str | None, typer.Argument(metavar="[PATH]", help="A folder.")] = None,
    as_json: opt.Json = False,
) -> None:
    """Describe this installation, or what a monoscope folder holds."""
    from monoscope.describe import info as describe

    with quiet_stdout(as_json):
        told = describe(path)
    (print_json if as_json else print_table)(told)
