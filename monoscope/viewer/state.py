"""What the API's routers share: the settings, the open atlas, and the model once it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel

from monoscope import assets
from monoscope.features.atlas import Atlas
from monoscope.viewer.catalogue import Catalogue
from monoscope.viewer.config import ViewerConfig


class ModelStatus(BaseModel):
    """Whether the language model and the SAE can be asked.

    state: "absent" (no SAE was given), "loading", "ready" or "failed"; detail: one line on why.
    model: its name; sae: the SAE's folder.
    busy: whether a request runs at the moment; waiting: how many more are queued.
    """

    state: Literal["absent", "loading", "ready", "failed"]
    detail: str = ""
    model: str | None = None
    sae: str | None = None
    busy: bool = False
    waiting: int = 0


class Engine(Protocol):
    """The running model, as far as the app itself is concerned; `engine.py` has the real one."""

    def start(self) -> None:
        """Begin to load in the background; returns at once."""

    def status(self) -> ModelStatus:
        """Where loading stands, without waiting."""

    def close(self) -> None:
        """Stop what runs and let go of the model."""


@dataclass
class ViewerState:
    """One viewer's parts. engine: None where no SAE was given."""

    config: ViewerConfig
    atlas: Atlas
    engine: Engine | None = None

    @cached_property
    def catalogue(self) -> Catalogue:
        """The tables that lists and searches ask; made by the first question."""
        return Catalogue(self.atlas)

    def model_status(self) -> ModelStatus:
        """As the engine says; "absent" without one."""
        if self.engine is None:
            return ModelStatus(
                state="absent", detail="Start the viewer with --sae DIR to ask the model."
            )
        told = self.engine.status()
        sae = None if self.config.sae is None else str(self.config.sae.resolve())
        return told.model_copy(update={"sae": sae, "model": _placed(told.model)})


def _placed(model: str | None) -> str | None:
    """A model's name as any folder's shell takes it: whole where it is a path from here."""
    if model is None or model == assets.DEMO or not Path(model).exists():
        return model
    return str(Path(model).resolve())
