"""How OpenAI's two kinds of completion write an answer down: whole, and chunk by chunk."""

from __future__ import annotations

import itertools
from typing import Any

from monoscope.viewer.completions import Piece


class ChatShape:
    """Pieces of an answer as OpenAI's chat completions have them."""

    kind, chunk, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, model: str, logprobs: bool) -> None:
        self.model, self.logprobs = model, logprobs

    def opening(self) -> dict[str, Any] | None:
        """The choice of the first chunk of a stream, before any text; None if there is none."""
        return {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None,
                "logprobs": None}  # fmt: skip

    def part(self, piece: Piece) -> dict[str, Any]:
        """The choice of one chunk of a stream."""
        delta = {"content": piece.text} if piece.text else {}
        return {"index": 0, "delta": delta, "logprobs": self._logprobs([piece]),
                "finish_reason": piece.finish_reason}  # fmt: skip

    def whole(self, pieces: list[Piece]) -> dict[str, Any]:
        """The choice of an answer that was waited for."""
        text = "".join(piece.text for piece in pieces)
        return {
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": self._logprobs(pieces),
            "finish_reason": pieces[-1].finish_reason,
        }

    def _logprobs(self, pieces: list[Piece]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        told = [
            entry(t.text, t.logp) | {"top_logprobs": [entry(*other) for other in t.top]}
            for piece in pieces
            for t in piece.tokens
        ]
        return {"content": told, "refusal": None}


class TextShape:
    """Pieces of an answer as OpenAI's completions have them."""

    kind, chunk, prefix = "text_completion", "text_completion", "cmpl"

    def __init__(self, model: str, logprobs: int | None) -> None:
        self.model, self.logprobs = model, logprobs
        self._said = 0

    def opening(self) -> dict[str, Any] | None:
        """The choice of the first chunk of a stream, before any text; None if there is none."""
        return None

    def part(self, piece: Piece) -> dict[str, Any]:
        """The choice of one chunk of a stream."""
        return self.whole([piece])

    def whole(self, pieces: list[Piece]) -> dict[str, Any]:
        """The choice of an answer that was waited for."""
        return {
            "index": 0,
            "text": "".join(piece.text for piece in pieces),
            "logprobs": self._logprobs(pieces),
            "finish_reason": pieces[-1].finish_reason,
        }

    def _logprobs(self, pieces: list[Piece]) -> dict[str, Any] | None:
        if self.logprobs is None:
            return None
        tokens = [t for piece in pieces for t in piece.tokens]
        ends = list(itertools.accumulate((len(t.piece) for t in tokens), initial=self._said))
        self._said = ends[-1]
        return {
            "tokens": [t.text for t in tokens],
            "token_logprobs": [t.logp for t in tokens],
            "top_logprobs": [dict(t.top) for t in tokens] if self.logprobs else None,
            "text_offset": ends[:-1],
        }


def entry(token: str, logp: float) -> dict[str, Any]:
    """A token with its log-probability and its bytes."""
    return {"token": token, "logprob": logp, "bytes": list(token.encode())}
