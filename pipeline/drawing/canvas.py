"""Lines, dots and words on a plane, as SVG text: the same marks give the same bytes, on a light page and on a dark one.

Lengths are in the units of the drawing, x to the right and y downwards. Colours are `currentColor` and custom
properties with a fallback, so that a drawing takes the colours of the page it stands in.
"""

import math
import re
from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

INK = "currentColor"
ACCENT, SECOND = "var(--accent, #2a6db0)", "var(--accent-2, #b0532a)"
SERIES = (  # told apart by those who see few colours, and each by its mark as well
    "var(--c1, #3a78c2)",
    "var(--c2, #c05a26)",
    "var(--c3, #2f8f5b)",
    "var(--c4, #8d5fc0)",
    "var(--c5, #9a7d12)",
    "var(--c6, #1b8c99)",
)
MARKS = "osd^vp"
FONT = 11.0
Points = Sequence[tuple[float, float]]

_ROOT = "max-width: 100%; height: auto; font: 11px system-ui, sans-serif; stroke-linejoin: round"
_CORNERS = {  # of the marks with corners: so many, the first at this angle, and the radius that makes them look alike
    "s": (4, math.pi / 4, 1.2),
    "d": (4, 0.0, 1.3),
    "^": (3, -math.pi / 2, 1.35),
    "v": (3, math.pi / 2, 1.35),
    "p": (5, -math.pi / 2, 1.15),
}


class Canvas:
    """A drawing of `width` x `height`; whatever is put on it later lies above."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._marks: list[str] = []

    def line(
        self, points: Points, colour: str = INK, *, width: float = 1.0, alpha: float = 1.0, dash: str = ""
    ) -> None:
        """A line through points; a place that is not finite leaves a gap."""
        style = f"fill: none; stroke: {colour}; stroke-width: {_number(width)}"
        style += f"; stroke-opacity: {_number(alpha, 2)}" if alpha < 1 else ""
        self._path(_pieces(points), style + (f"; stroke-dasharray: {dash}" if dash else ""))

    def area(self, points: Points, colour: str, *, alpha: float = 1.0) -> None:
        """A filled area with these corners."""
        self._path(_pieces(points) + "Z", f"fill: {colour}" + (f"; fill-opacity: {_number(alpha, 2)}" * (alpha < 1)))

    def box(self, x: float, y: float, width: float, height: float, colour: str, *, alpha: float = 1.0) -> None:
        """A filled rectangle; x and y are its upper left corner."""
        self.area([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], colour, alpha=alpha)

    def mark(
        self, x: float, y: float, colour: str, *, shape: str = "o", size: float = 3.0, hollow: bool = False
    ) -> None:
        """A mark of a data point: `o` a dot, `s` a square, `d` a diamond, `^` and `v` triangles, `p` a pentagon.

        Args:
            x: of its middle.
            y: of its middle.
            colour: of its outline, or of all of it.
            shape: one of `MARKS`.
            size: its radius.
            hollow: draw the outline alone.
        """
        style = f"fill: none; stroke: {colour}; stroke-width: 1.2" if hollow else f"fill: {colour}"
        if shape == "o":
            self._marks.append(f'<circle cx="{_number(x)}" cy="{_number(y)}" r="{_number(size)}" style="{style}"/>')
            return
        count, start, scale = _CORNERS[shape]
        angles = [start + 2 * math.pi * corner / count for corner in range(count)]
        radius = size * scale
        self._path(_pieces([(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]) + "Z", style)

    def text(
        self, x: float, y: float, words: str, *, align: str = "start", size: float = FONT, alpha: float = 1.0
    ) -> None:
        """One line of text; x is its `start`, `middle` or `end`, y the line it stands on."""
        style = f"text-anchor: {align}" if align != "start" else ""
        style += f"; font-size: {_number(size)}px" if size != FONT else ""
        style += f"; fill-opacity: {_number(alpha, 2)}" if alpha < 1 else ""
        named = f' style="{style.removeprefix("; ")}"' if style else ""
        self._marks.append(f'<text x="{_number(x)}" y="{_number(y)}"{named}>{escape(one_line(words))}</text>')

    def svg(self, title: str) -> str:
        """The drawing as a whole SVG document; `title` is its accessible name."""
        width, height = _number(self.width), _number(self.height)
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img" aria-label={quoteattr(one_line(title))} fill="currentColor" style="{_ROOT}">'
        )
        return "\n".join([head, *self._marks, "</svg>\n"])

    def _path(self, places: str, style: str) -> None:
        self._marks.append(f'<path d="{places}" style="{style}"/>')


def standalone(svg: str) -> str:
    """The drawing as a file of its own: it follows the reader's light or dark scheme where no page does that for it."""
    style = "<style>@media (prefers-color-scheme: dark) { svg { color: #e4e4e0 } }</style>"
    head, bracket, body = svg.partition(">\n")
    return head + bracket + style + body


def one_line(text: str) -> str:
    """The text without line breaks and control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def extent(text: str, size: float = FONT) -> float:
    """How wide a line of text is, about: readers' fonts differ."""
    return size * sum(_advance(letter) for letter in text)


def cut(text: str, width: float, size: float = FONT) -> str:
    """The text, or as much of it as is not wider than this, with dots."""
    text = one_line(text)
    if extent(text, size) <= width:
        return text
    while text and extent(text + "…", size) > width:
        text = text[:-1]
    return text.rstrip() + "…"


def lines_of(text: str, width: float, *, most: int, size: float = FONT) -> list[str]:
    """The text in lines of at most this width, broken between words; what does not fit into `most` lines is cut."""
    found = [""]
    for word in re.findall(r"\S+\s*", one_line(text)):
        if found[-1] and extent(found[-1] + word.rstrip(), size) > width and len(found) < most:
            found.append("")
        found[-1] += word
    return [cut(line.rstrip(), width, size) for line in found]


def _advance(letter: str) -> float:
    """The width of a letter, of the height of its line."""
    if ord(letter) > 0x2E7F:
        return 1.0
    if letter in "iljtfr.,:;|!'`()[] ":
        return 0.37
    if letter in "mwMW@%—…":
        return 0.95
    return 0.7 if letter.isupper() else 0.61


def _pieces(points: Points) -> str:
    """The places of a path; where a point is not finite, it begins anew."""
    words, pen = [], "M"
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y):
            words.append(f"{pen}{_number(x)} {_number(y)}")
            pen = "L"
        else:
            pen = "M"
    return "".join(words)


def _number(value: float, digits: int = 1) -> str:
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
