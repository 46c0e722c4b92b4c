"""The verbs that read and use what was made: features, view, steer, info."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monoscope.cli import options as opt
from monoscope.cli.output import console, print_json, print_table, quiet_stdout
from monoscope.errors import ConfigError

if TYPE_CHECKING:
    from monoscope.features.atlas import Atlas
    from monoscope.features.feature import Row


def register(app: typer.Typer) -> None:
    """Add the verbs to the app."""
    for name, verb, example in (
        ("features", features, "monoscope features runs/atlas --search Paris"),
        ("view", view, "monoscope view runs/demo/atlas"),
        ("steer", steer, 'monoscope steer runs/sae --prompt "I think" --edit 123=set:5max'),
        ("info", info, "monoscope info runs/store"),
    ):
        app.command(name, epilog=f"Example: {example}")(verb)


def features(
    atlas: opt.AtlasDir,
    search: Annotated[
        str | None, typer.Option("--search", metavar="Q", help="Words in labels and tokens.")
    ] = None,
    text: Annotated[
        str | None, typer.Option("--text", metavar="T", help="Which fire on a text; needs --sae.")
    ] = None,
    latent: Annotated[int | None, typer.Option("--id", metavar="N", help="One feature.")] = None,
    sae: Annotated[str | None, typer.Option("--sae", metavar="DIR", help="For --text.")] = None,
    model: opt.RecordedModel = None,
    sort: Annotated[
        str, typer.Option("--sort", help="density, max, label_score, latent or interest.")
    ] = "interest",
    limit: Annotated[int, typer.Option("--limit", min=1, help="Features shown.")] = 20,
    device: opt.Device = None,
    as_json: opt.Json = False,
) -> None:
    """Read an atlas: a list, a search, one feature, or those that fire on a text."""
    given = [
        n for n, v in (("--search", search), ("--text", text), ("--id", latent)) if v is not None
    ]
    if len(given) > 1:
        raise ConfigError("one question at a time", got=" and ".join(given))
    if (text is None) != (sae is None):
        raise ConfigError(
            "--text and --sae belong together", hint="Give both, or neither for a list."
        )
    from monoscope.features.atlas import load_atlas

    opened = load_atlas(atlas)
    if text is not None and sae is not None:
        return _on_text(opened, text, sae, model, device, limit, as_json)
    from monoscope.features.show import feature_page, feature_table

    if latent is not None:
        page = opened.feature(latent)
        return print_json(page.to_json()) if as_json else console().print(feature_page(page))
    rows: list[Row] = (
        opened.search(search, limit) if search is not None else opened.list(sort, limit=limit)
    )
    if as_json:
        print_json({"n": len(rows), "features": [row.to_json() for row in rows]})
    else:
        console().print(feature_table(rows) if rows else "no such feature")


def _on_text(
    atlas: Atlas, text: str, sae: str, model: str | None, device: str | None, limit: int,
    as_json: bool,
) -> None:  # fmt: skip
    from monoscope.artifact import load_sae
    from monoscope.features.show import text_page
    from monoscope.features.text import features_on_text

    with quiet_stdout(as_json):
        loaded = load_sae(sae)
        _same_width(loaded.config.d_sae, atlas)
        found = features_on_text(opt.recorded_model(loaded, model, device), loaded, text)
    labels = atlas.labels()
    if not as_json:
        return console().print(text_page(found, labels, n_features=limit))
    told: dict[str, Any] = found.to_json(limit=limit)
    for total in told["totals"]:
        total["label"] = labels.get(total["latent"])
    print_json(told)


def _same_width(d_sae: int, atlas: Atlas) -> None:
    if d_sae != atlas.n_features:
        raise ConfigError(
            "the atlas is another SAE's",
            got=f"{d_sae} latents in the SAE",
            expected=f"{atlas.n_features}, as in the atlas",
        )


def view(
    atlas: opt.AtlasDir,
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0: any free.")] = 8642,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address, open nothing.")
    ] = False,
    model: opt.RecordedModel = None,
    sae: Annotated[
        str | None,
        typer.Option("--sae", metavar="DIR", help="Default: the folder sae beside the atlas."),
    ] = None,
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


def steer(
    sae: opt.SaeDir,
    edit: Annotated[
        list[str],
        typer.Option(
            "--edit", metavar="E", help="123=set:5max, 7=add:0.6norm@when:9, 9=ablate; repeatable."
        ),
    ],
    prompt: Annotated[
        str | None, typer.Option("--prompt", metavar="P", help="The text to continue.")
    ] = None,
    messages: Annotated[
        str | None,
        typer.Option("--messages", metavar="JSON", help="A chat to answer, in place of --prompt."),
    ] = None,
    model: opt.RecordedModel = None,
    atlas: Annotated[
        str | None, typer.Option("--atlas", metavar="DIR", help="Where `max` units are read.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", help="To generate.")] = 60,
    temperature: Annotated[float, typer.Option("--temperature", help="0 is greedy.")] = 0.0,
    top_p: Annotated[
        float, typer.Option("--top-p", help="Draw from the likeliest with this probability.")
    ] = 1.0,
    chat: Annotated[bool, typer.Option("--chat", help="Send the prompt as a user's turn.")] = False,
    seed: opt.Seed = 0,
    device: opt.Device = None,
    as_json: opt.Json = False,
) -> None:
    """Continue a prompt with and without edits, side by side."""
    from monoscope.artifact import load_sae
    from monoscope.features.atlas import load_atlas
    from monoscope.steer.edits import parse_edit
    from monoscope.steer.generate import generate

    given = _prompt(prompt, messages, chat)
    with quiet_stdout(as_json):
        loaded = load_sae(sae)
        source = None if atlas is None else load_atlas(atlas)
        edits = [parse_edit(text, loaded, atlas=source) for text in edit]
        lm = opt.recorded_model(loaded, model, device)
        said = generate(
            lm, given, edits=edits, max_new_tokens=max_new_tokens, temperature=temperature,
            top_p=top_p, seed=seed, chat=chat,
        )  # fmt: skip
    told = said.to_json()
    if as_json:
        print_json(told)
    else:
        print_table(told | {"edits": ", ".join(str(e) for e in edits)})


def _prompt(prompt: str | None, messages: str | None, chat: bool) -> str | list[dict[str, str]]:
    """What to continue: the text, or the turns of a chat."""
    if (prompt is None) == (messages is None) or (messages is not None and chat):
        raise ConfigError(
            "steer takes a text or a chat", expected="--prompt, --prompt with --chat, or --messages"
        )
    if messages is None:
        return prompt or ""
    try:
        turns = json.loads(messages)
    except ValueError:
        turns = None
    if not isinstance(turns, list):
        raise ConfigError(
            "bad --messages", got=messages[:80],
            expected='[{"role": "user", "content": "…"}, …] as JSON',
        )  # fmt: skip
    return turns


def info(
    path: Annotated[str | None, typer.Argument(metavar="[PATH]", help="A folder.")] = None,
    as_json: opt.Json = False,
) -> None:
    """Describe this installation, or what a monoscope folder holds."""
    from monoscope.describe import info as describe

    with quiet_stdout(as_json):
        told = describe(path)
    (print_json if as_json else print_table)(told)
