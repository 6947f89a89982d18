"""The figures that an experiment asks for, made of its table, of what was recorded by epoch and of printed numbers."""

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipeline.drawing import line_figures
from pipeline.drawing.figures import Drawing, file_stem
from pipeline.drawing.line_figures import MOST_LINES, CellOf, Level, Line
from pipeline.exports import curves
from pipeline.exports.curves import Curves
from pipeline.planning import figure_kinds
from pipeline.planning.figure_kinds import Heat, Stated
from pipeline.planning.published import PublishedTable
from pipeline.reporting import comparison
from pipeline.reporting.tables import Group, Panel, Table
from reid.config import flatten

_LEVEL = 0.95
_NO_BAND = "One seed has no interval."


def half_width(values: Sequence[float]) -> float:
    """Half the 95 % interval of the mean of some seeds, by Student's t; NaN of fewer than two."""
    if len(values) < 2:
        return math.nan
    quantile = float(stats.t.ppf((1 + _LEVEL) / 2, len(values) - 1))
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


def build(table: Table, recorded: Curves, stated: Mapping[str, PublishedTable]) -> tuple[Drawing, ...]:
    """The figures of an experiment; none where it asks for none, or nothing is measured yet.

    Args:
        table: of the experiment.
        recorded: what was recorded by epoch.
        stated: the published files that the figure takes numbers from, by their stems.
    """
    match table.experiment.figure:
        case figure_kinds.Curve() as figure:
            return tuple(_sweeps(table, figure, stated))
        case figure_kinds.Heat() as figure:
            return tuple(_heats(table, figure, stated))
        case figure_kinds.Epochs() as figure:
            return tuple(_epochs(table, figure, recorded, stated))
        case figure_kinds.Comparison():
            return tuple(comparison.drawings(table))
    return ()


def words(table: Table) -> tuple[str, ...]:
    """What is said above the figures: paragraphs, of a comparison alone."""
    return comparison.words(table) if isinstance(table.experiment.figure, figure_kinds.Comparison) else ()


def learning(table: Table, recorded: Curves) -> tuple[Drawing, ...]:
    """The loss by epoch of every row, so many rows in a figure as a reader can tell apart."""
    found = []
    for dataset, panels in _by_dataset(table).items():
        lines = [line for panel in _networks(panels) if (line := _line(panel, recorded, "loss", interval=False))]
        for start in range(0, len(lines), MOST_LINES):
            chunk = lines[start : start + MOST_LINES]
            name = file_stem(f"{table.experiment.name}-{dataset}-loss-{start // MOST_LINES + 1}")
            title = f"training loss on {panels[0].title}"
            svg = line_figures.by_epoch(chunk, y_title=title, log=_wide(chunk))
            found.append(Drawing(name=name, svg=svg, caption=_learning_caption(panels, chunk)))
    return tuple(found)


def _sweeps(table: Table, figure: figure_kinds.Curve, stated: Mapping[str, PublishedTable]) -> Iterator[Drawing]:
    scale = 100 if figure.percent else 1
    for dataset, panels in _by_dataset(table).items():
        for metric in table.experiment.metrics:
            lines = [
                _swept(series, own, metric, figure, scale, stated) for series, own in _by_series(table, panels).items()
            ]
            lines = [line for line in lines if line.x][:MOST_LINES]
            if lines:
                levels = list(_levels(table, panels[0].title, metric, figure.lines, stated))
                name = file_stem(f"{table.experiment.name}-{dataset}-{metric}")
                y_title = f"{metric} on {panels[0].title}, percent"
                svg = line_figures.sweep(lines, levels, x_title=figure.title, y_title=y_title)
                yield Drawing(name=name, svg=svg, caption=_interval_words(lines))


def _swept(
    series: str,
    panels: Sequence[Panel],
    metric: str,
    figure: figure_kinds.Curve,
    scale: int,
    stated: Mapping[str, PublishedTable],
) -> Line:
    """One line: its rows that have a number, by the value that they were trained with."""
    seeds = {}
    for panel in panels:
        if values := [100 * value for value in panel.values(metric)]:
            seeds[round(scale * _setting(panel, figure.x), 9)] = values
    order = sorted(seeds)
    best = figure.best.point(stated[figure.best.published], series) if figure.best else ()
    return _with_interval(
        series or _alone(panels),
        order,
        [seeds[value] for value in order],
        best=best[0] if best else None,
    )


def _alone(panels: Sequence[Panel]) -> str:
    """What the line of an experiment with a single series is called."""
    return f"mean of {max(len(panel.runs) for panel in panels)} seeds" if len(panels[0].runs) > 1 else "one seed"


def _with_interval(label: str, x: Sequence[float], seeds: Sequence[Sequence[float]], *, best: float | None) -> Line:
    means = [statistics.fmean(values) for values in seeds]
    halves = [half_width(values) for values in seeds]
    return Line(
        label=label,
        x=tuple(x),
        mean=tuple(means),
        low=tuple(mean - half for mean, half in zip(means, halves, strict=True)),
        high=tuple(mean + half for mean, half in zip(means, halves, strict=True)),
        seeds=tuple(tuple(values) for values in seeds),
        best=best,
    )


def _levels(
    table: Table, title: str, metric: str, lines: Sequence[str], stated: Mapping[str, PublishedTable]
) -> Iterator[Level]:
    """The printed rows that have this metric on this data set."""
    for line in lines:
        stem, _, method = line.partition(": ")
        numbers, (name, _, words) = stated[stem], title.partition(": ")
        if any(number.dataset == name and words in number.protocol for number in numbers.numbers):
            number = numbers.find(method=method, dataset=title, metric=metric)
            if number is not None:
                yield Level(label=f"{method} ({numbers.sources[0]}): {number.mean}", value=float(number.mean))


def _heats(table: Table, figure: Heat, stated: Mapping[str, PublishedTable]) -> Iterator[Drawing]:
    best = figure.best.point(stated[figure.best.published], "") if figure.best else ()
    for dataset, panels in _by_dataset(table).items():
        for metric in table.experiment.metrics:
            found = [cell for panel in panels if (cell := _cell(panel, metric, figure))]
            if found:
                svg = line_figures.cells(
                    found,
                    best=(best[0], best[1]) if best else None,
                    titles=(figure.x_title, figure.y_title),
                    metric=f"{metric} on {panels[0].title}, percent",
                )
                name = file_stem(f"{table.experiment.name}-{dataset}-{metric}")
                words = "Mean ± sample standard deviation over the seeds; stronger: better. Empty: no such row."
                yield Drawing(name=name, svg=svg, caption=words)


def _cell(panel: Panel, metric: str, figure: Heat) -> CellOf | None:
    values = [100 * value for value in panel.values(metric)]
    if not values:
        return None
    std = statistics.stdev(values) if len(values) > 1 else None
    return CellOf(x=_setting(panel, figure.x), y=_setting(panel, figure.y), mean=statistics.fmean(values), std=std)


def _epochs(
    table: Table, figure: figure_kinds.Epochs, recorded: Curves, stated: Mapping[str, PublishedTable]
) -> Iterator[Drawing]:
    mark = _mark(figure.mark, stated)
    for dataset, panels in _by_dataset(table).items():
        found = [_line(panel, recorded, figure.recorded, interval=True) for panel in panels]
        lines = [line for line in found if line][:MOST_LINES]
        if lines:
            name = file_stem(f"{table.experiment.name}-{dataset}-{figure.recorded}")
            svg = line_figures.by_epoch(lines, y_title=f"{figure.title}, {panels[0].title}", mark=mark)
            beyond = f" The {mark[1]} lies beyond these epochs." if mark and mark[0] > lines[0].x[-1] else ""
            yield Drawing(name=name, svg=svg, caption=_interval_words(lines) + beyond)


def _mark(stated: Stated | None, tables: Mapping[str, PublishedTable]) -> tuple[float, str] | None:
    if stated is None:
        return None
    (epoch,) = stated.point(tables[stated.published], "")
    return epoch, f"epoch {epoch:g} that the paper names"


def _line(panel: Panel, recorded: Curves, prefix: str, *, interval: bool) -> Line | None:
    """What was recorded of one row's seeds: mean and interval of the mean, or mean and range; None without any."""
    own = [curve for run in panel.done if (curve := recorded.of(run.key))]
    if not own:
        return None
    epochs, values = curves.shared(own, prefix)
    if not len(epochs):
        return None
    x, values = curves.thinned(epochs, values)
    low, high = _interval(values) if interval else (values.min(0), values.max(0))
    if len(values) < 2:
        low = high = np.full(len(x), np.nan)
    return Line(
        label=panel.label,
        x=tuple(map(float, x)),
        mean=tuple(map(float, values.mean(0))),
        low=tuple(map(float, low)),
        high=tuple(map(float, high)),
        seeds=tuple(tuple(map(float, column)) for column in values.T),
    )


def _interval(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The 95 % interval of the mean of each column."""
    halves = np.array([half_width([*map(float, column)]) for column in values.T])
    return values.mean(0) - halves, values.mean(0) + halves


def _wide(lines: Sequence[Line]) -> bool:
    """Whether the losses differ so much that only a logarithmic axis shows them all."""
    values = [value for line in lines for value in line.mean]
    return min(values) > 0 and max(values) > 5 * min(values)


def _setting(panel: Panel, path: str) -> float:
    return float(dict(flatten(panel.sample.config))[path])


def _by_dataset(table: Table) -> dict[str, list[Panel]]:
    """The panels that have runs, by the data sets of our columns, in their order."""
    ours: Iterable[Group] = (group for group in table.groups if group.kind == "ours")
    found = {group.dataset: [panel for panel in table.panels if panel.dataset == group.dataset] for group in ours}
    return {dataset: panels for dataset, panels in found.items() if panels}


def _by_series(table: Table, panels: Sequence[Panel]) -> dict[str, list[Panel]]:
    series = {entry.label: entry.series for entry in table.experiment.rows}
    found: dict[str, list[Panel]] = {}
    for panel in panels:
        found.setdefault(series[panel.label], []).append(panel)
    return found


def _networks(panels: Sequence[Panel]) -> Iterator[Panel]:
    """One panel of each set of runs: rows may rank by different embeddings of the same networks."""
    seen = set()
    for panel in panels:
        keys = tuple(run.key for run in panel.runs)
        if keys not in seen:
            seen.add(keys)
            yield panel


def _interval_words(lines: Sequence[Line]) -> str:
    counts = [len(seeds) for line in lines for seeds in line.seeds]
    if max(counts) < 2:
        return f"{_NO_BAND}"
    few = f" {_NO_BAND}" if min(counts) < 2 else ""
    return f"Band: 95 % interval of the mean over the seeds (Student's t, {_range(counts)} seeds).{few}"


def _range(counts: Sequence[int]) -> str:
    return str(max(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _learning_caption(panels: Sequence[Panel], lines: Sequence[Line]) -> str:
    several = any(len(line.seeds[0]) > 1 for line in lines)
    words = "Mean of the seeds; band: from the least to the greatest." if several else "One seed."
    methods = {panel.sample.method for panel in panels}
    return words + " The losses of different methods are sums of different terms." * (len(methods) > 1)
