"""Statistics of data sets, as counted in what was prepared, beside what the papers print of them."""

from collections.abc import Mapping

from pipeline.exports.results import Experiment
from pipeline.planning.published import Printed, PublishedTable
from pipeline.reporting.tables import Cell, Group, Kind, Row, Table, difference, printed_cell

_TITLE = "Counts"


def table(experiment: Experiment, *, datasets: Mapping[str, str], printed: PublishedTable | None) -> Table:
    """A table with a row for each data set, those of ours first.

    Args:
        experiment: of kind `statistics`, with its counts.
        datasets: display name of every data set key.
        printed: the published counts.
    """
    found = {datasets[key]: numbers for key, numbers in (experiment.counts or {}).items()}
    others = [name for name in experiment.published_datasets if name not in found]
    shared = printed is not None and not found.keys().isdisjoint(experiment.published_datasets)
    every: tuple[Kind, ...] = ("ours", "published", "difference")
    kinds = every[: 1 + (printed is not None) + shared]
    groups = [Group(kind=kind, dataset="", title=_TITLE, metrics=tuple(experiment.metrics)) for kind in kinds]
    rows = [
        Row(
            label=name,
            ours=name in found,
            reference="",
            cells=tuple(
                _cell(group.kind, found.get(name, {}).get(metric), _printed(experiment, printed, name, metric))
                for group in groups
                for metric in group.metrics
            ),
        )
        for name in (*found, *others)
    ]
    return Table(experiment=experiment, groups=tuple(groups), rows=tuple(rows), panels=(), warnings=(), printed=printed)


def _printed(experiment: Experiment, printed: PublishedTable | None, name: str, metric: str) -> Printed | None:
    if printed is None or name not in experiment.published_datasets:
        return None
    return printed.count(dataset=name, metric=metric)


def _cell(kind: Kind, counted: int | None, theirs: Printed | None) -> Cell:
    ours = Cell(kind="ours", value=counted, text=str(counted))
    if counted is None:
        ours = Cell(kind="ours", reason="not prepared here")
    published = printed_cell(theirs, lacking="not printed")
    return {"ours": ours, "published": published, "difference": difference(ours, published, step="1")}[kind]
