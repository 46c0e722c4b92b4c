"""A stretch of text with a latent's activation shaded behind its tokens, on one terminal line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.style import Style
from rich.text import Text

from monoscope.features.feature import Example
from monoscope.visible import visible

# One hue, of nearly even lightness and rising chroma (OKLCH hue 60°), with black text on it: a
# ramp from light to dark would turn round between dark and light terminals. The faintest step
# colours the letters alone, so that weak activations stay quiet on both.
_FAINTEST = 0.08
_RAMP = (
    (0.85, Style(color="#000000", bgcolor="#ec8300", bold=True)),
    (0.65, Style(color="#000000", bgcolor="#e79a57")),
    (0.45, Style(color="#000000", bgcolor="#deac83")),
    (0.25, Style(color="#000000", bgcolor="#cfb9a8")),
    (_FAINTEST, Style(color="#bd7634")),
)
_MARKED = 0.5  # share of the scale from which a token is marked where there are no colours
_BEFORE = 0.6  # share of the room given to the text before the peak


@dataclass(frozen=True)
class ContextLine:
    """Renders as one line of at most `width` cells (None: all there are), centred on the peak.

    scale: the value shaded fully, usually the latent's maximum. Without colours the peak is
    marked «token»(value) and other strong tokens «token».
    """

    pieces: tuple[str, ...]
    values: tuple[float, ...]
    peak: int
    scale: float
    width: int | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_width if self.width is None else min(self.width, options.max_width)
        yield self.text(room, colour=has_colour(console))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        room = options.max_width if self.width is None else min(self.width, options.max_width)
        return Measurement(min(20, room), room)

    def text(self, room: int, *, colour: bool) -> Text:
        """The line in at most `room` cells, shaded or, without colour, marked."""
        shares = [max(value, 0.0) / self.scale if self.scale > 0 else 0.0 for value in self.values]
        if shares and self.values[self.peak] > 0:  # what a line is about is seen, however weak
            shares[self.peak] = max(shares[self.peak], _FAINTEST)
        parts = [
            visible(piece) or ("�" if share >= _FAINTEST else "")  # part of a character
            for piece, share in zip(self.pieces, shares, strict=True)
        ]
        if colour:
            spans = [(part, shade(share)) for part, share in zip(parts, shares, strict=True)]
        else:
            spans = [(self._marked(i, part, shares[i]), None) for i, part in enumerate(parts)]
        return _excerpt(spans, self.peak, room)

    def _marked(self, index: int, part: str, share: float) -> str:
        if index != self.peak and share < _MARKED:
            return part
        core = part.lstrip(" ") or part
        value = f"({short(self.values[index])})" if index == self.peak else ""
        return f"{part[: len(part) - len(core)]}«{core}»{value}"


def context_line(
    example: Example, width: int | None = None, *, scale: float | None = None
) -> ContextLine:
    """An example as one line of at most `width` cells; scale: its own peak value if not given."""
    top = max(example.values, default=0.0) if scale is None else scale
    return ContextLine(tuple(example.pieces), tuple(example.values), example.peak, top, width)


def shade(share: float) -> Style | None:
    """The style of a token at `share` (0 to 1) of the scale; None where it is too faint to show."""
    return next((style for least, style in _RAMP if share >= least), None)


def has_colour(console: Console) -> bool:
    """Whether a console shows colours: it has a colour system and NO_COLOR is not set."""
    return console.color_system is not None and not console.no_color


def short(value: float) -> str:
    """A number in a few characters: 1234, 12.3, 0.12, 0.0031."""
    size = abs(value)
    if size >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if size >= 1 else f"{value:.2f}" if size >= 0.1 else f"{value:.2g}"


Span = tuple[str, Style | None]


def _excerpt(spans: list[Span], peak: int, room: int) -> Text:
    """The spans around the peak that fit in `room` cells, with … where text was cut away."""
    if not spans:
        return Text(end="")
    middle = [spans[peak] if _cells([spans[peak]]) <= room else _cut(spans[peak], room)]
    left_over = room - _cells(middle)
    before, after = spans[:peak], spans[peak + 1 :]
    n_before, n_after = _cells(before), _cells(after)
    left = min(n_before, max(int(left_over * _BEFORE), left_over - n_after))
    right = min(n_after, left_over - left)
    out = Text(no_wrap=True, overflow="crop", end="")
    for text, style in (*_tail(before, left), *middle, *_head(after, right)):
        out.append(text, style)
    return out


def _head(spans: list[Span], room: int) -> list[Span]:
    """The first spans that fit in `room` cells, ending in … if some do not."""
    if _cells(spans) <= room:
        return spans
    out: list[Span] = []
    for span in spans:
        if _cells([span]) > room - 1:  # more follows, so the last cell is for the …
            return [*out, _cut(span, room)] if room > 0 else out
        out.append(span)
        room -= _cells([span])
    return out


def _tail(spans: list[Span], room: int) -> list[Span]:
    """The last spans that fit in `room` cells, beginning with … if some do not."""
    mirrored = [(text[::-1], style) for text, style in reversed(spans)]
    return [(text[::-1], style) for text, style in reversed(_head(mirrored, room))]


def _cut(span: Span, room: int) -> Span:
    """As much of a span as leaves a cell of `room` for the … at its end."""
    text, style = span
    while text and cell_len(text) > room - 1:
        text = text[:-1]
    return (text + "…", style)


def _cells(spans: Sequence[Span]) -> int:
    return sum(cell_len(text) for text, _ in spans)
