"""The running model: loads the SAE and the language model in the background."""

from __future__ import annotations

import threading

from monoscope.errors import MonoscopeError
from monoscope.features.atlas import Atlas
from monoscope.viewer.config import ViewerConfig
from monoscope.viewer.state import ModelStatus


class Engine:
    """Loads once, on a thread of its own; nothing here imports torch before `start`."""

    def __init__(self, config: ViewerConfig, atlas: Atlas) -> None:
        self.config, self.atlas = config, atlas
        self._status = ModelStatus(state="loading", detail="The SAE and its model are being read.")

    def start(self) -> None:
        """Begin to load in the background; returns at once."""
        threading.Thread(target=self._load, name="monoscope-load", daemon=True).start()

    def status(self) -> ModelStatus:
        """Where loading stands, without waiting."""
        return self._status

    def close(self) -> None:
        """Let go of the model."""

    def _load(self) -> None:
        from monoscope.artifact import load_sae
        from monoscope.lm import load_lm

        try:
            assert self.config.sae is not None
            self.sae = load_sae(self.config.sae)
            name = self.config.model or self.sae.provenance["model"]["model"]
            self.lm = load_lm(name, device=self.config.device)
            self._status = ModelStatus(state="ready", model=name)
        except MonoscopeError as exc:
            self._status = ModelStatus(state="failed", detail=str(exc))
