"""The prompts, which are files that one can read and replace: a heading a role, {{names}} to fill.

explain.md asks for an explanation; detect.md and fuzz.md for judgements; repair.md for valid JSON.
"""

from __future__ import annotations

import hashlib
import os
import re
from importlib import resources
from pathlib import Path

from monoscope.errors import ConfigError
from monoscope.features.explain.endpoint import Message

NAMES = {
    "explain": ("excerpts",),
    "detect": ("n", "explanation", "excerpts"),
    "fuzz": ("n", "explanation", "excerpts"),
    "repair": ("problem",),
}
_ROLE = re.compile(r"^## (system|user|assistant)[ \t]*$", re.MULTILINE)
_FIELD = re.compile(r"\{\{(\w+)\}\}")


class Prompts:
    """The four prompts: the package's own, each replaced by its namesake in `folder`, if there.

    Raises ConfigError for a folder without any, and for a prompt without a role, or with a name
    missing or unknown.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        own = resources.files("monoscope.features.explain") / "prompts"
        given = None if folder is None else Path(folder)
        if given is not None and not any((given / f"{name}.md").is_file() for name in NAMES):
            raise ConfigError(
                "the folder of prompts holds none",
                got=given,
                expected="one or more of " + ", ".join(f"{name}.md" for name in NAMES),
            )
        self.texts = {}
        for name in NAMES:
            file = own / f"{name}.md"
            if given is not None and (given / f"{name}.md").is_file():
                file = given / f"{name}.md"
            self.texts[name] = file.read_text(encoding="utf-8")
            _check(name, self.texts[name])

    @property
    def hash(self) -> str:
        """SHA-256 over all four."""
        return hashlib.sha256("\0".join(self.texts.values()).encode()).hexdigest()

    def messages(self, name: str, **values: object) -> list[Message]:
        """Prompt `name` as messages, its names filled in; what is filled in is not read again."""
        parts = _ROLE.split(self.texts[name])[1:]
        return [
            {
                "role": role,
                "content": _FIELD.sub(lambda found: str(values[found[1]]), text).strip(),
            }
            for role, text in zip(parts[::2], parts[1::2], strict=True)
        ]


def _check(name: str, text: str) -> None:
    if not _ROLE.search(text):
        raise ConfigError(f"{name}.md has no role", expected='a line "## system" or "## user"')
    used, needed = set(_FIELD.findall(text)), set(NAMES[name])
    wrong = sorted(used - needed) or sorted(needed - used - {"n"})
    if wrong:
        raise ConfigError(
            f"{name}.md {'has an unknown' if used - needed else 'lacks a'} name to fill in",
            got=f"{{{{{wrong[0]}}}}}",
            expected=", ".join(f"{{{{{field}}}}}" for field in NAMES[name]),
        )
