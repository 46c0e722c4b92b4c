"""Answers already paid for, kept by what was asked: an append-only file that survives any kill."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monoscope.errors import OutputError
from monoscope.features.explain.endpoint import Message, Reply, Usage
from monoscope.files import write_problem


class Journal:
    """One JSON line per answer, under a hash of all that was asked; `path` None keeps nothing.

    A line cut short by a kill is skipped, and the next one starts on a line of its own. Only good
    answers are kept: what failed is asked again by the next run. May be used from several threads.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self._lock = path, threading.Lock()
        self._held: dict[str, Reply] = {}
        self.n_damaged = 0
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for line in path.read_bytes().splitlines() if path.exists() else ():
                self._read(line)
        except OSError as exc:
            raise OutputError(f"cannot use {path}", got=exc) from exc

    def __len__(self) -> int:
        return len(self._held)

    @staticmethod
    def key(model: str, url: str, messages: Sequence[Message], settings: Mapping[str, Any]) -> str:
        """SHA-256 of everything that the answer depends on."""
        asked = json.dumps([model, url, list(messages), dict(settings)], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()

    def get(self, key: str) -> Reply | None:
        """The answer under this key, if there is one."""
        with self._lock:
            return self._held.get(key)

    def put(self, key: str, reply: Reply) -> None:
        """Keep an answer; it is on disk when this returns.

        Raises OutputError if the disk is full or the file cannot be written.
        """
        usage = reply.usage
        line = json.dumps(
            {
                "key": key,
                "text": reply.text,
                "logprobs": reply.logprobs,
                "usage": [usage.prompt_tokens, usage.completion_tokens, usage.known],
            },
            ensure_ascii=False,
        )
        with self._lock:
            self._held[key] = reply
            if self.path is not None:
                self._append(line)

    def _append(self, line: str) -> None:
        assert self.path is not None
        try:
            with self.path.open("ab+") as file:
                if file.tell() and not _ends_in_newline(file):
                    line = "\n" + line
                file.write(f"{line}\n".encode(errors="replace"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as exc:
            raise write_problem(self.path, exc) or OutputError(
                f"cannot write {self.path}", got=exc
            ) from exc

    def _read(self, line: bytes) -> None:
        try:
            told = json.loads(line)
            held = told["logprobs"]
            logprobs = None if held is None else tuple((str(t), dict(o)) for t, o in held)
            n_in, n_out, known = told["usage"]
            reply = Reply(str(told["text"]), Usage(1, int(n_in), int(n_out), bool(known)), logprobs)
            self._held[str(told["key"])] = reply
        except (ValueError, KeyError, TypeError):
            self.n_damaged += bool(line.strip())


def _ends_in_newline(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")
