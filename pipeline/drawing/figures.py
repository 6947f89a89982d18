"""Figures of a table: every column's rows as dots, and what all figures share."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.drawing.canvas import ACCENT, INK, SECOND
from pipeline.drawing.plot import Entry, Plot, Scale, dot, stroke

_ROW = 24.0


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure as SVG, and what stands under it."""

    name: str
    svg: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One row of a dot plot, in percent: mean, standard deviation, every seed, and the comparable printed number."""

    label: str
    mean: float
    std: float | None
    seeds: tuple[float, ...]
    published: float | None


def dot_plot(dots: Sequence[Dot], *, title: str) -> str:
    """Rows from top to bottom: mean and standard deviation, the seeds as ticks, the paper's number as a diamond.

    Args:
        dots: at least one.
        title: what the axis measures; also the figure's accessible name.

    Returns:
        A whole SVG document.
    """
    spread = [end for one in dots for end in (one.mean - (one.std or 0), one.mean + (one.std or 0), *one.seeds)]
    printed = [one.published for one in dots if one.published is not None]
    rows = Scale(len(dots) - 0.5, -0.5, names=tuple(one.label for one in dots))
    plot = Plot(
        Scale.over([*spread, *printed]),
        rows,
        x_title=title,
        height=_ROW * len(dots),
        grid="x",
        legend=_legend(several=any(one.std is not None for one in dots), printed=bool(printed)),
    )
    for place, one in enumerate(dots):
        _draw(plot, place, one)
    return plot.canvas.svg(title)


def _draw(plot: Plot, place: int, one: Dot) -> None:
    canvas, y = plot.canvas, plot.y(place)
    if one.std is not None:
        ends = [(plot.x(one.mean + side * one.std), y) for side in (-1, 1)]
        canvas.line(ends, ACCENT, width=2.2, alpha=0.5)
        for seed in one.seeds:
            canvas.line([(plot.x(seed), y - 5), (plot.x(seed), y + 5)], width=0.9, alpha=0.6)
    canvas.mark(plot.x(one.mean), y, ACCENT, size=3.8)
    if one.published is not None:
        canvas.mark(plot.x(one.published), y, SECOND, shape="d", size=3.6, hollow=True)


def _legend(*, several: bool, printed: bool) -> list[Entry]:
    found = [Entry("mean", dot(ACCENT))]
    if several:
        found += [
            Entry("± standard deviation", stroke(ACCENT, alpha=0.5)),
            Entry("a seed", lambda canvas, x, y: canvas.line([(x, y - 5), (x, y + 5)], INK, width=0.9, alpha=0.6)),
        ]
    return found + [Entry("published", dot(SECOND, "d", hollow=True))] * printed


def file_stem(name: str) -> str:
    """A name as part of a file name: letters, digits, `_` and `-`; a hash keeps apart what this makes equal."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name)
    if plain == name and name:
        return name
    return f"{plain[:60].strip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("-")
