"""Held-out figures of a sweep's SAEs, kept as they come: going on measures none twice."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from monoscope.artifact.checks import weights_hash
from monoscope.evals import evaluate
from monoscope.files import write_atomic
from monoscope.sae import SAE

FILE = "measured.json"
FIGURES = ("fvu", "l0", "dead_fraction")


class Measured:
    """The figures in a sweep's folder, by the hash of the SAE's weights and the tokens measured."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._held: dict[str, dict[str, Any]] = {}
        # where it is missing or damaged, all of it is measured again
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError, KeyError):
            held = json.loads(self.path.read_text(encoding="utf-8"))
            self._held = {key: {name: of[name] for name in FIGURES} for key, of in held.items()}

    def of(self, sae: SAE, store: Any, n_tokens: int | None, dead_tokens: int) -> dict[str, Any]:
        """FVU, L0 and share of dead latents on n_tokens held-out tokens of the store."""
        there = store.n_tokens("held_out")
        tokens = there if n_tokens is None else min(n_tokens, there)
        corpus = store.manifest.corpus_fingerprint
        key = f"{weights_hash(sae)} {corpus} {tokens} {dead_tokens}"
        if key not in self._held:
            found = evaluate(
                sae, store, baselines=False, bootstrap=0, n_tokens=n_tokens, dead_tokens=dead_tokens
            )
            self._held[key] = {name: getattr(found, name) for name in FIGURES}
            write_atomic(self.path, json.dumps(self._held, indent=1) + "\n")
        return self._held[key]
