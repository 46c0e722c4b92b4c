"""Corpus text made safe to print: every character that could move a cursor is drawn instead.

Corpora hold newlines, tabs, ANSI escapes and bidirectional overrides. A label or a context line
must stay on its line and must never reach the terminal as an instruction.
"""

from __future__ import annotations

import unicodedata

_DRAWN = {"\n": "⏎", "\r": "␍", "\t": "⇥", "\u2028": "⏎", "\u2029": "⏎", "\x7f": "␡"}


def _draw(char: str) -> str:
    if char in _DRAWN:
        return _DRAWN[char]
    category = unicodedata.category(char)
    if category == "Cc":  # C0 has a picture for each code; C1 (8-bit escapes such as \x9b) has none
        return chr(0x2400 + ord(char)) if ord(char) < 0x20 else "�"
    if category in ("Cs", "Cn", "Co"):
        return "�"
    if category == "Cf":  # bidi overrides, joiners, byte-order marks: invisible, so drawn
        return "·"
    return " " if category == "Zs" else char


def visible(text: str) -> str:
    """`text` on one line: newline as ⏎, tab as ⇥, every other control character as a picture."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _draw(char) for char in text)


def quoted(token: str) -> str:
    """A token between double quotes, so that its leading space can be seen."""
    return f'"{visible(token)}"'
