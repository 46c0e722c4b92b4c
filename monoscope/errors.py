"""Every error monoscope raises on purpose, in one tree.

MonoscopeError                 the root: catch this to catch them all
├── InputError                 the caller can mend it; the command line exits with 2
│   ├── SiteError              a site that cannot be parsed, or that the model lacks
│   ├── ModelError             a model that is missing, unreadable or unsafe to load
│   ├── CorpusError            text that is missing, empty, binary, cut short or ambiguous
│   ├── ConfigError            a setting that is unknown or out of range
│   ├── LatentError            a latent id outside the SAE
│   ├── MismatchError          parts that do not belong together (model, site, store, SAE, atlas)
│   ├── DataError              activations that cannot be used (NaN, wrong shape, too few)
│   ├── FormatError            a file on disk that is damaged, foreign or from a newer version
│   ├── OutputError            an output folder that cannot be written as asked
│   ├── EndpointError          a language model's endpoint that is down, slow or refuses
│   └── AssetError             an embedded package that is missing or altered
└── TrainingError              a run that stopped itself; the last good checkpoint stands

Each message is one line: what went wrong, what was got, what was expected, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class MonoscopeError(Exception):
    """The root of the tree; formats `what: got …; expected …. What to do.` on one line."""

    exit_code = 1

    def __init__(
        self, what: str, *, got: object = None, expected: object = None, hint: str | None = None
    ) -> None:
        self.what, self.got, self.expected, self.hint = what, got, expected, hint
        parts = [what]
        if got is not None:
            parts.append(f"got {got}")
        if expected is not None:
            parts.append(f"expected {expected}")
        head = parts[0] + (": " + "; ".join(parts[1:]) if len(parts) > 1 else "")
        line = f"{head}. {hint}" if hint else head
        super().__init__(" ".join(line.split()))


class InputError(MonoscopeError):
    """Something the caller can mend."""

    exit_code = 2


class SiteError(InputError):
    """A site that cannot be parsed, or that the model lacks."""


class ModelError(InputError):
    """A model that is missing, unreadable or unsafe to load."""


class CorpusError(InputError):
    """Text that is missing, empty, binary, cut short or ambiguous."""


class ConfigError(InputError):
    """A setting that is unknown or out of range."""


class LatentError(InputError):
    """A latent id outside the SAE."""


class MismatchError(InputError):
    """Parts that do not belong together: model, site, store, SAE, atlas."""


class DataError(InputError):
    """Activations that cannot be used: NaN, wrong shape, too few."""


class FormatError(InputError):
    """A file on disk that is damaged, foreign or from a newer version."""


class OutputError(InputError):
    """An output folder that cannot be written as asked."""


class EndpointError(InputError):
    """A language model's endpoint that is down, slow or refuses."""


class AssetError(InputError):
    """An embedded package that is missing or altered."""


class TrainingError(MonoscopeError):
    """A run that stopped itself; the last good checkpoint stands."""


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The closest of `names` to a mistyped `name`, for "did you mean" hints."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return close[0] if close else None


def require_version(where: object, version: object, newest: int) -> None:
    """Raise FormatError unless a file's schema version is one that this monoscope can read."""
    if version is None:
        raise FormatError(
            f"{where} does not say its schema_version",
            expected=f"at most {newest}",
            hint="It is damaged, or no file of monoscope's.",
        )
    if not isinstance(version, int) or version > newest:
        raise FormatError(
            f"{where} was written by a newer monoscope",
            got=f"schema_version {version}",
            expected=f"at most {newest}",
            hint="Upgrade monoscope to read it.",
        )


def require_at_least(of: object, least: Mapping[str, int]) -> None:
    """Raise ConfigError unless each attribute named in `least` has that value or more."""
    for name, low in least.items():
        if (value := getattr(of, name)) < low:
            raise ConfigError(f"{name} is out of range", got=value, expected=f"at least {low}")
