"""The page as one classic script and one stylesheet, so that it opens from disk, without a build.

A browser loads no ES module from file://. Ours are plain enough to be joined: each becomes a
function that is run when it is first asked for, its imports looked up, its exports returned. Only
the forms of import and export that the page uses are known; any other is an error, not a guess.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path

from monoscope.errors import FormatError

_IMPORT = re.compile(
    r"^import\s*(?:(?P<default>[\w$]+)\s*,?\s*)?(?:\{(?P<names>[^}]*)\}\s*)?(?:from\s*)?"
    r"[\"'](?P<path>[^\"']+)[\"'];?",
    re.MULTILINE,
)
_DECLARED = re.compile(
    r"^export\s+(?P<kind>(?:async\s+)?function\s*\*?|class|const|let)\s+(?P<name>[\w$]+)",
    re.MULTILINE,
)
_DEFAULT = re.compile(
    r"(?P<before>^|;)export default\s*(?P<what>function\b|[\w$]+;?)", re.MULTILINE
)
_LISTED = re.compile(r"export\s*\{(?P<names>[^{}]*)\}(?:\s*from\s*[\"'](?P<path>[^\"']+)[\"'])?;?")
_LATER = re.compile(r"\bimport\(\s*[\"'](?P<path>[^\"']+)[\"']\s*\)")
_LEFT = re.compile(r"^(?:import|export)\b|\bimport\s*\.\s*meta\b", re.MULTILINE)
_CSS_IMPORT = re.compile(r"@import url\(\"([^\"]+)\"\);\n?")
_LOADER = """const modules = Object.create(null), made = Object.create(null);
const need = (name) => made[name] ??= modules[name]();
"""


def script(static: Path, entries: list[str]) -> str:
    """One classic script of the modules below `static` that the entries reach, run in order.

    Raises FormatError for a form of import or export that is not known, or modules in a circle.
    """
    parts: dict[str, str] = {}
    for entry in entries:
        _gather(static, entry, parts, ())
    body = "".join(
        f"modules[{json.dumps(name)}] = () => {{\n{text}\n}};\n" for name, text in parts.items()
    )
    start = "".join(f"need({json.dumps(entry)});\n" for entry in entries)
    return f'(() => {{\n"use strict";\n{_LOADER}{body}{start}}})();\n'


def styles(path: Path) -> str:
    """A stylesheet with what it imports put in its place.

    Raises FormatError where a file that it imports is missing.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise FormatError(f"cannot read the page's own {path.name}", got=exc) from exc
    return _CSS_IMPORT.sub(lambda found: styles(path.parent / found[1]), text)


def _gather(static: Path, name: str, parts: dict[str, str], above: tuple[str, ...]) -> None:
    """Put a module, and before it those that it imports, into `parts`."""
    if name in parts:
        return
    if name in above:
        raise FormatError("modules import each other", got=" → ".join((*above, name)))
    source = (static / name).read_text(encoding="utf-8")
    module = _Module(name)
    text = module.joined(source)
    for other in module.needed:
        _gather(static, other, parts, (*above, name))
    parts[name] = text
    for other in module.later:
        _gather(static, other, parts, ())


class _Module:
    """One module on its way to a function; collects what it needs and what it gives."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.needed: list[str] = []
        self.later: list[str] = []
        self.given: list[str] = []

    def joined(self, source: str) -> str:
        """The body of a function that returns the module's exports."""
        text = _IMPORT.sub(self._import, source)
        text = _LATER.sub(self._import_later, text)
        text = _DECLARED.sub(self._declared, text)
        text = _DEFAULT.sub(self._default, text)
        text = _LISTED.sub(self._listed, text)
        left = _LEFT.search(text)
        if left:
            line = text[left.start() :].split("\n", 1)[0]
            raise FormatError(f"{self.name}: cannot be joined", got=line[:120])
        return f"{text}\nreturn {{ {', '.join(self.given)} }};"

    def _path(self, relative: str) -> str:
        return posixpath.normpath(posixpath.join(posixpath.dirname(self.name), relative))

    def _needs(self, relative: str) -> str:
        path = self._path(relative)
        self.needed.append(path)
        return f"need({json.dumps(path)})"

    def _import(self, found: re.Match[str]) -> str:
        names = [_pair(part) for part in (found["names"] or "").split(",") if part.strip()]
        if found["default"]:
            names.append(f"default: {found['default']}")
        need = self._needs(found["path"])
        return f"const {{ {', '.join(names)} }} = {need};" if names else f"{need};"

    def _import_later(self, found: re.Match[str]) -> str:
        path = self._path(found["path"])
        self.later.append(path)
        return f"Promise.resolve().then(() => need({json.dumps(path)}))"

    def _declared(self, found: re.Match[str]) -> str:
        # Read when asked for, as a `let` may change after.
        self.given.append(f"get {found['name']}() {{ return {found['name']}; }}")
        return f"{found['kind']} {found['name']}"

    def _default(self, found: re.Match[str]) -> str:
        self.given.append("default: the_default")
        return f"{found['before']}const the_default = {found['what']}"

    def _listed(self, found: re.Match[str]) -> str:
        pairs = [part.split(" as ") for part in found["names"].split(",") if part.strip()]
        source = "" if found["path"] is None else f"{self._needs(found['path'])}."
        for pair in pairs:
            self.given.append(f"{pair[-1].strip()}: {source}{pair[0].strip()}")
        return ";"


def _pair(part: str) -> str:
    """`a as b` of an import, as destructuring has it."""
    return ": ".join(piece.strip() for piece in part.split(" as "))
