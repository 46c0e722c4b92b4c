"""A store as the verbs open it: one whose harvest did not finish is used, and said to be that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from monoscope.data.store import ActivationStore


def open_store(path: str) -> ActivationStore:
    """The store at `path`, with one line on stderr where its harvest did not finish.

    Raises as ActivationStore.open.
    """
    from monoscope.data.store import ActivationStore

    store = ActivationStore.open(path)
    manifest = store.manifest
    if not manifest.complete:
        held, wanted = manifest.n_tokens(), manifest.arguments.n_tokens
        typer.echo(
            f"monoscope: the store {path} is unfinished: {held:,} of {wanted:,} tokens; "
            "run collect again to go on",
            err=True,
        )
    return store
