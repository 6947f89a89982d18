"""The figures of the report as SVG text: the same numbers give the same bytes, on a light page and on a dark one.

Matplotlib lays them out in marker colours that are then replaced: ink by `currentColor`, accents by custom properties
with a fallback, so a figure takes the colours of the page it stands in.
"""

import hashlib
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, ACCENT, SECOND = "#010101", "#020202", "#030303"
_COLOURS = {
    INK: "currentColor",
    ACCENT: "var(--accent, #2a6db0)",
    SECOND: "var(--accent-2, #b0532a)",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}
_SVG = "{http://www.w3.org/2000/svg}"
_ROOT_STYLE = "max-width: 100%; height: auto; font-family: system-ui, sans-serif; stroke-linejoin: round"
_LINK = "{http://www.w3.org/1999/xlink}href"
_WIDTH = 4.6


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One row of a dot plot, in percent: mean, standard deviation, every seed, and the comparable printed number."""

    label: str
    mean: float
    std: float | None
    seeds: tuple[float, ...]
    published: float | None


def dot_plot(dots: Sequence[Dot], *, name: str, title: str) -> str:
    """Rows from top to bottom: mean and standard deviation, the seeds as ticks, the paper's number as a diamond.

    Args:
        dots: at least one.
        name: of the figure; one page holds no two of a name.
        title: what the axis measures; also the figure's accessible name.

    Returns:
        A whole SVG document.
    """
    with canvas(name, height=0.62 + 0.3 * len(dots)) as figure:
        axes = figure.add_subplot()
        _draw(axes, dots)
        axes.set_yticks(range(len(dots)), [wrapped(dot.label) for dot in dots])
        axes.set_ylim(len(dots) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=INK, alpha=0.12, linewidth=0.6)
        axes.margins(x=0.06)
        axes.set_xlabel(one_line(title))
        return as_svg(figure, title)


def _draw(axes: Axes, dots: Sequence[Dot]) -> None:
    bars = [(place, dot.mean - dot.std, dot.mean + dot.std) for place, dot in enumerate(dots) if dot.std is not None]
    seeds = [(value, place) for place, dot in enumerate(dots) if dot.std is not None for value in dot.seeds]
    printed = [(dot.published, place) for place, dot in enumerate(dots) if dot.published is not None]
    if bars:
        axes.hlines(*zip(*bars, strict=True), color=ACCENT, linewidth=1.6, alpha=0.55)
        axes.plot(*zip(*seeds, strict=True), "|", color=INK, markersize=7, alpha=0.6, markeredgewidth=0.7)
    axes.plot([dot.mean for dot in dots], range(len(dots)), "o", color=ACCENT, markersize=5.5, markeredgewidth=0)
    if printed:
        axes.plot(*zip(*printed, strict=True), "D", color=SECOND, markersize=4.5, markerfacecolor="none")


@contextmanager
def canvas(name: str, *, height: float) -> Iterator[Figure]:
    """An empty figure in the page's style, `height` in inches; to be drawn on and turned to text inside the block."""
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        yield Figure(figsize=(_WIDTH, height), layout="constrained")


def file_stem(name: str) -> str:
    """A name as part of a file name: letters, digits, `_` and `-`; a hash keeps apart what this makes equal."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name)
    if plain == name and name:
        return name
    return f"{plain[:60].strip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("-")


def one_line(text: str) -> str:
    """The text without line breaks and control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def wrapped(label: str) -> str:
    """A label in at most two lines."""
    return "\n".join(textwrap.wrap(one_line(label), width=24, max_lines=2, placeholder=" …"))


def standalone(svg: str) -> str:
    """The figure as a file of its own: it follows the reader's light or dark scheme where no page does that for it."""
    style = "<style>@media (prefers-color-scheme: dark) { svg { color: #e4e4e0 } }</style>"
    head, bracket, body = svg.partition(">")
    return head + bracket + style + body


def as_svg(figure: Figure, title: str) -> str:
    """A finished figure as a whole SVG document; `title` is its accessible name."""
    buffer = StringIO()
    with warnings.catch_warnings():
        # The text stays text: a letter that Matplotlib's own font lacks is drawn by the reader's.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _themed(buffer.getvalue(), title)


def _themed(document: str, title: str) -> str:
    """Matplotlib's SVG with the page's colours and font, no metadata, and only the ids that something points to."""
    root = ElementTree.fromstring(document)
    for parent in list(root.iter()):
        for child in [*parent.findall(f"{_SVG}metadata"), *parent.findall(f"{_SVG}style")]:
            parent.remove(child)  # the style would hold for every element of the page
    pointed_at = set()
    for element in root.iter():
        if _LINK in element.attrib:
            element.set("href", element.attrib.pop(_LINK))
        if "style" in element.attrib:
            element.set("style", _restyled(element.attrib["style"]))
        pointed_at.update(re.findall(r"#(\w+)", element.get("href", "") + element.get("clip-path", "")))
    for element in root.iter():
        if element.get("id") not in pointed_at:
            element.attrib.pop("id", None)
    root.attrib |= {"role": "img", "aria-label": one_line(title), "style": _ROOT_STYLE}
    ElementTree.register_namespace("", _SVG.strip("{}"))
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _restyled(style: str) -> str:
    for marker, colour in _COLOURS.items():
        style = style.replace(marker, colour)
    return re.sub(r" ?font-family: [^;]*;", "", style)
