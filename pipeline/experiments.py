"""The tables and searches of the papers, as data: one YAML file per paper in `pipeline/experiments`.

An experiment has the name of the published CSV it is printed beside, or a name of its own. What a row's overrides mean
is for `pipeline.plan` to say; here a file is read, checked against its own form and joined to the printed numbers.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.published import PublishedError, PublishedTable
from pipeline.published import load as load_published
from pipeline.strict import Distinct, Name, ParamsError, Section, nearest, read_yaml, unknown, validate
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
SECONDS = "step_seconds"  # the one objective that is no metric and is to be small
Objective = Metric | Literal["step_seconds"]
Value = float | int | str | bool | None
Point = Mapping[str, Value]  # a search's settings by dotted path

ARROW = "->"  # between the data set trained on and the one scored on, in the key of a column


class Row(Section):
    """A row of a table.

    `label` as the paper prints it. `overrides` replace values of the method's recipe and of its variant by dotted path.
    `published_method` is the row's name in the published CSV, the label unless it is given; null: the paper has no
    such row. Without a `method` the row is someone else's, published numbers only. `winner`: this row with what the
    search found put into it; a number above 1: with the second best that it found, and so on. `embedding`: rank by this
    one of the method's embeddings, a branch's say, instead of its own; every trial scores them all, so such a row
    trains nothing of its own.
    """

    label: str
    method: Name | None = None
    variant: str = "default"
    overrides: dict[str, Any] = Field(default_factory=dict)
    published_method: str | None = None
    winner: bool | Annotated[int, Range(2)] = False
    embedding: str = ""

    @property
    def place(self) -> int:
        """Which of a search's best it reports: 1 is the winner, 0 none."""
        return int(self.winner)


class Space(Section):
    """The values a search may give one setting: `choices`, or `low` to `high`, in steps or on a logarithmic scale.

    `when`: asked for only where these other settings have that value, or one of a list. They come before it in the
    space, or are fixed by the row.
    """

    low: float | int | None = None
    high: float | int | None = None
    step: float | int | None = None
    log: bool = False
    choices: tuple[Value, ...] | None = None
    when: dict[str, Value | tuple[Value, ...]] = Field(default_factory=dict)

    def holds(self, value: Value) -> bool:
        """Whether the setting may have this value."""
        if self.choices is not None:
            return value in self.choices
        assert self.low is not None
        assert self.high is not None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return abs(steps - round(steps)) < 1e-8

    def __str__(self) -> str:
        if self.choices is not None:
            return ", ".join(map(str, self.choices))
        return f"{self.low:g} to {self.high:g}" + (f" in steps of {self.step:g}" if self.step else "")

    @model_validator(mode="after")
    def _one_form(self) -> "Space":
        if self.choices is not None:
            if len(self.choices) < 2 or not self.model_fields_set <= {"choices", "when"}:
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
    """When a trial that falls behind those it sees is stopped early.

    `halving`: after a `start` share of its epochs, and then each time the epochs have grown by `factor`, a trial
    outside the best 1 / `factor` is stopped (ASHA; Li et al., MLSys 2020). `median`: from a `warm_up` share of its
    epochs on, a trial whose best is below the median of the others at this epoch is stopped, once `startup_trials` of
    them have run to their end (Golovin et al., KDD 2017).
    """

    kind: Literal["halving", "median"] = "halving"
    start: Annotated[float, Range(0.01, 1.0)] | None = None
    factor: Annotated[int, Range(2)] | None = None
    startup_trials: Count | None = None
    warm_up: Annotated[float, Range(0.0, 1.0)] | None = None

    @model_validator(mode="after")
    def _its_own(self) -> "Pruning":
        wanted = {"start", "factor"} if self.kind == "halving" else {"startup_trials", "warm_up"}
        if self.model_fields_set - {"kind"} != wanted:
            raise ValueError(f"{self.kind} takes {' and '.join(sorted(wanted, reverse=True))}, and nothing else")
        return self


class Search(Section):
    """How a search asks for trials; all of them are scored on held-out identities of the training set, with one seed.

    `space`: dotted path to the values it may take; an element of a list is `model.block_plus[0]`. `trials` and
    `gpu_hours`: it asks no more once either is used up, nor when every point has been tried. `objective`: one metric,
    or several objectives, of which the first decides; `step_seconds` is the median time of a training step.
    `startup_trials` are drawn at random, then `tpe`, `gp` (a Gaussian process) or `cmaes` begins. `first`: the point to
    begin with. `lag`: a trial sees the outcomes of those that many numbers before it and earlier, so that `lag` can
    run side by side. `top`: so many of the best are trained on all training identities and tested.
    """

    space: dict[str, Space]
    trials: Count | None = None
    gpu_hours: Annotated[float, Range(1e-6)] | None = None
    objective: Objective | tuple[Objective, ...] = "mAP"
    sampler: Literal["tpe", "random", "grid", "gp", "cmaes"] = "tpe"
    startup_trials: Count = 4
    lag: Count = 1
    pruning: Pruning | None = None
    seed: Annotated[int, Range(0)] = 0
    first: dict[str, Value] = Field(default_factory=dict)
    top: Count = 1

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What is sought, the one that decides first."""
        return self.objective if isinstance(self.objective, tuple) else (self.objective,)

    @model_validator(mode="after")
    def _coherent(self) -> "Search":
        if self.trials is None and self.gpu_hours is None and self.sampler != "grid":
            raise ValueError("give trials, gpu_hours or both; only the sampler grid knows its end")
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ValueError("objective: give at least one, and none twice")
        if self.objectives[0] == SECONDS:
            raise ValueError(f"objective: the first decides and is a metric; {SECONDS} may come after it")
        if self.pruning is not None and len(self.objectives) > 1:
            raise ValueError("pruning judges by one objective, and there are several: leave it out")
        rough = [path for path, space in self.space.items() if space.choices is None and space.step is None]
        if self.sampler == "grid" and rough:
            raise ValueError(f"the sampler grid needs choices or a step for {', '.join(rough)}")
        for problem in (*_no_place_for_cmaes(self), *_bad_conditions(self.space), *_bad_first(self.first, self.space)):
            raise ValueError(problem)
        return self


def asked(space: Space, point: Point) -> bool:
    """Whether a setting is asked for, given those before it."""
    return all(path in point and point[path] in listed(wanted) for path, wanted in space.when.items())


def inner(space: Mapping[str, Space]) -> dict[str, Space]:
    """The space with those conditions alone that are on settings of its own."""
    return {path: own.model_copy(update={"when": _within(own.when, space)}) for path, own in space.items()}


def _within(conditions: Mapping[str, Any], space: Mapping[str, Space]) -> dict[str, Any]:
    return {path: wanted for path, wanted in conditions.items() if path in space}


def listed(wanted: Value | tuple[Value, ...]) -> tuple[Value, ...]:
    """The values of a condition, one or several."""
    return wanted if isinstance(wanted, tuple) else (wanted,)


def _no_place_for_cmaes(search: Search) -> Iterator[str]:
    """It moves a cloud of points through several numbers that are always there, towards one objective."""
    if search.sampler != "cmaes":
        return
    others = [path for path, space in search.space.items() if space.choices is not None or space.when]
    if others:
        yield f"the sampler cmaes takes numbers without conditions alone, not {', '.join(others)}"
    elif len(search.space) < 2 or len(search.objectives) > 1:
        yield "the sampler cmaes needs two settings or more, and one objective"


def _bad_conditions(space: Mapping[str, Space]) -> Iterator[str]:
    """Conditions on a setting of the space that comes too late, or on a value that it never has."""
    order = list(space)
    for path, own in space.items():
        for other in (name for name in own.when if name in space):
            where = f"space.{path}.when"
            if order.index(other) >= order.index(path):
                circle = path == other or path in _behind(other, space)
                yield f"{where}: {other} " + ("waits for it in turn" if circle else f"must come before {path}")
            for value in listed(own.when[other]):
                if not space[other].holds(value):
                    yield f"{where}: {other} is never {value!r}; allowed: {space[other]}"


def _behind(path: str, space: Mapping[str, Space]) -> set[str]:
    """The settings that this one's conditions lead to."""
    found: set[str] = set()
    queue = [path]
    while queue:
        new = {name for name in space[queue.pop()].when if name in space} - found
        found |= new
        queue += new
    return found


def _bad_first(first: Point, space: Mapping[str, Space]) -> Iterator[str]:
    """A first point is complete, and one that the search could ask for."""
    space = inner(space)
    for path in first:
        if path not in space:
            yield f"first.{path} is not in the space{nearest(path, space)}"
        elif not space[path].holds(first[path]):
            yield f"first.{path} is {first[path]!r}; allowed: {space[path]}"
        elif not asked(space[path], first):
            yield f"first.{path} is not asked for there: see its when"
    for path, own in space.items():
        if first and path not in first and asked(own, first):
            yield f"first.{path} is missing; allowed: {own}"


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
        winners = sorted((row for row in self.rows if row.place), key=lambda row: row.place)
        top = self.search.top if self.search else 0
        if [row.place for row in winners] != [*range(1, top + 1)] or any(row.method is None for row in winners):
            more = f"; with top: {top} the others have winner: {', '.join(map(str, range(2, top + 1)))}"
            words = "rows: in a search one row has winner: true and a method; elsewhere none has"
            raise ValueError(words + more * (top > 1))
        if any((row.method, row.variant, row.overrides) != _base(winners[0]) for row in winners):
            raise ValueError("rows: those of a search's best differ in nothing but their place and label")
        if self.transfer and self.search is not None:
            raise ValueError("a search is not scored on other data sets: leave transfer out")
        return self


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
