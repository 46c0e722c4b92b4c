"""The verb that ties a smaller SAE's features to a larger's, split, and the tree that it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monoscope.cli import options as opt
from monoscope.cli.output import console, print_json, print_table, quiet_stdout
from monoscope.cli.stores import open_store

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

    from monoscope.features.atlas import Atlas


def register(app: typer.Typer) -> None:
    """Add the verb to the app."""
    example = "monoscope split runs/1k/atlas runs/4k/atlas --store runs/store"
    app.command("split", epilog=f"Example: {example}")(split)


def split(
    small: Annotated[str, typer.Argument(metavar="SMALL_ATLAS", help="Folder of an atlas.")],
    large: Annotated[
        str, typer.Argument(metavar="LARGE_ATLAS", help="One of the same model, of a larger SAE.")
    ],
    store: opt.StoreDir,
    tokens: opt.Tokens = 65_536,
    runs: opt.Runs = None,
    seed: opt.Seed = 0,
    as_json: opt.Json = False,
) -> None:
    """Find what each feature of a smaller SAE has become in a larger, and keep it in both atlases.

    A feature's page then says what it is part of and what it splits into, and
    `features SMALL_ATLAS --children N` draws the tree.
    """
    from monoscope.artifact import load_sae
    from monoscope.features.atlas import load_atlas
    from monoscope.features.lineage import N_TOKENS, check_pair, keep_splitting

    smaller, larger = load_atlas(small), load_atlas(large)
    check_pair(smaller, larger)
    with quiet_stdout(as_json):
        a, b = (load_sae(_sae_of(atlas, runs)) for atlas in (smaller, larger))
        told = keep_splitting(
            smaller, larger, a, b, open_store(store),
            n_tokens=N_TOKENS if tokens is None else tokens, seed=seed,
        )  # fmt: skip
    (print_json if as_json else print_table)(told)


def children(atlas: Atlas, latent: int, as_json: bool) -> None:
    """`features ATLAS --children N`: the feature with what it splits into, size by size."""
    from monoscope.features.lineage import tree

    told = tree(atlas, latent)
    if as_json:
        return print_json(told)
    console().print(_drawn(told))


def _sae_of(atlas: Atlas, runs: str | None) -> Path:
    """The folder of an atlas's SAE; MismatchError where it is not found."""
    from monoscope.viewer import found

    seen = found.look(atlas.folder.resolve().parent)
    if runs is not None:
        seen = seen.joined(found.look(Path(runs)))
    return found.sae_of(seen, atlas.manifest)


def _drawn(node: Mapping[str, Any], above: Tree | None = None) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    from monoscope.visible import visible

    line = _line(node)
    branch = Tree(line) if above is None else above.add(line)
    for child in node["children"]:
        _drawn(child, branch)
    if node["trouble"]:
        branch.add(Text(visible(node["trouble"]), style="dim"))
    return branch


def _line(node: Mapping[str, Any]) -> Text:
    from rich.text import Text

    from monoscope.features.show import doubts, label_text

    line = Text(no_wrap=True, overflow="ellipsis").append(f"#{node['latent']} ", style="bold")
    line.append(f"of {node['d_sae']:,}  ", style="dim")
    if "cosine" in node:
        line.append(f"cos {node['cosine']:.2f}  ", style="dim")
    line.append_text(label_text(node["label"]))
    if "cosine" in node:
        line.append(doubts(node["cosine"], node["agrees"], node["chance"]), style="dim")
    return line
