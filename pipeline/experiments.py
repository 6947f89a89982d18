"""The tables and searches of the papers, as data: one YAML file per paper in `pipeline/experiments`.

An experiment has the name of the published CSV it is printed beside, or a name of its own. What a row's overrides mean
is for `pipeline.plan` to say; here a file is read, checked against its own form and joined to the printed numbers.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.published import PublishedError, PublishedTable
from pipeline.published import load as load_published
from pipeline.strict import Distinct, Name, ParamsError, Section, read_yaml, unknown, validate
from reid.config import Count, Range

FOLDER = Path(__file__).parent / "experiments"
PUBLISHED = Path(__file__).parent.parent / "reports" / "published"

Metric = Literal[
    "Rank-1",
    "Rank-5",
    "Rank-10",
    "Recall@1",
    "Recall@2",
    "Recall@4",
    "Recall@5",
    "Recall@8",
    "Recall@10",
    "Recall@20",
    "Recall@30",
    "Recall@40",
    "Recall@50",
    "Recall@100",
    "Recall@1000",
    "mAP",
    "mINP",
]
Value = float | int | str | bool | None

ARROW = "->"  # between the data set trained on and the one scored on, in the key of a column


class Row(Section):
    """A row of a table.

    `label` as the paper prints it. `overrides` replace values of the method's recipe and of its variant by dotted path.
    `published_method` is the row's name in the published CSV, the label unless it is given; null: the paper has no
    such row. Without a `method` the row is someone else's, published numbers only. `winner`: this row with what the
    search found put into it. `embedding`: rank by this one of the method's embeddings, a branch's say, instead of its
    own; every trial scores them all, so such a row trains nothing of its own.
    """

    label: str
    method: Name | None = None
    variant: str = "default"
    overrides: dict[str, Any] = Field(default_factory=dict)
    published_method: str | None = None
    winner: bool = False
    embedding: str = ""


class Space(Section):
    """The values a search may give one setting: `choices`, or `low` to `high`, in steps or on a logarithmic scale."""

    low: float | int | None = None
    high: float | int | None = None
    step: float | int | None = None
    log: bool = False
    choices: tuple[Value, ...] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> "Space":
        if self.choices is not None:
            if len(self.choices) < 2 or self.model_fields_set != {"choices"}:
                raise ValueError("choices are two or more, and then nothing else is given")
            return self
        if self.low is None or self.high is None or self.low >= self.high:
            raise ValueError("give choices, or low and a greater high")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ValueError(f"step is {self.step:g}; allowed: above 0, up to {self.high - self.low:g}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("with log, low must be above 0 and there is no step")
        return self


class Pruning(Section):
    """Successive halving: after a `start` share of its epochs, and then each time the epochs have grown by `factor`, a
    trial outside the best 1 / `factor` of those it sees is stopped.
    """

    start: Annotated[float, Range(0.01, 1.0)]
    factor: Annotated[int, Range(2)]


class Search(Section):
    """How a search asks for trials; all of them are scored on held-out identities of the training set, with one seed.

    `space`: dotted path to the values it may take. `lag`: a trial sees the outcomes of those that many numbers before
    it and earlier, so that `lag` of them can run side by side. `startup_trials` are drawn at random, then TPE begins.
    """

    space: dict[str, Space]
    trials: Count
    objective: Metric = "mAP"
    sampler: Literal["tpe", "random"] = "tpe"
    startup_trials: Count = 4
    lag: Count = 1
    pruning: Pruning | None = None
    seed: Annotated[int, Range(0)] = 0


class Experiment(Section):
    """A table of a paper, or a search with the rows that report it.

    `published` is the stem of the CSV with the printed numbers, or several of them (see `pipeline.published.load`);
    null: nothing is printed, as for figures. `datasets` are those of its data sets that are shown, the most relevant
    first, with words of the protocol where there are several (`CUHK03-NP: detected`). `others` adds the rows that only
    the paper has, in its order. `transfer`: every row is scored on data sets that it was not trained on, one column for
    each pair of the listed ones; `datasets` then has words of the protocol that name the training set.
    """

    name: Name
    title: str
    metrics: Distinct[Metric]
    rows: tuple[Row, ...]
    note: str = ""
    published: str | None = None
    datasets: tuple[str, ...] = ()
    others: bool = False
    transfer: bool = False
    search: Search | None = None

    @property
    def kind(self) -> Literal["table", "search"]:
        """What it is called in `results/plan.json`."""
        return "table" if self.search is None else "search"

    @model_validator(mode="after")
    def _coherent(self) -> "Experiment":
        labels = [row.label for row in self.rows]
        if repeated := next((label for label in labels if labels.count(label) > 1), None):
            raise ValueError(f"rows: the label {repeated!r} is given twice")
        winners = [row for row in self.rows if row.winner]
        if len(winners) != (self.search is not None) or any(row.method is None for row in winners):
            raise ValueError("rows: in a search one row has winner: true and a method; elsewhere none has")
        if self.transfer and self.search is not None:
            raise ValueError("a search is not scored on other data sets: leave transfer out")
        return self


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
    own = {"name": name} if "search" in tree else {"name": name, "published": name}
    experiment = validate(Experiment, own | tree, where=where)
    if experiment.published is None:
        return experiment
    try:
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


def _check_joins(experiment: Experiment, table: PublishedTable) -> None:
    """Ask for every printed number once, so that a wrong name is an error now and not after the training."""
    for row in experiment.rows:
        for dataset in experiment.datasets:
            for metric in set(experiment.metrics) & set(table.metrics(dataset)):
                if row.published_method is not None:
                    table.find(method=row.published_method, dataset=dataset, metric=metric)
