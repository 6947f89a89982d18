"""Methods side by side: accuracy against cost, data set against data set, and what the numbers carry in words.

The words claim of a row no more than what was tested: its difference from the table's reference row, corrected across
the table. Which rows have the highest means is said as what it is, an order of means.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.drawing import compared_figures
from pipeline.drawing.compared_figures import Slope, Spot
from pipeline.drawing.figures import Drawing, file_stem
from pipeline.planning import metrics
from pipeline.reporting.tables import MINUS, Cell, Comparison, Group, Panel, Row, Table

METRIC = "mAP"
TIME, SIZE = "inference_ms_per_image", "params_million"
_COSTS = (TIME, SIZE)


@dataclass(frozen=True)
class Entry:
    """A row that has a number on a data set: its cell, and the mean of each cost over the seeds that measured it."""

    label: str
    cell: Cell
    panel: Panel
    costs: Mapping[str, float]

    @property
    def value(self) -> float:
        """The mean over the seeds, in percent."""
        assert self.cell.value is not None
        return self.cell.value


def entries(table: Table) -> dict[Group, list[Entry]]:
    """The rows of ours with a number, by the groups of our data sets."""
    found: dict[Group, list[Entry]] = {}
    for place, (group, metric) in enumerate(table.columns()):
        if group.kind == "ours" and metric == METRIC:
            cells = [(row, row.cells[place]) for row in table.rows]
            found[group] = [_entry(table, row, cell) for row, cell in cells if cell.value is not None]
    return {group: rows for group, rows in found.items() if rows}


def _entry(table: Table, row: Row, cell: Cell) -> Entry:
    assert cell.panel is not None
    panel = table.panels[cell.panel]
    measured = {name: [run.metrics[name] for run in panel.done if name in run.metrics] for name in _COSTS}
    return Entry(
        row.label, cell, panel, {name: statistics.fmean(values) for name, values in measured.items() if values}
    )


def drawings(table: Table) -> Iterator[Drawing]:
    """Accuracy against each cost that was measured, on each data set; and the data sets side by side."""
    found = entries(table)
    for group, rows in found.items():
        yield from (drawn for cost in _COSTS if (drawn := _scatter(table, group, rows, cost)))
    if len(found) > 1:
        labels = dict.fromkeys(row.label for rows in found.values() for row in rows)
        values = [{row.label: row.value for row in rows} for rows in found.values()]
        slopes = [Slope(label=label, values=tuple(own.get(label) for own in values)) for label in labels]
        svg = compared_figures.slopes(slopes, [group.title for group in found], y_title=f"{METRIC}, percent")
        caption = "Means over the seeds. Lines cross where the order of two methods is another on the next data set."
        yield Drawing(name=file_stem(f"{table.experiment.name}-datasets"), svg=svg, caption=caption)


def _scatter(table: Table, group: Group, rows: Sequence[Entry], cost: str) -> Drawing | None:
    """Accuracy against one cost; None where no row has it."""
    spots = [
        Spot(label=row.label, x=row.costs[cost], y=row.value, std=float(row.cell.std) if row.cell.std else None)
        for row in rows
        if cost in row.costs
    ]
    if not spots:
        return None
    title = metrics.words(cost)
    svg = compared_figures.scatter(spots, x_title=title, y_title=f"{METRIC} on {group.title}, percent")
    absent = _absent(title, [row.label for row in rows if cost not in row.costs])
    caption = f"Bar: ± standard deviation. {_where(rows) if cost == TIME else ''}{absent}".strip()
    return Drawing(name=file_stem(f"{table.experiment.name}-{group.dataset}-{cost}"), svg=svg, caption=caption)


def words(table: Table) -> tuple[str, ...]:
    """A paragraph for each data set of what was found."""
    return tuple(" ".join(_paragraph(table, group, rows)) for group, rows in entries(table).items())


def _paragraph(table: Table, group: Group, rows: Sequence[Entry]) -> Iterator[str]:
    order = sorted(rows, key=lambda row: -row.value)
    if len(order) == 1:
        yield f"On {group.title} only {_number(order[0])} has a number, so nothing is compared."
        return
    first, second = _number(order[0]), _number(order[1])
    yield f"On {group.title}, the highest mean {METRIC} of {len(order)} methods is that of {first}, before {second}."
    yield from _tests(table, order)
    yield from _costs(order)


def _number(row: Entry) -> str:
    std = f" ± {row.cell.std}" if row.cell.std else ""
    return f"{row.label} ({row.cell.text}{std} %, {row.cell.n} seed{'s' * (row.cell.n != 1)})"


def _tests(table: Table, order: Sequence[Entry]) -> Iterator[str]:
    """What the comparisons with the reference row say, and what they leave open."""
    reference = table.experiment.reference
    tested = [(row, row.cell.comparison) for row in order if row.cell.comparison]
    if not tested:
        yield "No difference between them was tested, so the order of the means is all that can be said."
        return
    better = [(row, found) for row, found in tested if found.significant and found.difference > 0]
    worse = [(row, found) for row, found in tested if found.significant and found.difference < 0]
    open_ = [row.label for row, found in tested if not found.significant]
    if better:
        found = _listed(_difference(*one) for one in better)
        yield f"Better than {reference}, Holm-corrected across the table: {found}."
    if worse:
        yield f"Worse than {reference}: {_listed(_difference(*one) for one in worse)}."
    if open_:
        yield f"No difference from {reference} is shown for {_listed(open_)}."
    if not all(found.over_seeds for _, found in tested):
        yield "With one seed this is said of the trained networks, not of the methods."
    rivals = [row.label for row in order[:2] if row.label != reference]
    if len(rivals) == 2:
        yield f"Whether {rivals[0]} and {rivals[1]} differ from each other was not tested."


def _difference(row: Entry, found: Comparison) -> str:
    numbers = f"{found.difference:+.1f} points, 95 % interval {found.low:.1f} to {found.high:.1f}"
    return f"{row.label} ({numbers.replace('-', MINUS)})"


def _costs(order: Sequence[Entry]) -> Iterator[str]:
    """The quickest, and which rows no other beats in both; only where all were measured on one device."""
    timed = [row for row in order if TIME in row.costs]
    devices = {run.device for row in timed for run in row.panel.done}
    if len(timed) < len(order):
        absent = [row.label for row in order if row not in timed]
        yield f"The time of an image was not measured for {_listed(absent)}, so speed is not compared."
        return
    if len(devices) > 1:
        yield f"Times were taken on different devices ({_listed(sorted(devices))}), so speed is not compared."
        return
    quick = min(timed, key=lambda row: row.costs[TIME])
    front = [
        row.label
        for row in timed
        if not any(other.value > row.value and other.costs[TIME] < row.costs[TIME] for other in timed)
    ]
    yield f"The least time for an image, {quick.costs[TIME]:.2f} ms on {devices.pop()}, is that of {quick.label}."
    yield f"By the means, no other is both quicker and better than {_listed(front)}."


def _where(rows: Sequence[Entry]) -> str:
    devices = sorted({run.device for row in rows for run in row.panel.done})
    return f"Times on {_listed(devices)}. "


def _absent(what: str, labels: Sequence[str]) -> str:
    return f"Not drawn, as {what} were not recorded: {_listed(labels)}." if labels else ""


def _listed(items: Sequence[str] | Iterator[str]) -> str:
    """`a, b and c`."""
    *first, last = items
    return f"{', '.join(first)} and {last}" if first else last
