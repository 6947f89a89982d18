"""The tables and searches of the papers, as data: one YAML file per paper in `pipeline/experiments`.

An experiment has the name of the published CSV it is printed beside, or a name of its own. What a row's overrides mean
is for `plan` to say; here a file is read, checked against its own form and joined to the printed numbers.
"""

import itertools
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.planning import figure_kinds
from pipeline.planning.figure_kinds import Figure
from pipeline.planning.metrics import COUNTS, Column
from pipeline.planning.published import PublishedError, PublishedTable
from pipeline.planning.published import load as load_published
from pipeline.planning.searches import Search
from pipeline.planning.strict import Distinct, Name, ParamsError, Section, read_yaml, unknown, validate
from reid.config import Range
from reid.visualize.picture import What

FOLDER = Path(__file__).parents[1] / "experiments"
PUBLISHED = Path(__file__).parents[2] / "reports" / "published"

Kind = Literal["table", "search", "pictures", "statistics"]
POOL = 24  # images that are drawn; which of them the report shows is settled when all rows are there
ARROW = "->"  # between the data set trained on and the one scored on, in the key of a column


class Row(Section):
    """A row of a table.

    `label` as the paper prints it. `overrides` replace values of the method's recipe and of its variant by dotted path.
    `published_method` is the row's name in the published CSV, the label unless it is given; null: the paper has no
    such row. Without a `method` the row is someone else's, published numbers only. `winner`: this row with what the
    search found put into it; a number above 1: with the second best that it found, and so on. `embedding`: rank by this
    one of the method's embeddings, a branch's say, instead of its own; every trial scores them all, so such a row
    trains nothing of its own. `series`: which line of the experiment's figure it lies on, where there are several.
    """

    label: str
    method: Name | None = None
    variant: str = "default"
    overrides: dict[str, Any] = Field(default_factory=dict)
    published_method: str | None = None
    winner: bool | Annotated[int, Range(2)] = False
    embedding: str = ""
    series: str = ""

    @property
    def place(self) -> int:
        """Which of a search's best it reports: 1 is the winner, 0 none."""
        return int(self.winner)


class Pictures(Section):
    """What is drawn of the rows' networks, see `reid.visualize`, for so many queries; `erasers`: training images."""

    what: What
    queries: Annotated[int, Range(1, POOL)]


class Experiment(Section):
    """A table of a paper, a search with the rows that report it, pictures of what the rows' networks do, or statistics.

    `published` is the stem of the CSV with the printed numbers, or several of them (see `published.load`);
    null: nothing is printed, as for figures. `datasets` are those of its data sets that are shown, the most relevant
    first, with words of the protocol where there are several (`CUHK03-NP: detected`). `others` adds the rows that only
    the paper has, in its order. `transfer`: every row is scored on data sets that it was not trained on, one column for
    each pair of the listed ones; `datasets` then has words of the protocol that name the training set. `reference`: the
    label of the row that the others are compared with; the first row of ours unless it is given. `figure`: what is
    drawn above the table. Where the metrics are counts of data sets the rows are the listed data sets and those of
    `datasets`, and nothing is trained.
    """

    name: Name
    title: str
    metrics: Distinct[Column] = ()
    rows: tuple[Row, ...] = ()
    note: str = ""
    published: str | None = None
    datasets: tuple[str, ...] = ()
    others: bool = False
    transfer: bool = False
    reference: str | None = None
    search: Search | None = None
    figure: Figure | None = None
    pictures: Pictures | None = None

    @property
    def kind(self) -> Kind:
        """What it is, by its sections and columns."""
        if self.pictures is not None:
            return "pictures"
        if self.search is not None:
            return "search"
        return "statistics" if self.metrics and {*self.metrics} <= {*COUNTS} else "table"

    @property
    def reference_row(self) -> str:
        """The label of the row that the others are compared with; empty where no row is ours."""
        return self.reference or next((row.label for row in self.rows if row.method is not None), "")

    @model_validator(mode="after")
    def _coherent(self) -> "Experiment":
        labels = [row.label for row in self.rows]
        if repeated := next((label for label in labels if labels.count(label) > 1), None):
            raise ValueError(f"rows: the label {repeated!r} is given twice")
        winners = sorted((row for row in self.rows if row.place), key=lambda row: row.place)
        top = self.search.top if self.search else 0
        if [row.place for row in winners] != [*range(1, top + 1)] or any(row.method is None for row in winners):
            more = f"; with top: {top} the others have winner: {', '.join(map(str, range(2, top + 1)))}"
            words = "rows: in a search one row has winner: true and a method; elsewhere none has"
            raise ValueError(words + more * (top > 1))
        if any((row.method, row.variant, row.overrides) != _base(winners[0]) for row in winners):
            raise ValueError("rows: those of a search's best differ in nothing but their place and label")
        ours = [row.label for row in self.rows if row.method is not None]
        if self.reference is not None and self.reference not in ours:
            raise ValueError(f"reference {unknown(self.reference, ours)}")
        if self.transfer and self.search is not None:
            raise ValueError("a search is not scored on other data sets: leave transfer out")
        if problem := _unfit(self):
            raise ValueError(problem)
        return self


_NO_TABLE = ("metrics", "published", "datasets", "others", "transfer", "search", "figure")
_NO_TRIALS = ("rows", "others", "transfer", "figure")


def _unfit(experiment: Experiment) -> str:
    """What does not go with this kind of experiment, or is needed for it; empty if all is well."""
    needless = {"pictures": _NO_TABLE, "statistics": _NO_TRIALS}.get(experiment.kind, ())
    if unused := [name for name in needless if getattr(experiment, name)]:
        what = "pictures are of networks, not of numbers" if experiment.pictures else "counts are of whole data sets"
        return f"{what}: leave {', '.join(unused)} out"
    if experiment.kind == "statistics":
        return ""
    if {*experiment.metrics} & {*COUNTS}:
        return "metrics: counts of data sets need a table of their own"
    if not experiment.rows or not (experiment.metrics or experiment.pictures):
        return f"{'metrics' if experiment.rows else 'rows'}: nothing is listed; give at least one"
    strangers = [row.label for row in experiment.rows if row.method is None and experiment.pictures]
    return f"rows: pictures need a network, and these have no method: {', '.join(strangers)}" if strangers else ""


def _base(row: Row) -> tuple[str | None, str, dict[str, Any]]:
    return row.method, row.variant, row.overrides


def names(folder: Path = FOLDER) -> list[str]:
    """The names of all experiments, sorted.

    Raises:
        ParamsError: a file is no YAML, or two have an experiment of the same name.
    """
    return sorted(_trees(folder))


def load(wanted: tuple[str, ...], *, folder: Path = FOLDER, published: Path = PUBLISHED) -> list[Experiment]:
    """Experiments by name, in the order asked for, the rows of others added.

    Raises:
        ParamsError: an unknown name, a file that breaks its form, or a row that does not join to exactly one published
            number for a data set and metric; one line for each.
    """
    trees = _trees(folder)
    if problems := [f"experiments {unknown(name, trees)}" for name in wanted if name not in trees]:
        raise ParamsError(problems)
    return [_experiment(name, *trees[name], published=published) for name in wanted]


def _trees(folder: Path) -> dict[str, tuple[Any, str]]:
    """The raw experiments by name, each with the file it came from."""
    found: dict[str, tuple[Any, str]] = {}
    for path in sorted(folder.glob("*.yaml")):
        for name, tree in read_yaml(path).items():
            if name in found:
                raise ParamsError([f"{path.name}: the experiment {name} is also in {found[name][1]}"])
            found[name] = tree, path.name
    return found


def _experiment(name: str, tree: Any, file: str, *, published: Path) -> Experiment:
    where = f"{file}: {name}"
    if not isinstance(tree, dict):
        raise ParamsError([f"{where} is no section; allowed: {', '.join(Experiment.model_fields)}"])
    own = {"name": name} if tree.keys() & {"search", "pictures"} else {"name": name, "published": name}
    experiment = validate(Experiment, own | tree, where=where)
    try:
        _check_figure(experiment, published)
        if experiment.published is None:
            return experiment
        table = load_published(published, experiment.published)
        complete = experiment.model_copy(update={"rows": _rows(experiment, table)})
        _check_joins(complete, table)
    except PublishedError as error:
        raise ParamsError([f"{where}: {error}"]) from None
    return complete


def _rows(experiment: Experiment, table: PublishedTable) -> tuple[Row, ...]:
    """The rows with their names in the paper filled in; with `others`, in the paper's order, its own rows between."""
    rows = [
        row if "published_method" in row.model_fields_set else row.model_copy(update={"published_method": row.label})
        for row in experiment.rows
    ]
    if not experiment.others:
        return tuple(rows)
    printed = dict.fromkeys(number.method for number in table.numbers)
    claimed = {method: [row for row in rows if row.published_method == method] for method in printed}
    theirs = {method: [Row(label=method, published_method=method)] for method in printed}
    unprinted = [row for row in rows if row.published_method not in printed]
    return tuple(row for method in printed for row in claimed[method] or theirs[method]) + tuple(unprinted)


def _check_figure(experiment: Experiment, published: Path) -> None:
    tables = {stem: load_published(published, stem) for stem in figure_kinds.stems(experiment.figure)}
    figure_kinds.check_joins(experiment.figure, list(dict.fromkeys(row.series for row in experiment.rows)), tables)


def _check_joins(experiment: Experiment, table: PublishedTable) -> None:
    """Ask for every printed number once, so that a wrong name is an error now and not after the training."""
    if experiment.kind == "statistics":
        for dataset, metric in itertools.product(experiment.datasets, experiment.metrics):
            table.count(dataset=dataset, metric=metric)
    for row in experiment.rows:
        for dataset in experiment.datasets:
            for metric in set(experiment.metrics) & set(table.metrics(dataset)):
                if row.published_method is not None:
                    table.find(method=row.published_method, dataset=dataset, metric=metric)
