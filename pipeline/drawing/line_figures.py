"""Figures of lines with bands: metrics over a swept setting, what was recorded by epoch; and of cells."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.drawing.canvas import ACCENT, INK, MARKS, SECOND, SERIES, extent
from pipeline.drawing.plot import Entry, Plot, Scale, dot, stroke

MOST_LINES = len(SERIES)
_BAND = 0.16


@dataclass(frozen=True, kw_only=True)
class Line:
    """A series: places from left to right, the means there, and how far the band goes below and above (NaN: no band).

    `seeds`: the values behind each mean; `best`: a place that the paper names.
    """

    label: str
    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    seeds: tuple[tuple[float, ...], ...] = ()
    best: float | None = None


@dataclass(frozen=True, kw_only=True)
class Level:
    """A printed number that does not depend on what is swept."""

    label: str
    value: float


@dataclass(frozen=True, kw_only=True)
class CellOf:
    """One pair of settings: mean and standard deviation (None for one seed)."""

    x: float
    y: float
    mean: float
    std: float | None


def sweep(lines: Sequence[Line], levels: Sequence[Level], *, x_title: str, y_title: str) -> str:
    """A metric over a setting: means joined, their bands, every seed faint, the paper's best and printed levels; SVG.

    The frame is made for the means and the seeds: a band of few seeds may reach beyond it and is cut there.

    Args:
        lines: 1 to `MOST_LINES`.
        levels: drawn from side to side.
        x_title: the setting.
        y_title: the metric.
    """
    named = [line.best for line in lines if line.best is not None]
    scale = _framed(lines, levels)
    several = any(len(seeds) > 1 for line in lines for seeds in line.seeds)
    plot = Plot(
        Scale.over([value for line in lines for value in line.x] + named),
        scale,
        x_title=x_title,
        y_title=y_title,
        legend=[
            *_named(lines, marks=True),
            *([Entry("a seed", lambda canvas, x, y: canvas.mark(x, y, INK, size=1.4))] if several else []),
            *([Entry("best, as the paper names it", dot(INK, "o", hollow=True))] if named else []),
            *(_level(level, inside=scale.low < level.value < scale.high) for level in levels),
        ],
    )
    for level in levels:
        if scale.low < level.value < scale.high:
            plot.canvas.line([(plot.left, plot.y(level.value)), (plot.right, plot.y(level.value))], SECOND, dash="5 3")
    _draw_bands(plot, lines)
    for number, line in enumerate(lines):
        _draw_sweep(plot, line, number)
    return plot.canvas.svg(f"{y_title} by {x_title}")


def _framed(lines: Sequence[Line], levels: Sequence[Level]) -> Scale:
    """What is measured, and of bands and levels as much as does not squeeze it."""
    seeds = [value for line in lines for values in line.seeds for value in values]
    low, high = min(seeds), max(seeds)
    room = 0.6 * (high - low) or 1.0
    ends = [end for line in lines for end in (*line.low, *line.high) if math.isfinite(end)]
    near = [level.value for level in levels if low - room <= level.value <= high + room]
    return Scale.over([low, high, *near, *(min(max(end, low - room), high + room) for end in ends)])


def _level(level: Level, *, inside: bool) -> Entry:
    return Entry(level.label + ", outside the frame" * (not inside), stroke(SECOND, dash="5 3"))


def _draw_sweep(plot: Plot, line: Line, number: int) -> None:
    colour, shape = SERIES[number], MARKS[number]
    points = plot.places(list(zip(line.x, line.mean, strict=True)))
    plot.canvas.line(points, colour, width=1.6)
    for value, seeds in zip(line.x, line.seeds, strict=True):
        for seed in seeds if len(seeds) > 1 else ():
            plot.canvas.mark(plot.x(value), plot.y(seed), INK, size=1.4)
    for x, y in points:
        plot.canvas.mark(x, y, colour, shape=shape, size=3.6)
    if line.best is not None:
        near = min(range(len(points)), key=lambda place: abs(line.x[place] - float(line.best or 0)))
        plot.canvas.mark(plot.x(line.best), points[near][1], INK, size=8.0, hollow=True)


def by_epoch(lines: Sequence[Line], *, y_title: str, mark: tuple[float, str] | None = None, log: bool = False) -> str:
    """What was recorded in training, by epoch, with bands; SVG.

    Args:
        lines: 1 to `MOST_LINES`.
        y_title: what was recorded.
        mark: an epoch, and what is said of it; drawn where the axis reaches it.
        log: whether heights are logarithmic; all values are above 0 then.
    """
    last = max(value for line in lines for value in line.x)
    values = [value for line in lines for value in (*line.mean, *line.low, *line.high)]
    marked = mark is not None and mark[0] <= last
    plot = Plot(
        Scale(0.0, last, whole=True),
        Scale.over(values, log=log, margin=0.04),
        x_title="epoch",
        y_title=y_title,
        legend=[*_named(lines, marks=False), *([Entry(mark[1], stroke(INK, dash="2 3"))] if mark and marked else [])],
    )
    if mark and marked:
        plot.canvas.line([(plot.x(mark[0]), plot.top), (plot.x(mark[0]), plot.bottom)], dash="2 3")
    _draw_bands(plot, lines)
    for number, line in enumerate(lines):
        plot.canvas.line(plot.places(list(zip(line.x, line.mean, strict=True))), SERIES[number], width=1.5)
    return plot.canvas.svg(f"{y_title} by epoch")


def _draw_bands(plot: Plot, lines: Sequence[Line]) -> None:
    for number, line in enumerate(lines):
        known = [
            (x, low, high)
            for x, low, high in zip(line.x, line.low, line.high, strict=True)
            if math.isfinite(low) and math.isfinite(high)
        ]
        if len(known) > 1:
            above = [(x, high) for x, _, high in known]
            below = [(x, low) for x, low, _ in reversed(known)]
            plot.canvas.area(plot.places([*above, *below]), SERIES[number], alpha=_BAND)


def _named(lines: Sequence[Line], *, marks: bool) -> list[Entry]:
    return [
        Entry(line.label, stroke(SERIES[number], MARKS[number] if marks else "")) for number, line in enumerate(lines)
    ]


def cells(found: Sequence[CellOf], *, best: tuple[float, float] | None, titles: tuple[str, str], metric: str) -> str:
    """A metric over two settings: a cell for each pair that was measured, stronger for better; the others empty; SVG.

    Args:
        found: at least one; no two of one pair.
        best: the pair that the paper names.
        titles: of the setting below and of the one on the left.
        metric: what the cells hold.
    """
    columns, rows = (sorted({pair[side] for one in found for pair in [(one.x, one.y)]}) for side in (0, 1))
    plot = Plot(
        Scale.of_names([f"{value:g}" for value in columns]),
        Scale.of_names([f"{value:g}" for value in rows]),
        x_title=titles[0],
        y_title=f"{metric}, by {titles[1]} (left)",
        height=max(46.0 * len(rows), 92.0),
        grid="",
        legend=[
            Entry(
                "setting that the paper names", lambda canvas, x, y: canvas.mark(x, y, SECOND, shape="s", hollow=True)
            )
        ]
        if best
        else [],
    )
    width = (plot.right - plot.left) / len(columns) - 3
    height = (plot.bottom - plot.top) / len(rows) - 3
    low, high = min(one.mean for one in found), max(one.mean for one in found)
    for column in range(len(columns)):
        for row in range(len(rows)):
            plot.canvas.box(plot.x(column) - width / 2, plot.y(row) - height / 2, width, height, INK, alpha=0.04)
    for one in found:
        x, y = plot.x(columns.index(one.x)), plot.y(rows.index(one.y))
        share = (one.mean - low) / (high - low) if high > low else 0.5
        plot.canvas.box(x - width / 2, y - height / 2, width, height, ACCENT, alpha=0.1 + 0.4 * share)
        _label(plot, one, x, y, room=width)
    if best and best[0] in columns and best[1] in rows:
        _frame(plot, plot.x(columns.index(best[0])), plot.y(rows.index(best[1])), width, height)
    return plot.canvas.svg(f"{metric} by {titles[0]} and {titles[1]}")


def _label(plot: Plot, one: CellOf, x: float, y: float, *, room: float) -> None:
    mean, std = f"{one.mean:.1f}", f" ± {one.std:.1f}" if one.std is not None else ""
    if extent(mean + std) < room:
        plot.canvas.text(x, y + 4, mean + std, align="middle")
    else:
        plot.canvas.text(x, y + 4 - 7 * bool(std), mean, align="middle")
        plot.canvas.text(x, y + 11, std.strip(), align="middle", size=9.5, alpha=0.8)


def _frame(plot: Plot, x: float, y: float, width: float, height: float) -> None:
    left, right, top, bottom = x - width / 2, x + width / 2, y - height / 2, y + height / 2
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top - 0.8)]
    plot.canvas.line(corners, SECOND, width=1.8)
