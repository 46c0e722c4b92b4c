"""How far a harvest is, and what its user must be told of it: an early end, texts that were cut."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from monoscope.data.manifest import Manifest

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class HarvestProgress:
    """How far a harvest is.

    phase: "reused" (a finished store was found), "resumed", "harvest" (after each batch),
    "exhausted" (the corpus ended early), "done".
    n_tokens: kept so far; during a group, its tokens before the mask count too.
    total: tokens asked for.  tokens_per_s: of this run, before the mask.
    message: what to tell the user, in the phases that have something to tell.
    """

    phase: Literal["reused", "resumed", "harvest", "exhausted", "done"]
    n_tokens: int
    total: int
    tokens_per_s: float
    message: str | None = None


class Reporter:
    """Turns counts into HarvestProgress; without a listener, only what must be told is logged."""

    def __init__(
        self, listener: Callable[[HarvestProgress], None] | None, manifest: Manifest
    ) -> None:
        self._listener = listener
        self._total = manifest.arguments.n_tokens
        self._since = time.perf_counter()
        self._run_tokens = 0
        self._done = manifest.n_tokens()
        if manifest.complete:
            short = f", all that its corpus gave of {self._total:,}" if manifest.exhausted else ""
            reused = f"a finished store of {self._done:,} tokens is reused{short}"
            self.tell("reused", joined(reused, left_out(manifest)))
        elif manifest.shards:
            self.tell("resumed", f"going on after {self._done:,} tokens")

    def batch(self, n: int) -> None:
        self._run_tokens += n
        self._done += n
        self.tell("harvest")

    def group(self, manifest: Manifest) -> None:
        self._done = manifest.n_tokens()

    def tell(
        self,
        phase: Literal["reused", "resumed", "harvest", "exhausted", "done"],
        message: str | None = None,
    ) -> None:
        if self._listener is not None:
            rate = self._run_tokens / max(time.perf_counter() - self._since, 1e-9)
            self._listener(HarvestProgress(phase, self._done, self._total, rate, message))
        elif message is not None and phase in ("exhausted", "done"):
            _LOG.warning(message)


def left_out(manifest: Manifest) -> str | None:
    """What was left out of documents that are too long, in one line; None if nothing was."""
    n, most = manifest.n_documents_cut, manifest.arguments.max_doc_tokens
    if n == 0:
        return None
    counted = manifest.n_tokens_cut  # 0 in a store from before they were counted
    rest = f"about {counted:,} tokens" if counted else "the rest"
    cut = "1 document was" if n == 1 else f"{n:,} documents were"
    return f"{cut} cut at {most:,} tokens, {rest} left out (--max-doc-tokens)"


def joined(*parts: str | None) -> str:
    """What there is to tell, in one line."""
    return "; ".join(part for part in parts if part)
