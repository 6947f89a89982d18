"""Methods as points between accuracy and cost, and as lines from data set to data set."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.drawing.canvas import ACCENT, INK, MARKS, SERIES, Canvas, cut, extent
from pipeline.drawing.plot import WIDTH, Plot, Scale

_SIZE = 10.5
_FAR = 6.0  # from the least to the greatest cost: from here on the axis is logarithmic

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True, kw_only=True)
class Spot:
    """A method: its cost, and mean and standard deviation (None for one seed) of its accuracy."""

    label: str
    x: float
    y: float
    std: float | None


@dataclass(frozen=True, kw_only=True)
class Slope:
    """A method's accuracy on each data set, in their order; None where it has none."""

    label: str
    values: tuple[float | None, ...]


def scatter(spots: Sequence[Spot], *, x_title: str, y_title: str) -> str:
    """Accuracy upwards, cost to the right, each method by its name; SVG.

    Args:
        spots: at least one; costs are above 0.
        x_title: what the cost is.
        y_title: what the accuracy is.
    """
    costs = [spot.x for spot in spots]
    spread = [spot.y + side * (spot.std or 0) for spot in spots for side in (-1, 1)]
    plot = Plot(
        Scale.over(costs, log=max(costs) > _FAR * min(costs), margin=0.12),
        Scale.over(spread, margin=0.1),
        x_title=x_title,
        y_title=y_title,
        height=230.0,
    )
    places = [(plot.x(spot.x), plot.y(spot.y)) for spot in spots]
    for spot, (x, y) in zip(spots, places, strict=True):
        if spot.std is not None:
            plot.canvas.line(
                [(x, plot.y(spot.y - spot.std)), (x, plot.y(spot.y + spot.std))], ACCENT, width=2.0, alpha=0.45
            )
        plot.canvas.mark(x, y, ACCENT, size=4.0)
    _name(plot, [spot.label for spot in spots], places)
    return plot.canvas.svg(f"{y_title} against {x_title}")


def _name(plot: Plot, labels: Sequence[str], places: Sequence[tuple[float, float]]) -> None:
    """Names beside the points, each on the side where it covers the least of the others."""
    taken: list[Box] = [(x - 4, y - 4, x + 4, y + 4) for x, y in places]
    for label, (x, y) in zip(labels, places, strict=True):
        text = cut(label, 130, _SIZE)
        wide = extent(text, _SIZE)
        sides = [(x + 8, y + 4), (x - 8 - wide, y + 4), (x - wide / 2, y - 9), (x - wide / 2, y + 17)]
        sides += [(x + 6, y - 7), (x - 6 - wide, y - 7), (x + 6, y + 15), (x - 6 - wide, y + 15)]
        boxes = [(left, base - 9, left + wide, base + 3) for left, base in sides]
        inside = (plot.left, plot.top - 4, WIDTH, plot.bottom)
        best = min(
            range(len(boxes)), key=lambda side: (_covered(boxes[side], taken) + _outside(boxes[side], inside), side)
        )
        taken.append(boxes[best])
        plot.canvas.text(*sides[best], text, size=_SIZE)


def _covered(box: Box, others: Sequence[Box]) -> float:
    """The area that a box shares with others."""
    return sum(
        max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
        * max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
        for other in others
    )


def _outside(box: Box, frame: Box) -> float:
    """A penalty that outweighs any cover."""
    return 1e4 * sum(
        max(0.0, over) for over in (frame[0] - box[0], frame[1] - box[1], box[2] - frame[2], box[3] - frame[3])
    )


def slopes(found: Sequence[Slope], datasets: Sequence[str], *, y_title: str) -> str:
    """A line for each method from data set to data set, named at its end; SVG.

    Args:
        found: at least one; each has a value somewhere.
        datasets: their names, two or more.
        y_title: what is drawn.
    """
    room = 12 + max(min(extent(slope.label, _SIZE), 150.0) for slope in found)
    whole = (WIDTH - 60) / (WIDTH - 60 - room)  # so much wider is the axis than its data sets, for the names
    last = len(datasets) - 1
    scale = Scale(-0.15, -0.15 + (last + 0.3) * whole, names=tuple(datasets))
    values = [value for slope in found for value in slope.values if value is not None]
    plot = Plot(scale, Scale.over(values), x_title="", y_title=y_title, height=max(200.0, 17.0 * len(found)))
    for number, slope in enumerate(found):
        colour, dash = SERIES[number % len(SERIES)], "4 3" if number >= len(SERIES) else ""
        points = [(float(place), value) for place, value in enumerate(slope.values) if value is not None]
        spots = plot.places(points)
        plot.canvas.line(spots, colour, width=1.6, dash=dash)
        for x, y in spots:
            plot.canvas.mark(x, y, colour, shape=MARKS[number % len(MARKS)], size=3.2)
    _name_ends(plot, found, plot.x(last) + 10)
    return plot.canvas.svg(f"{y_title}, by data set")


def _name_ends(plot: Plot, found: Sequence[Slope], x: float) -> None:
    """Names to the right of the last points, moved apart where they would cover each other."""
    ends = [
        (next(value for value in reversed(slope.values) if value is not None), slope.label, n)
        for n, slope in enumerate(found)
    ]
    bases: list[float] = []
    for value, _, _ in sorted(ends, reverse=True):
        bases.append(max(plot.y(value), bases[-1] + 13 if bases else plot.top))
    over = max(0.0, bases[-1] - plot.bottom)
    for place in reversed(range(len(bases))):
        bases[place] = min(bases[place], plot.bottom - 13 * (len(bases) - 1 - place)) if over else bases[place]
    for (value, label, number), base in zip(sorted(ends, reverse=True), bases, strict=True):
        last = plot.x(max(place for place, one in enumerate(found[number].values) if one is not None))
        _lead(plot.canvas, (last, plot.y(value)), (x - 1, base))
        plot.canvas.text(x + 2, base + 4, cut(label, 150, _SIZE), size=_SIZE)


def _lead(canvas: Canvas, start: tuple[float, float], end: tuple[float, float]) -> None:
    canvas.line([(start[0] + 5, start[1]), end], INK, width=0.6, alpha=0.3)
