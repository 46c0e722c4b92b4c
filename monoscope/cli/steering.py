"""The verb that turns features up and down: steer, and its search for a strength that writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monoscope.cli import options as opt
from monoscope.cli.output import Bar, console, print_json, quiet_stdout
from monoscope.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from monoscope.steer.feature_sweep import FeatureSweep, SweepResult

Prompt = str | list[dict[str, str]]
_NEW_TOKENS, _SWEEP_TOKENS = 60, 24
_KINDS = {
    "default": "unsteered", "steered": "this direction", "random": "random, same length",
    "reversed": "reversed", "prompt": "asked in words",
}  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the verb to the app."""
    example = 'monoscope steer runs/sae --prompt "I think" --edit 123=set:5max'
    app.command("steer", epilog=f"Example: {example}")(steer)


def steer(
    sae: opt.SaeDir,
    edit: Annotated[
        list[str] | None,
        typer.Option(
            "--edit", metavar="E", help="123=set:5max, 7=add:0.6norm@when:9, 9=ablate; repeatable."
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", metavar="P", help="The text to continue.")
    ] = None,
    messages: Annotated[
        str | None,
        typer.Option("--messages", metavar="JSON", help="A chat to answer, in place of --prompt."),
    ] = None,
    sweep: Annotated[
        int | None,
        typer.Option(
            "--sweep", metavar="N", min=0,
            help="In place of edits: try one feature at rising strengths, beside controls.",
        ),
    ] = None,
    strengths: Annotated[
        str | None,
        typer.Option("--strengths", metavar="S,S,…", help="Of the sweep, × the median norm."),
    ] = None,
    words: Annotated[
        str | None,
        typer.Option(
            "--words", metavar="W,W,…", help="What the sweep counts. Default: what it promises."
        ),
    ] = None,
    model: opt.RecordedModel = None,
    atlas: Annotated[
        str | None,
        typer.Option("--atlas", metavar="DIR", help="Where `max` units and promises are read."),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", help="Default: 60, in a sweep 24.")
    ] = None,
    temperature: Annotated[float, typer.Option("--temperature", help="0 is greedy.")] = 0.0,
    top_p: Annotated[
        float, typer.Option("--top-p", help="Draw from the likeliest with this probability.")
    ] = 1.0,
    chat: Annotated[bool, typer.Option("--chat", help="Send the prompt as a user's turn.")] = False,
    seed: opt.Seed = 0,
    device: opt.Device = None,
    as_json: opt.Json = False,
) -> None:  # fmt: skip
    """Continue a prompt with and without edits, side by side; or find a feature's strength."""
    given = _prompt(prompt, messages, chat)
    if sweep is not None:
        if edit or temperature != 0 or top_p != 1:
            raise ConfigError(
                "a sweep makes its own edits and is greedy",
                got="--sweep with --edit, --temperature or --top-p",
                hint="Leave those out.",
            )
        if atlas is None:
            raise ConfigError(
                "a sweep counts what the atlas says of the feature", hint="Give --atlas."
            )
        return _sweep(
            sae, sweep, given, atlas=atlas, model=model, strengths=_strengths(strengths),
            words=_words(words), seed=seed, device=device, as_json=as_json,
            max_new_tokens=_SWEEP_TOKENS if max_new_tokens is None else max_new_tokens,
        )  # fmt: skip
    if strengths is not None or words is not None:
        raise ConfigError("--strengths and --words are a sweep's", hint="Give --sweep N too.")
    _steer(
        sae, given, edit or [], atlas=atlas, model=model, device=device, as_json=as_json,
        max_new_tokens=_NEW_TOKENS if max_new_tokens is None else max_new_tokens,
        temperature=temperature, top_p=top_p, seed=seed,
    )  # fmt: skip


def _steer(
    sae: str, given: Prompt, edit: Sequence[str], *, atlas: str | None, model: str | None,
    device: str | None, as_json: bool, **how: Any,
) -> None:  # fmt: skip
    from monoscope.artifact import load_sae
    from monoscope.steer.edits import parse_edit
    from monoscope.steer.generate import generate
    from monoscope.steer.show import side_by_side

    with quiet_stdout(as_json):
        loaded = load_sae(sae)
        source = None if atlas is None else opt.atlas_of(loaded, atlas)
        edits = [parse_edit(text, loaded, atlas=source) for text in edit]
        lm = opt.recorded_model(loaded, model, device)
        said = generate(lm, given, edits=edits, **how)
    told = said.to_json()
    if as_json:
        print_json(told)
    else:
        if not edits:
            print("no --edit was given: both texts are the model's own", file=sys.stderr)
        screen = console()
        screen.print(side_by_side([told], screen.width))
        screen.print("steered with " + (", ".join(str(e) for e in edits) or "nothing"))


def _sweep(
    sae: str, latent: int, given: Prompt, *, atlas: str, model: str | None, device: str | None,
    strengths: Sequence[float] | None, words: Sequence[str], max_new_tokens: int, seed: int,
    as_json: bool,
) -> None:  # fmt: skip
    from monoscope.artifact import load_sae
    from monoscope.steer.feature_sweep import STRENGTHS, sweep_feature

    with quiet_stdout(as_json), Bar("sweep") as bar:
        loaded = load_sae(sae)
        feature = opt.atlas_of(loaded, atlas).feature(latent)
        lm = opt.recorded_model(loaded, model, device)
        task = sweep_feature(
            lm, loaded, feature, given, words=words, strengths=strengths or STRENGTHS,
            max_new_tokens=max_new_tokens, seed=seed,
        )  # fmt: skip
        result = task.result(bar.at)
    if as_json:
        print_json(task.to_json() | result.to_json())
    else:
        console().print(_swept(task, result))


def _swept(task: FeatureSweep, result: SweepResult) -> RenderableType:
    """The trials as a table, and what they come to."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from monoscope.visible import quoted, visible

    table = Table(box=None, padding=(0, 2, 0, 0), expand=True)
    table.add_column("written with", no_wrap=True)
    for name in ("× ‖x‖", "score", "effect", "fluency", "‖Δ‖/‖x‖", "KL"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("after the prompt", ratio=1, no_wrap=True, overflow="ellipsis")
    for point in result.points:
        t = point.trial
        told = (t.times_norm, t.score, t.effect, t.fluency, t.relative_norm, t.kl)
        figures = [f"{value:.2f}" for value in told]
        table.add_row(_KINDS[point.kind], *figures, Text(visible(t.texts[0])))
    counted = ", ".join(quoted(token) for token in task.tokens)
    return Group(
        Text(f"#{task.latent} {visible(task.label or 'no label')}", style="bold"),
        Text(f"counted, from its {task.basis}: {counted}", style="dim"),
        table,
        Text(_verdict(result)),
    )


def _verdict(result: SweepResult) -> str:
    spot = result.spot
    asked = "" if spot.prompt is None else f" Asking in words scores {spot.prompt:.2f}."
    if not spot.found:
        return f"No sweet spot: at no strength does it write better than its controls.{asked}"
    return (
        f"Best at {spot.best.times_norm:g} × ‖x‖: score {spot.best.score:.2f}, "
        f"the better control {spot.control:.2f}.{asked}"
    )


def _prompt(prompt: str | None, messages: str | None, chat: bool) -> Prompt:
    """What to continue: the text, or the turns of a chat."""
    if (prompt is None) == (messages is None) or (messages is not None and chat):
        raise ConfigError(
            "steer takes a text or a chat", expected="--prompt, --prompt with --chat, or --messages"
        )
    if messages is not None:
        return turns(messages)
    if chat and prompt:
        return [{"role": "user", "content": prompt}]
    return prompt or ""


def turns(messages: str) -> list[dict[str, str]]:
    """The turns of a chat from --messages. Raises ConfigError for what is no JSON list."""
    try:
        found = json.loads(messages)
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise ConfigError(
            "bad --messages", got=messages[:80],
            expected='[{"role": "user", "content": "…"}, …] as JSON',
        )  # fmt: skip
    return found


def _strengths(given: str | None) -> list[float] | None:
    if given is None:
        return None
    try:
        return [float(part) for part in given.split(",")]
    except ValueError as error:
        raise ConfigError(
            "bad --strengths", got=repr(given), expected="numbers parted by commas"
        ) from error


def _words(given: str | None) -> list[str]:
    return [word.strip() for word in (given or "").split(",") if word.strip()]
