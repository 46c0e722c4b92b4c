"""The verb that sets two atlases side by side: compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from monoscope.cli import options as opt
from monoscope.cli.output import console, print_json
from monoscope.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from monoscope.features.compare import Family
    from monoscope.viewer.comparison import Comparison

_SHOWN = 4  # latents of a side, strongest link first
_PLACES = 6


def register(app: typer.Typer) -> None:
    """Add the verb to the app."""
    example = "monoscope compare runs/demo/atlas runs/wide/atlas --kind split"
    app.command("compare", epilog=f"Example: {example}")(compare)


def compare(
    a: Annotated[str, typer.Argument(metavar="ATLAS_A", help="Folder of an atlas.")],
    b: Annotated[str, typer.Argument(metavar="ATLAS_B", help="Another of the same model.")],
    threshold: Annotated[
        float, typer.Option("--threshold", help="Cosine from which two latents count as one.")
    ] = 0.7,
    kind: Annotated[
        str | None,
        typer.Option("--kind", help="matched, split, merged, regrouped, lost or new."),
    ] = None,
    search: Annotated[
        str | None, typer.Option("--search", metavar="Q", help="Words of a label on either side.")
    ] = None,
    family: Annotated[
        str | None,
        typer.Option("--family", metavar="I-J", help="One family, with the contexts both saw."),
    ] = None,
    runs: opt.Runs = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Families shown.")] = 20,
    as_json: opt.Json = False,
) -> None:
    """Match the features of two atlases: shared, split, merged, lost and new."""
    from monoscope.features.compare import KINDS
    from monoscope.viewer.comparison import open_comparison

    if kind is not None and kind not in KINDS:
        raise ConfigError("bad --kind", got=kind, expected=", ".join(KINDS))
    pair = open_comparison(a, b, runs)
    if family is not None:
        one = _family(pair.families(threshold), family)
        told = _one(pair, one)
        return print_json(told) if as_json else console().print(_contexts(one, told))
    found = pair.found(threshold, kind=kind, words=search or "")
    told = _told(pair, threshold, found[:limit], len(found))
    if as_json:
        print_json(told)
    else:
        console().print(_families(told))


def _told(pair: Comparison, threshold: float, shown: list[Family], n: int) -> dict[str, Any]:
    from monoscope.features.compare import counts

    return {
        "a": str(pair.atlases[0].folder),
        "b": str(pair.atlases[1].folder),
        "threshold": threshold,
        "chance": pair.links.chance,
        "counts": counts(pair.families(threshold)),
        "n_documents": len(pair.documents[0]),
        "n_families": n,
        "families": [_labelled(pair, family) for family in shown],
    }


def _labelled(pair: Comparison, family: Family) -> dict[str, Any]:
    """A family with what its latents are called."""
    return family.to_json() | {
        side: [{"latent": i, "label": pair.labels[n].get(i)} for i in ids]
        for n, (side, ids) in enumerate((("a", family.a), ("b", family.b)))
    }


def _one(pair: Comparison, family: Family) -> dict[str, Any]:
    """A family with its contexts; a lone latent is set beside the one that came nearest."""
    a = family.a[:2] or family.links[0][:1]
    b = family.b[:2] or family.links[0][1:2]
    return _labelled(pair, family) | {"contexts": pair.contexts(a, b, _PLACES)}


def _family(families: list[Family], name: str) -> Family:
    """The family that a name means: the first latent of either side, nothing where there is none.

    Raises ConfigError where none is so called.
    """
    for family in families:
        if name == "-".join(str(ids[0]) if ids else "" for ids in (family.a, family.b)):
            return family
    raise ConfigError(
        "no such family at this threshold",
        got=repr(name),
        expected="I-J, the first latents of A and of B; I- if lost, -J if new",
    )


def _families(told: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), expand=True)
    table.add_column("kind", no_wrap=True)
    table.add_column("A", ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("B", ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("cosine", justify="right", no_wrap=True)
    for family in told["families"]:
        table.add_row(
            family["kind"], _members(family["a"]), _members(family["b"]), f"{family['cosine']:.2f}"
        )
    counted = ", ".join(
        f"{kind} {count['families']}" for kind, count in told["counts"].items() if count["families"]
    )
    return Group(
        Text(f"{counted} families; {told['n_documents']} documents in common"),
        Text(
            f"linked from a cosine of {told['threshold']:g} up; 99 % of random directions stay "
            f"below {told['chance']:.2f}",
            style="dim",
        ),
        table if told["families"] else Text("no family is of this kind"),
    )


def _members(rows: list[dict[str, Any]]) -> Text:
    from rich.text import Text

    from monoscope.features.show import label_text

    line = Text()
    for i, row in enumerate(rows[:_SHOWN]):
        line.append("  " if i else "").append(f"#{row['latent']} ", style="bold")
        line.append_text(label_text(row["label"]))
    if len(rows) > _SHOWN:
        line.append(f"  and {len(rows) - _SHOWN} more", style="dim")
    return line


def _contexts(family: Family, told: dict[str, Any]) -> RenderableType:
    """The family's members, then each shared place shaded by either side's first latent."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    from monoscope.features.context import ContextLine

    parts: list[RenderableType] = [
        Text(f"{family.kind}, cosine {family.cosine:.2f}", style="bold"),
        Text("A  ").append_text(_members(told["a"])),
        Text("B  ").append_text(_members(told["b"])),
    ]
    for place in told["contexts"]:
        parts.append(Text())
        for name in ("a", "b"):
            values = place[name][0]
            if all(value is None for value in values):
                parts.append(Text(f"{name.upper()}  not kept there", style="dim"))
                continue
            known = tuple(value or 0.0 for value in values)
            line = ContextLine(tuple(place["pieces"]), known, place["peak"], max(known) or 1.0)
            parts.append(Padding(line, (0, 0, 0, 3)))
    return Group(*parts)
