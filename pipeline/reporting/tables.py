"""The tables of the report as values: declared rows and finished trials in, cells out. Nothing here reads or writes.

A cell of ours keeps its runs, so that whatever renders it can say where the number comes from. Numbers are fractions
until they are printed: percent with one decimal, mean and sample standard deviation over the seeds that finished.
"""

import dataclasses
import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from pipeline.exports.results import Experiment, RowEntry, Run
from pipeline.planning import metrics
from pipeline.planning.experiments import ARROW
from pipeline.planning.published import Printed, PublishedTable
from pipeline.reporting import agreement
from reid.data.readers import Reader, reader

DASH = "–"
MINUS = "−"

Kind = Literal["ours", "published", "difference"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A cell of ours against the reference row's, by the values of the queries: difference and 95 % interval in points.

    `corrected` is p after the correction across the table. `over_seeds`: the seeds' spread is in it, so that it is the
    methods that are compared; else these trained networks.
    """

    reference: str
    difference: float
    low: float
    high: float
    p: float
    corrected: float
    num_queries: int
    num_identities: int
    over_seeds: bool
    significant: bool

    @property
    def mark(self) -> str:
        """A triangle where the difference is significant, up for better; hollow where it is of networks alone."""
        if not self.significant:
            return ""
        up, down = ("▲", "▼") if self.over_seeds else ("△", "▽")
        return up if self.difference > 0 else down


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One place of a table.

    `value` is unrounded, in percent or points, and None where a dash is printed; `text` is what is printed of it. `n`
    of `declared` seeds finished; `reason` says why a cell has less than it should. `panel` numbers the cell's runs.
    `comparison` is with the table's reference row; `untested` says why there is none.
    """

    kind: Kind
    value: float | None = None
    text: str = DASH
    std: str = ""
    n: int = 0
    declared: int = 0
    mark: Literal["", "best", "second"] = ""
    reason: str = ""
    doubtful: bool = False
    panel: int | None = None
    comparison: Comparison | None = None
    untested: str = ""

    @property
    def arrow(self) -> str:
        """The mark of a significant difference from the reference row, or an empty text."""
        return self.comparison.mark if self.comparison else ""

    @property
    def count(self) -> str:
        """The number of seeds behind the cell: `(3)`, or `(2/3)` where a seed is lacking; empty without any."""
        if not self.n:
            return ""
        return f"({self.n})" if self.n == self.declared else f"({self.n}/{self.declared})"

    @property
    def lacking(self) -> bool:
        """Whether seeds that were declared are not in the number."""
        return self.n < self.declared


@dataclass(frozen=True, kw_only=True)
class Group:
    """Neighbouring columns: the metrics of one data set, ours, published, or the difference of the two in points.

    `dataset` is our key, or the published name. `not_comparable` is the reason why published numbers are shown and no
    difference is; empty otherwise. `withdrawn` is what must be said of data whose authors have taken them back.
    """

    kind: Kind
    dataset: str
    title: str
    metrics: tuple[str, ...]
    not_comparable: str = ""
    withdrawn: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row; `cells` run through the groups' metrics in order."""

    label: str
    ours: bool
    reference: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The runs behind the cells of one row on one data set; `first` is a run of the table's first row of ours there.

    `embedding`: which of the method's is ranked; empty for its own.
    """

    number: int
    label: str
    dataset: str
    title: str
    embedding: str
    runs: tuple[Run, ...]
    first: Run

    @property
    def done(self) -> tuple[Run, ...]:
        """The runs that ended with a number."""
        return tuple(run for run in self.runs if run.status == "done")

    @property
    def sample(self) -> Run:
        """A run that stands for all of them in everything but the seed; one with a number where there is one."""
        return (self.done or self.runs)[0]

    def value(self, run: Run, metric: str) -> float | None:
        """A metric of a run by the embedding that is ranked, as a fraction; None where it was not measured."""
        return run.metrics.get(f"{self.embedding}/{metric}" if self.embedding else metric)

    def values(self, metric: str) -> list[float]:
        """A metric of every run that has it, as fractions."""
        return [value for run in self.done if (value := self.value(run, metric)) is not None]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that knows where every number comes from."""

    experiment: Experiment
    groups: tuple[Group, ...]
    rows: tuple[Row, ...]
    panels: tuple[Panel, ...]
    warnings: tuple[str, ...]
    printed: PublishedTable | None

    def columns(self) -> list[tuple[Group, str]]:
        """Group and metric of every cell of a row, in order."""
        return [(group, metric) for group in self.groups for metric in group.metrics]

    def counterparts(self, entry: RowEntry, group: Group) -> dict[str, Printed]:
        """What the paper prints for a row in a published group, by metric."""
        if self.printed is None or not entry.published_method:
            return {}
        found = {
            metric: self.printed.find(method=entry.published_method, dataset=group.title, metric=metric)
            for metric in group.metrics
        }
        return {metric: number for metric, number in found.items() if number is not None}


def build(
    experiment: Experiment, *, datasets: Mapping[str, str], runs: Mapping[str, Run], printed: PublishedTable | None
) -> Table:
    """Build one table.

    Args:
        experiment: the declared rows.
        datasets: display name of every data set key, in the order of the columns.
        runs: every declared trial by its key.
        printed: the published table, where the experiment names one.

    Raises:
        ValueError: two rows have one label, or a row names a trial that `runs` lacks.
        PublishedError: a row does not join to its published number.
    """
    labels = [entry.label for entry in experiment.rows]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise ValueError(f"{experiment.name}: two rows are named {twice!r}; give each its own label")
    for entry in experiment.rows:
        require(f"{experiment.name}, row {entry.label!r}", itertools.chain(*entry.keys.values()), runs)
    panels = _panels(experiment, datasets, runs)
    groups = _groups(experiment, datasets, panels, printed)
    rows = [_row(entry, groups, panels, printed) for entry in experiment.rows]
    return Table(
        experiment=experiment,
        groups=groups,
        rows=_marked(rows, [metric for group in groups for metric in group.metrics]),
        panels=panels,
        warnings=tuple(agreement.warnings(panels)),
        printed=printed,
    )


def require(where: str, keys: Iterable[str], runs: Mapping[str, Run]) -> None:
    """Raise a ValueError that says where, if a trial of the plan is not among `runs`."""
    if lost := [key for key in keys if key not in runs]:
        raise ValueError(
            f"{where}: trial {', '.join(lost)} is not in the table of trials; "
            "the plan and the table are of different sweeps: run the sweep stage again"
        )


def _panels(experiment: Experiment, datasets: Mapping[str, str], runs: Mapping[str, Run]) -> tuple[Panel, ...]:
    panels: list[Panel] = []
    first: dict[str, Run] = {}
    for entry in experiment.rows:
        for dataset, keys in entry.keys.items():
            if keys:
                panel = Panel(
                    number=len(panels),
                    label=entry.label,
                    dataset=dataset,
                    title=datasets[dataset],
                    embedding=entry.embedding,
                    runs=tuple(runs[key] for key in keys),
                    first=first.setdefault(dataset, runs[keys[0]]),
                )
                panels.append(panel)
    return tuple(panels)


def _groups(
    experiment: Experiment, datasets: Mapping[str, str], panels: Sequence[Panel], printed: PublishedTable | None
) -> tuple[Group, ...]:
    used = [key for key in datasets if any(key in entry.keys for entry in experiment.rows)]
    shown = {name: _shared(experiment, printed, name) for name in experiment.published_datasets} if printed else {}
    groups: list[Group] = []
    for key in used:
        title = datasets[key]
        notices = tuple(notice for part in key.split(ARROW) if (notice := reader(part).withdrawn))
        ours = Group(kind="ours", dataset=key, title=title, metrics=tuple(experiment.metrics), withdrawn=notices)
        groups.append(ours)
        if title in shown:
            groups.extend(_counterpart(key, title, shown[title], [panel for panel in panels if panel.dataset == key]))
    if shown and not any(group.kind == "published" for group in groups):
        name = next(iter(shown))
        reason = f"measured on {' and '.join(datasets[key] for key in used)}, published on {name}"
        groups.append(_printed(name, shown[name], not_comparable=reason if used else ""))
    return tuple(groups)


def _shared(experiment: Experiment, printed: PublishedTable, dataset: str) -> tuple[str, ...]:
    """The metrics of ours that the paper prints too."""
    there = printed.metrics(dataset)
    return tuple(metric for metric in experiment.metrics if metric in there)


def _counterpart(key: str, title: str, metrics: tuple[str, ...], panels: Sequence[Panel]) -> list[Group]:
    """The published columns of a data set that is ours too, and the difference where the rule is the papers'."""
    rules = {run.protocol["rule"] for panel in panels for run in panel.runs}
    if rules <= {(own := _scored_on(key).rule)}:
        return [_printed(title, metrics), Group(kind="difference", dataset=key, title=title, metrics=metrics)]
    reason = f"{title} is scored here by the rule {', '.join(sorted(rules - {own}))}, in the papers by {own}"
    return [_printed(title, metrics, not_comparable=reason)]


def _scored_on(column: str) -> Reader:
    """The data set of a column: of two, the one that is scored."""
    return reader(column.rpartition(ARROW)[2])


def _printed(name: str, metrics: tuple[str, ...], not_comparable: str = "") -> Group:
    return Group(kind="published", dataset=name, title=name, metrics=metrics, not_comparable=not_comparable)


def _row(entry: RowEntry, groups: Sequence[Group], panels: Sequence[Panel], printed: PublishedTable | None) -> Row:
    own = {panel.dataset: panel for panel in panels if panel.label == entry.label}
    method = entry.published_method or ""

    def cell(group: Group, metric: str) -> Cell:
        if group.kind == "published":
            return _published(printed, method, group.title, metric)
        ours = _ours(entry, own.get(group.dataset), metric)
        if group.kind == "ours":
            return ours
        return difference(ours, _published(printed, method, group.title, metric), step="0.1")

    return Row(
        label=entry.label,
        ours=entry.method is not None,
        reference=printed.reference(method) if printed else "",
        cells=tuple(cell(group, metric) for group in groups for metric in group.metrics),
    )


def _ours(entry: RowEntry, panel: Panel | None, metric: str) -> Cell:
    if panel is None:
        return Cell(kind="ours", reason="not declared yet" if entry.method is not None else "")
    values = [metrics.shown(metric, value) for value in panel.values(metric)]
    reason = "; ".join(lacking(panel, metric))
    cell = Cell(kind="ours", n=len(values), declared=len(panel.runs), reason=reason, panel=panel.number)
    if not values:
        return cell
    mean = statistics.fmean(values)
    std = metrics.printed(metric, statistics.stdev(values)) if len(values) > 1 and metrics.varies(metric) else ""
    return dataclasses.replace(cell, value=mean, text=metrics.printed(metric, mean), std=std)


def lacking(panel: Panel, metric: str) -> list[str]:
    """Why seeds that were declared have no number: `seed 2 failed: out of memory`."""
    return [
        f"seed {run.seed} {run.status}" + (f": {run.reason}" if run.reason else "")
        if run.status != "done"
        else f"seed {run.seed} has no {metric}"
        for run in panel.runs
        if run.status != "done" or panel.value(run, metric) is None
    ]


def _published(printed: PublishedTable | None, method: str, dataset: str, metric: str) -> Cell:
    number = printed.find(method=method, dataset=dataset, metric=metric) if printed and method else None
    return printed_cell(number, lacking="the paper prints a dash" if method else "no published counterpart")


def printed_cell(number: Printed | None, *, lacking: str) -> Cell:
    """A number that a paper prints; `lacking` says why there is a dash where it prints none."""
    if number is None:
        return Cell(kind="published", reason=lacking)
    return Cell(
        kind="published",
        value=float(number.mean),
        text=number.mean,
        std=number.std,
        reason=number.note,
        doubtful=number.doubtful,
    )


def difference(ours: Cell, published: Cell, *, step: str) -> Cell:
    """Ours minus published, of the numbers as they are printed, so that a reader can check it; in such steps."""
    if ours.value is None or published.value is None:
        return Cell(kind="difference")
    gap = (Decimal(ours.text) - Decimal(published.text)).quantize(Decimal(step))
    sign = "+" if gap > 0 else MINUS if gap < 0 else ""
    return Cell(kind="difference", value=float(gap), text=f"{sign}{abs(gap)}")


def _marked(rows: Sequence[Row], names: Sequence[str]) -> tuple[Row, ...]:
    """Mark the best and the second printed mean of every column of scores of ours; equal ones share the mark."""
    columns = [
        _marks(column) if metric in metrics.SCORES else list(column)
        for metric, column in zip(names, zip(*(row.cells for row in rows), strict=True), strict=bool(rows))
    ]
    return tuple(
        dataclasses.replace(row, cells=tuple(column[place] for column in columns)) for place, row in enumerate(rows)
    )


def _marks(column: Sequence[Cell]) -> list[Cell]:
    measured = [cell.text for cell in column if cell.kind == "ours" and cell.value is not None]
    order = sorted(set(measured), key=float, reverse=True) if len(measured) > 1 else []
    marks: dict[str, Literal["best", "second"]] = dict(zip(order, ("best", "second"), strict=False))
    return [
        dataclasses.replace(cell, mark=marks[cell.text]) if cell.kind == "ours" and cell.text in marks else cell
        for cell in column
    ]
