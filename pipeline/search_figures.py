"""The figures of a search: the objective by trial and by setting, settings together, trade-offs, what mattered."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from pipeline.experiments import Space, Value
from pipeline.figures import ACCENT, INK, SECOND, as_svg, canvas, one_line, wrapped

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


def history(tried: Sequence[Tried], *, name: str, objective: str) -> str:
    """The objective by trial, and the best so far of those that ran to their end, as SVG.

    Args:
        tried: at least one, in the order of their numbers.
        name: of the figure; one page holds no two of a name.
        objective: what the axis measures.
    """
    with canvas(name, height=2.7) as figure:
        axes = figure.add_subplot()
        finished = [one for one in tried if not one.pruned]
        best = [max(one.values[0] for one in finished[: place + 1]) for place in range(len(finished))]
        if finished:
            last = max(one.number for one in tried)
            numbers = [one.number for one in finished]
            axes.step([*numbers, last], [*best, best[-1]], where="post", color=INK, linewidth=1, alpha=0.55)
        _dots(axes, [(one, one.number, one.values[0]) for one in tried])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _labelled(axes, "trial", objective)
        return as_svg(figure, f"{objective} by trial, and the best so far")


def scatter(tried: Sequence[Tried], *, name: str, parameter: str, space: Space, objective: str) -> str:
    """The objective against one setting: finished trials filled, stopped ones hollow, the winner ringed; as SVG.

    Args:
        tried: at least one; all have the setting.
        name: of the figure; one page holds no two of a name.
        parameter: the setting's dotted path, under the axis.
        space: the values it may take.
        objective: what the other axis measures.
    """
    with canvas(name, height=2.7) as figure:
        axes = figure.add_subplot()
        named = space.choices is not None and not _numeric(space.choices)
        places = [_word(one.params[parameter]) if named else one.params[parameter] for one in tried]
        if space.log:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        _dots(axes, [(one, place, one.values[0]) for one, place in zip(tried, places, strict=True)])
        _labelled(axes, parameter, objective)
        return as_svg(figure, f"{objective} by {parameter}")


def front(tried: Sequence[Tried], *, name: str, objectives: Sequence[str]) -> str:
    """Two objectives against each other, what nothing beats joined to a line; as SVG.

    Args:
        tried: at least one, all with two values.
        name: of the figure; one page holds no two of a name.
        objectives: what the two are, the one that decides first; it is drawn upwards.
    """
    with canvas(name, height=2.9) as figure:
        axes = figure.add_subplot()
        corners = sorted((one.values[1], one.values[0]) for one in tried if one.on_front)
        axes.step(*zip(*corners, strict=True), where="post", color=INK, linewidth=1, alpha=0.55)
        _dots(axes, [(one, one.values[1], one.values[0]) for one in tried])
        _labelled(axes, objectives[1], objectives[0])
        return as_svg(figure, f"{objectives[0]} against {objectives[1]}, and what nothing beats")


def importance(shares: Mapping[str, float], *, name: str, title: str) -> str:
    """The importance of every setting as a bar, the greatest on top; as SVG.

    Args:
        shares: at least one, of 1 in all.
        name: of the figure; one page holds no two of a name.
        title: what the axis measures.
    """
    order = sorted(shares, key=lambda path: -shares[path])
    with canvas(name, height=0.7 + 0.3 * len(order)) as figure:
        axes = figure.add_subplot()
        axes.barh(range(len(order)), [shares[path] for path in order], height=0.5, color=ACCENT)
        axes.set_yticks(range(len(order)), [wrapped(path) for path in order])
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.set_xlim(0, 1)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(one_line(title))
        return as_svg(figure, title)


def parallel(tried: Sequence[Tried], *, name: str, space: Mapping[str, Space], objectives: Sequence[str]) -> str:
    """A line for each trial through its settings to its objectives: stopped ones dim, the winner thick; as SVG.

    A line has a gap where a setting was not asked for.

    Args:
        tried: at least one.
        name: of the figure; one page holds no two of a name.
        space: the settings and the values they may take.
        objectives: what the last axes measure.
    """
    scales = [_Scale.of_space(path, own) for path, own in space.items()]
    scales += [_Scale.of_values(label, [one.values[place] for one in tried]) for place, label in enumerate(objectives)]
    with canvas(name, height=3.2) as figure:
        axes = figure.add_subplot()
        ranked = sorted(tried, key=lambda one: (one.place == 1, not one.pruned, one.values[0]))
        for order, one in enumerate(ranked):
            values = [*(one.params.get(path, _ABSENT) for path in space), *one.values]
            heights = [scale.height(value) for scale, value in zip(scales, values, strict=True)]
            axes.plot(range(len(scales)), heights, **_line(one, order / len(ranked)))
        for place, scale in enumerate(scales):
            _draw_scale(axes, place, scale)
        axes.set_xticks(range(len(scales)), [_stacked(scale.title) for scale in scales], fontsize=7.5)
        axes.set_ylim(-0.09, 1.09)
        axes.set_xlim(-0.45, len(scales) - 0.55)
        axes.yaxis.set_visible(False)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.tick_params(axis="x", length=0, pad=6)
        return as_svg(figure, f"{objectives[0]} by all settings")


_ABSENT = object()


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


def _draw_scale(axes: Axes, place: int, scale: _Scale) -> None:
    axes.plot([place, place], [0, 1], color=INK, linewidth=0.8, alpha=0.6)
    for height, text in scale.labels():
        side = {0.0: ("top", -0.025), 1.0: ("bottom", 0.025)}.get(height, ("center", 0.0))
        axes.text(place, height + side[1], text, ha="center", va=side[0], fontsize=8)


def _line(one: Tried, share: float) -> dict[str, Any]:
    """How a trial's line looks; `share` is its place from the worst to the best."""
    if one.place == 1:
        return {"color": SECOND, "linewidth": 2.0, "marker": "o", "markersize": 4, "markeredgewidth": 0}
    if one.pruned:
        return {"color": INK, "linewidth": 0.8, "alpha": 0.16, "marker": ".", "markersize": 2}
    return {"color": ACCENT, "linewidth": 1.0, "alpha": 0.25 + 0.6 * share, "marker": ".", "markersize": 3}


def _dots(axes: Axes, places: Sequence[tuple[Tried, Any, float]]) -> None:
    for one, x, y in places:
        face = "none" if one.pruned else ACCENT
        axes.plot([x], [y], "o", color=ACCENT, markersize=5, markerfacecolor=face, markeredgewidth=1)
        if one.place == 1:
            axes.plot([x], [y], "o", color=SECOND, markersize=11, markerfacecolor="none")


def _labelled(axes: Axes, below: str, beside: str) -> None:
    axes.grid(color=INK, alpha=0.12, linewidth=0.6)
    axes.margins(0.06)
    axes.set_xlabel(one_line(below))
    axes.set_ylabel(one_line(beside))


def _stacked(path: str) -> str:
    """A dotted path, or words, in lines: as a whole they are too long to stand side by side."""
    parts = re.findall(r"[^._ ]+[._ ]*", one_line(path))
    lines = [""]
    for part in parts:
        full = lines[-1].endswith(".") or len(lines[-1] + part.rstrip()) > _NARROW
        lines = [*lines, part] if full else [*lines[:-1], lines[-1] + part]
    return "\n".join(lines).strip()


def _word(value: Value) -> str:
    """A choice as the settings are written: true, null, max_frac."""
    return one_line(value if isinstance(value, str) else json.dumps(value))


def _numeric(values: Sequence[Value]) -> bool:
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
