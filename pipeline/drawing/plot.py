"""Axes around a canvas: scales with round ticks, a grid, titles and a legend."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.drawing.canvas import FONT, INK, Canvas, Points, cut, extent, lines_of, one_line

WIDTH = 440.0
_GRID, _SMALL = 0.12, 10.0
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Scale:
    """An axis: values from `low` to `high`, on a logarithmic scale with `log`; of names, their places instead.

    `low` and `high` of `names` are half a step outside the first and the last. `whole`: only whole numbers are written.
    """

    low: float
    high: float
    log: bool = False
    names: tuple[str, ...] = ()
    whole: bool = False

    @staticmethod
    def over(values: Sequence[float], *, log: bool = False, margin: float = 0.06) -> "Scale":
        """The scale that shows all these values with some room around them; not finite ones do not count."""
        seen = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        low, high = min(seen), max(seen)
        if log:
            room = (high / low) ** margin if high > low else 1.3
            return Scale(low / room, high * room, log=True)
        room = margin * (high - low) if high > low else 0.5 * abs(high) or 0.5
        return Scale(low - room, high + room)

    @staticmethod
    def of_names(names: Sequence[str]) -> "Scale":
        """One place for each name, in their order."""
        return Scale(-0.5, len(names) - 0.5, names=tuple(names))

    def share(self, value: float) -> float:
        """Where a value lies, from 0 at `low` to 1 at `high`."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, most: int = 6) -> list[tuple[float, str]]:
        """Round values within the scale, and how they are written."""
        if self.names:
            return list(enumerate(self.names))
        return self._log_ticks(most) if self.log else self._even_ticks(most)

    def _even_ticks(self, most: int) -> list[tuple[float, str]]:
        rough = (self.high - self.low) / most
        rough = max(rough, 1.0) if self.whole else rough
        unit = 10.0 ** math.floor(math.log10(rough))
        steps = [unit * factor for factor in _STEPS if not self.whole or (unit * factor).is_integer()]
        step = next(step for step in steps if step >= rough * (1 - 1e-9))
        digits = max(0, -math.floor(math.log10(step) + 1e-9)) + (abs(step / unit - 2.5) < 1e-9 and step < 10)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(place * step, f"{place * step + 0.0:.{digits}f}") for place in range(first, last + 1)]

    def _log_ticks(self, most: int) -> list[tuple[float, str]]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for factors in ((1, 2, 5), (1, 3), (1,)):
            values = [factor * 10.0**power for power in powers for factor in factors]
            inside = [value for value in values if self.low <= value <= self.high]
            if len(inside) <= most:
                break
        else:
            inside = inside[:: math.ceil(len(inside) / most)]
        return [(value, f"{value:g}") for value in inside] or [(self.low, f"{self.low:.3g}")]


@dataclass(frozen=True)
class Entry:
    """A line of a legend: its words, and what draws a sample of what they mean around a point."""

    words: str
    draw: Callable[[Canvas, float, float], None]


class Plot:
    """A canvas with two axes; `x` and `y` say where values lie on it.

    Args:
        x: the scale of the axis below.
        y: the scale of the axis on the left.
        x_title: what is measured below.
        y_title: what is measured on the left; it stands above the axis, where it can be read.
        legend: entries under the plot.
        height: of the plot itself, without titles and legend.
        grid: which axes have lines through the plot.
    """

    def __init__(
        self,
        x: Scale,
        y: Scale,
        *,
        x_title: str,
        y_title: str = "",
        legend: Sequence[Entry] = (),
        height: float = 190.0,
        grid: str = "xy",
    ) -> None:
        self._x, self._y = x, y
        labels = [lines_of(text, 0.36 * WIDTH, most=2) for _, text in y.ticks()]
        self.left = 12 + max((extent(line) for lines in labels for line in lines), default=0.0)
        self.top = 24.0 if y_title else 8.0
        self.right, self.bottom = WIDTH - 10, self.top + height
        x_ticks = x.ticks(6 if self.right - self.left > 250 else 4)
        below = self._wrapped([text for _, text in x_ticks]) if x.names else [[text] for _, text in x_ticks]
        depth = 14.0 * max(map(len, below), default=1)
        self._entries = _placed(legend)
        rows = max((row for _, row, _ in self._entries), default=-1) + 1
        self.canvas = Canvas(WIDTH, self.bottom + depth + (20 if x_title else 6) + 17 * rows + (6 if rows else 0))
        self._draw_x(list(zip([value for value, _ in x_ticks], below, strict=True)), "x" in grid)
        self._draw_y(list(zip([value for value, _ in y.ticks()], labels, strict=True)), "y" in grid)
        self.canvas.text((self.left + self.right) / 2, self.bottom + depth + 15, x_title, align="middle")
        if y_title:
            self.canvas.text(4, 12, cut(y_title, WIDTH - 8))
        self._draw_legend(self.bottom + depth + 38 - (0 if x_title else 14))

    def x(self, value: float) -> float:
        """Where a value of the axis below lies."""
        return self.left + self._x.share(value) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Where a value of the axis on the left lies."""
        return self.bottom - self._y.share(value) * (self.bottom - self.top)

    def places(self, points: Points) -> list[tuple[float, float]]:
        """Values as places, kept within the frame upwards and downwards."""
        return [(self.x(x), min(max(self.y(y), self.top), self.bottom)) for x, y in points]

    def _wrapped(self, names: Sequence[str]) -> list[list[str]]:
        room = (self.right - self.left) / max(1, len(names)) - 6
        return [lines_of(name, room, most=3, size=_SMALL) for name in names]

    def _draw_x(self, ticks: Sequence[tuple[float, list[str]]], grid: bool) -> None:
        self.canvas.line([(self.left, self.bottom), (self.right, self.bottom)], width=0.8, alpha=0.7)
        for value, lines in ticks:
            place = self.x(value)
            if grid and not self._x.names:
                self.canvas.line([(place, self.top), (place, self.bottom)], width=0.7, alpha=_GRID)
            for number, line in enumerate(lines):
                size = _SMALL if self._x.names else FONT
                self.canvas.text(place, self.bottom + 15 + 13 * number, line, align="middle", size=size, alpha=0.8)

    def _draw_y(self, ticks: Sequence[tuple[float, list[str]]], grid: bool) -> None:
        for value, lines in ticks:
            place = self.y(value)
            if grid:
                self.canvas.line([(self.left, place), (self.right, place)], width=0.7, alpha=_GRID)
            for number, line in enumerate(lines):
                base = place + 4 + 12 * (number - (len(lines) - 1) / 2)
                self.canvas.text(self.left - 7, base, line, align="end", alpha=1.0 if self._y.names else 0.8)

    def _draw_legend(self, top: float) -> None:
        for x, row, entry in self._entries:
            entry.draw(self.canvas, x + 11, top + 17 * row - 4)
            self.canvas.text(x + 26, top + 17 * row, cut(entry.words, WIDTH - 40))


def _placed(legend: Sequence[Entry]) -> list[tuple[float, int, Entry]]:
    """Entries side by side as far as there is room: place from the left, row, entry."""
    found: list[tuple[float, int, Entry]] = []
    x, row = 0.0, 0
    for entry in legend:
        wide = 40 + min(extent(one_line(entry.words)), WIDTH - 40)
        if x and x + wide > WIDTH:
            x, row = 0.0, row + 1
        found.append((x, row, entry))
        x += wide
    return found


def stroke(
    colour: str, shape: str = "", *, dash: str = "", alpha: float = 1.0
) -> Callable[[Canvas, float, float], None]:
    """A sample of a line for a legend, with a mark in its middle where `shape` names one."""

    def draw(canvas: Canvas, x: float, y: float) -> None:
        canvas.line([(x - 9, y), (x + 9, y)], colour, width=1.6, dash=dash, alpha=alpha)
        if shape:
            canvas.mark(x, y, colour, shape=shape)

    return draw


def dot(colour: str = INK, shape: str = "o", *, hollow: bool = False) -> Callable[[Canvas, float, float], None]:
    """A sample of a mark for a legend."""
    return lambda canvas, x, y: canvas.mark(x, y, colour, shape=shape, hollow=hollow, size=4.0 if hollow else 3.0)
