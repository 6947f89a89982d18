"""The figures of a search: the objective by trial and by setting, settings together, trade-offs, what mattered."""

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.drawing.canvas import ACCENT, INK, SECOND, Canvas, Points, extent, one_line
from pipeline.drawing.plot import WIDTH, Plot, Scale
from pipeline.planning.searches import Space, Value

_NARROW = 13  # letters that stand under an axis of the parallel coordinates


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One trial of a search that has a number, with its objectives in the units that are drawn.

    `place`: 1 for the winner, 2 for the next of those that were tested, 0 for the others. `on_front`: nothing beats it.
    """

    number: int
    params: Mapping[str, Value]
    values: tuple[float, ...]
    pruned: bool
    place: int
    on_front: bool = False


def history(tried: Sequence[Tried], *, objective: str) -> str:
    """The objective by trial, and the best so far of those that ran to their end, as SVG.

    Args:
        tried: at least one, in the order of their numbers.
        objective: what the axis measures.
    """
    numbers = [float(one.number) for one in tried]
    trials = Scale(-0.5, max(numbers) + 0.5, whole=True)
    plot = Plot(trials, _over(tried, 0), x_title="trial", y_title=objective)
    finished = [one for one in tried if not one.pruned]
    best = [max(one.values[0] for one in finished[: place + 1]) for place in range(len(finished))]
    if finished:
        corners = [(float(one.number), value) for one, value in zip(finished, best, strict=True)]
        _steps(plot, [*corners, (max(numbers), best[-1])])
    _dots(plot, [(one, one.number, one.values[0]) for one in tried])
    return plot.canvas.svg(f"{objective} by trial, and the best so far")


def learning(courses: Sequence[tuple[Tried, Points]], *, objective: str) -> str:
    """The objective by epoch, a line for each trial with a mark where it ended, the winner thick; as SVG.

    Args:
        courses: at least one trial, each with at least one epoch and the objective after it.
        objective: what the axis measures.
    """
    seen = [point for _, points in courses for point in points]
    epochs, values = zip(*seen, strict=True)
    plot = Plot(Scale(0.0, 1.04 * max(epochs), whole=True), Scale.over(values), x_title="epoch", y_title=objective)
    found = {one.number: points for one, points in courses}
    for one, share in _worst_first([one for one, _ in courses]):
        colour, width, alpha = _stroke(one, share)
        plot.canvas.line(plot.places(found[one.number]), colour, width=width, alpha=alpha)
    _dots(plot, [(one, *points[-1]) for one, points in courses])
    return plot.canvas.svg(f"{objective} by epoch")


def scatter(tried: Sequence[Tried], *, parameter: str, space: Space, objective: str) -> str:
    """The objective against one setting: finished trials filled, stopped ones hollow, the winner ringed; as SVG.

    Args:
        tried: at least one; all have the setting.
        parameter: the setting's dotted path, under the axis.
        space: the values it may take.
        objective: what the other axis measures.
    """
    values: list[Any] = [one.params[parameter] for one in tried]
    if space.choices is not None and not _numeric(space.choices):
        names = list(dict.fromkeys(_word(value) for value in space.choices))
        scale, values = Scale.of_names(names), [names.index(_word(value)) for value in values]
    else:
        scale = Scale.over(values, log=space.log)
    plot = Plot(scale, _over(tried, 0), x_title=parameter, y_title=objective)
    _dots(plot, [(one, place, one.values[0]) for one, place in zip(tried, values, strict=True)])
    return plot.canvas.svg(f"{objective} by {parameter}")


def front(tried: Sequence[Tried], *, objectives: Sequence[str]) -> str:
    """Two objectives against each other, what nothing beats joined to a line; as SVG.

    Args:
        tried: at least one, all with two values.
        objectives: what the two are, the one that decides first; it is drawn upwards.
    """
    plot = Plot(_over(tried, 1), _over(tried, 0), x_title=objectives[1], y_title=objectives[0])
    _steps(plot, sorted((one.values[1], one.values[0]) for one in tried if one.on_front))
    _dots(plot, [(one, one.values[1], one.values[0]) for one in tried])
    return plot.canvas.svg(f"{objectives[0]} against {objectives[1]}, and what nothing beats")


def importance(shares: Mapping[str, float], *, title: str) -> str:
    """The importance of every setting as a bar, the greatest on top; as SVG.

    Args:
        shares: at least one, of 1 in all.
        title: what the axis measures.
    """
    order = sorted(shares, key=lambda path: -shares[path])
    rows = Scale(len(order) - 0.5, -0.5, names=tuple(order))
    plot = Plot(Scale(0, 1), rows, x_title=title, height=26.0 * len(order), grid="x")
    for place, path in enumerate(order):
        plot.canvas.box(plot.left, plot.y(place) - 6, plot.x(shares[path]) - plot.left, 12, ACCENT)
    return plot.canvas.svg(title)


def parallel(tried: Sequence[Tried], *, space: Mapping[str, Space], objectives: Sequence[str]) -> str:
    """A line for each trial through its settings to its objectives: stopped ones dim, the winner thick; as SVG.

    A line has a gap where a setting was not asked for.

    Args:
        tried: at least one.
        space: the settings and the values they may take.
        objectives: what the last axes measure.
    """
    scales = [_Scale.of_space(path, own) for path, own in space.items()]
    scales += [_Scale.of_values(label, [one.values[place] for one in tried]) for place, label in enumerate(objectives)]
    titles = [_stacked(scale.title) for scale in scales]
    canvas = Canvas(WIDTH, _FOOT + 24 + 12 * max(map(len, titles)))
    step = WIDTH / len(scales)
    for one, share in _worst_first(tried):
        values = [*(one.params.get(path, _ABSENT) for path in space), *one.values]
        heights = [scale.height(value) for scale, value in zip(scales, values, strict=True)]
        points = [(step * (place + 0.5), _FOOT - height * (_FOOT - _HEAD)) for place, height in enumerate(heights)]
        _draw_line(canvas, points, one, share)
    for place, (scale, title) in enumerate(zip(scales, titles, strict=True)):
        _draw_scale(canvas, step * (place + 0.5), scale, title, room=step - 4)
    return canvas.svg(f"{objectives[0]} by all settings")


_ABSENT = object()
_HEAD, _FOOT = 22.0, 190.0  # of the axes of the parallel coordinates


@dataclass(frozen=True)
class _Scale:
    """An axis of the parallel coordinates: `ends` are written at its foot and head; or `names`, at even heights."""

    title: str
    ends: tuple[float, float] = (0.0, 1.0)
    log: bool = False
    names: tuple[Value, ...] = ()

    @staticmethod
    def of_space(path: str, space: Space) -> "_Scale":
        if space.choices is not None:
            return _Scale(path, names=space.choices)
        assert space.low is not None
        assert space.high is not None
        return _Scale(path, (float(space.low), float(space.high)), space.log)

    @staticmethod
    def of_values(label: str, values: Sequence[float]) -> "_Scale":
        return _Scale(label, (min(values), max(values)))

    def height(self, value: Any) -> float:
        """Where a value lies, 0 to 1; nowhere where the setting was not asked for."""
        if value is _ABSENT:
            return math.nan
        if self.names:
            return self.names.index(value) / max(1, len(self.names) - 1)
        low, high, own = (math.log(end) if self.log else end for end in (*self.ends, float(value)))
        return (own - low) / (high - low) if high > low else 0.5

    def labels(self) -> list[tuple[float, str]]:
        """What is written at which height."""
        if self.names:
            return [(self.height(name), _word(name)) for name in self.names]
        return [(height, f"{end:.3g}") for height, end in zip((0.0, 1.0), self.ends, strict=True)]


def _draw_scale(canvas: Canvas, x: float, scale: _Scale, title: Sequence[str], *, room: float) -> None:
    canvas.line([(x, _FOOT), (x, _HEAD)], width=0.9, alpha=0.6)
    for height, text in scale.labels():
        base = _FOOT - height * (_FOOT - _HEAD) + {0.0: 14.0, 1.0: -6.0}.get(height, 4.0)
        canvas.text(x, base, text, align="middle")
    for number, line in enumerate(title):
        size = min(9.5, 9.5 * room / max(1.0, extent(line, 9.5)))
        canvas.text(x, _FOOT + 32 + 12 * number, line, align="middle", size=size, alpha=0.8)


def _draw_line(canvas: Canvas, points: Points, one: Tried, share: float) -> None:
    """A trial's line, with a mark on each axis unless it was stopped."""
    colour, width, alpha = _stroke(one, share)
    canvas.line(points, colour, width=width, alpha=alpha)
    for x, y in points:
        if math.isfinite(y) and not one.pruned:
            canvas.mark(x, y, colour, size=2.6 if one.place == 1 else 1.4)


def _worst_first(tried: Sequence[Tried]) -> list[tuple[Tried, float]]:
    """The trials from the one that lies below all others, the winner last; each with the share that lies below it."""
    ranked = sorted(tried, key=lambda one: (one.place == 1, not one.pruned, one.values[0]))
    return [(one, order / len(ranked)) for order, one in enumerate(ranked)]


def _stroke(one: Tried, share: float) -> tuple[str, float, float]:
    """Colour, width and opacity of a trial's line; `share`: of the trials that it beats."""
    if one.place == 1:
        return SECOND, 2.0, 1.0
    return (INK, 0.8, 0.16) if one.pruned else (ACCENT, 1.0, 0.25 + 0.6 * share)


def _over(tried: Sequence[Tried], objective: int) -> Scale:
    return Scale.over([one.values[objective] for one in tried])


def _steps(plot: Plot, corners: Sequence[tuple[float, float]]) -> None:
    """A line that keeps its height up to the next corner."""
    points = corners[:1]
    for before, after in itertools.pairwise(corners):
        points = [*points, (after[0], before[1]), after]
    plot.canvas.line(plot.places(points), width=1.2, alpha=0.55)


def _dots(plot: Plot, places: Sequence[tuple[Tried, float, float]]) -> None:
    for one, x, y in places:
        plot.canvas.mark(plot.x(x), plot.y(y), ACCENT, size=3.2, hollow=one.pruned)
        if one.place == 1:
            plot.canvas.mark(plot.x(x), plot.y(y), SECOND, size=6.5, hollow=True)


def _stacked(path: str) -> list[str]:
    """A dotted path, or words, in lines: as a whole they are too long to stand side by side."""
    parts = re.findall(r"[^._ ]+[._ ]*", one_line(path))
    lines = [""]
    for part in parts:
        full = lines[-1].endswith(".") or len(lines[-1] + part.rstrip()) > _NARROW
        lines = [*lines, part] if full else [*lines[:-1], lines[-1] + part]
    return [line.strip() for line in lines if line.strip()]


def _word(value: Value) -> str:
    """A choice as the settings are written: true, null, max_frac."""
    return one_line(value if isinstance(value, str) else json.dumps(value))


def _numeric(values: Sequence[Value]) -> bool:
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
