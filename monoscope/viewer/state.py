"""What the API's routers share: the settings, the open atlas, and the model once it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import BaseModel

from monoscope.features.atlas import Atlas
from monoscope.viewer.config import ViewerConfig


class ModelStatus(BaseModel):
    """Whether the language model and the SAE can be asked.

    state: "absent" (no SAE was given), "loading", "ready" or "failed"; detail: one line on why.
    """

    state: Literal["absent", "loading", "ready", "failed"]
    detail: str = ""
    model: str | None = None


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

    def model_status(self) -> ModelStatus:
        """As the engine says; "absent" without one."""
        if self.engine is None:
            return ModelStatus(
                state="absent", detail="Start the viewer with --sae DIR to ask the model."
            )
        return self.engine.status()
