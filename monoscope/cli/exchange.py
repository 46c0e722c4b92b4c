"""The verbs that exchange with other libraries: import, export."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Annotated

import typer

from monoscope.cli import options as opt
from monoscope.cli.output import Bar, print_json, print_table, quiet_stdout
from monoscope.cli.stores import open_store

StoreOf = Annotated[
    str | None,
    typer.Option("--store", metavar="DIR", help="Activations of its model and site, to check on."),
]


def register(app: typer.Typer) -> None:
    """Add the verbs to the app."""
    for name, verb, example in (
        ("import", import_, "monoscope import downloads/sae --store runs/store --out runs/sae"),
        ("export", export, "monoscope export runs/sae --to saelens --out runs/saelens"),
    ):
        app.command(name, epilog=f"Example: {example}")(verb)


def import_(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A folder, a file, or owner/name on the hub.")
    ],
    out: opt.Out,
    store: StoreOf = None,
    form: Annotated[
        str | None, typer.Option("--from", metavar="F", help="Its format. Default: by its files.")
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option("--scale", help="What it saw activations multiplied by, if it does not say."),
    ] = None,
    as_json: opt.Json = False,
) -> None:
    """Take in an SAE of another library; with --store, see at once whether it fits."""
    from monoscope.interop import import_sae

    with quiet_stdout(as_json), _told("import"):
        acts = None if store is None else open_store(store)
        taken = import_sae(source, out, store=acts, form=form, scale=scale)
    (print_json if as_json else print_table)(taken.to_json() | {"out": out})


def export(
    source: Annotated[
        str, typer.Argument(metavar="SAE", help="Folder of an SAE; for html, of an atlas.")
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="F",
            help="saelens, sparsify, dictionary_learning, hub, neuronpedia, saedashboard or html.",
        ),
    ],
    out: opt.Out,
    atlas: Annotated[
        str | None, typer.Option("--atlas", metavar="DIR", help="For formats of features.")
    ] = None,
    store: StoreOf = None,
    features: Annotated[
        int | None,
        typer.Option("--features", metavar="N", min=1, help="html: the most interesting N alone."),
    ] = None,
    as_json: opt.Json = False,
) -> None:
    """Write an SAE as another library's, proved by reading back; or an atlas as a page (html)."""
    if to == "html":
        return _page(source, out, features, as_json)
    from monoscope.features.atlas import load_atlas
    from monoscope.interop import export as give

    with quiet_stdout(as_json), _told("export"):
        told = give(
            source, out, to,
            atlas=None if atlas is None else load_atlas(atlas),
            store=None if store is None else open_store(store),
        )  # fmt: skip
    (print_json if as_json else print_table)(told)


def _page(atlas: str, out: str, n_features: int | None, as_json: bool) -> None:
    from monoscope.viewer.export import export_html

    with quiet_stdout(as_json), Bar("export", "features and documents") as bar:
        told = export_html(atlas, out, n_features=n_features, progress=bar.at)
    (print_json if as_json else print_table)(told)


@contextlib.contextmanager
def _told(verb: str) -> Iterator[None]:
    """What a format cannot carry, a line each on stderr; other warnings go on as they are."""
    from monoscope.artifact.interop import InteropWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InteropWarning)
        yield
    bar = Bar(verb)
    lost = [str(w.message) for w in caught if issubclass(w.category, InteropWarning)]
    for line in dict.fromkeys(lost):
        bar.note(f"not carried: {line}")
    for other in caught:
        if not issubclass(other.category, InteropWarning):
            warnings.warn(other.message, other.category, stacklevel=2)
