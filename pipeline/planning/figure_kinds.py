"""The figures that an experiment may ask for, as data: a swept setting, two of them, a loss by epoch, a comparison."""

import json
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from pipeline.planning.published import PublishedError, PublishedTable
from pipeline.planning.strict import ParamsError, Section, nearest
from reid.config import TrialConfig, flatten, to_dict


class Stated(Section):
    """A setting that a paper names: numbers of the file `published`, by their metrics in it.

    `method`: whose they are; without one, each series' own, by its name. `y`: of a second setting, where there is one.
    """

    published: str
    x: str
    y: str = ""
    method: str = ""

    def point(self, table: PublishedTable, series: str) -> tuple[float, ...]:
        """The numbers, of a series where no method is named; empty where the file has none for that series."""
        method = self.method or series
        if not self.method and all(number.method != method for number in table.numbers):
            return ()
        return tuple(_only(table, method, metric) for metric in (self.x, self.y) if metric)


def _only(table: PublishedTable, method: str, metric: str) -> float:
    found = [number.mean for number in table.numbers if (number.method, number.metric) == (method, metric)]
    if len(found) != 1:
        raise PublishedError(f"{table.file}: {len(found)} numbers for {method!r}, {metric!r}; a figure takes just one")
    return float(found[0])


class Curve(Section):
    """Every metric over one setting, a line for each series of rows, with the interval of the mean over the seeds.

    `x`: the setting's dotted path; a row's place is the value it is trained with. `title`: what that is. `percent`: the
    value times 100 is shown. `best`: what the paper names as the best. `lines`: printed rows, `bdb_table4: Baseline`,
    drawn as levels where the data set is the same.
    """

    kind: Literal["curve"]
    x: str
    title: str
    percent: bool = False
    best: Stated | None = None
    lines: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """The settings that rows differ in."""
        return (self.x,)


class Heat(Section):
    """Every metric over two settings, a cell for each pair; pairs that no row has stay empty."""

    kind: Literal["heat"]
    x: str
    y: str
    x_title: str
    y_title: str
    best: Stated | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """The settings that rows differ in."""
        return (self.x, self.y)


class Epochs(Section):
    """What was recorded in training, by epoch, a line for each row with the interval of the mean over the seeds.

    `recorded`: how its name begins, `probe/id`; of several the mean is drawn. `mark`: an epoch that the paper names.
    """

    kind: Literal["epochs"]
    recorded: str
    title: str
    mark: Stated | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """The settings that rows differ in: none is drawn."""
        return ()


class Comparison(Section):
    """Accuracy against cost, data set against data set, and what the numbers say in words."""

    kind: Literal["comparison"]

    @property
    def paths(self) -> tuple[str, ...]:
        """The settings that rows differ in: none is drawn."""
        return ()


Figure = Annotated[Curve | Heat | Epochs | Comparison, Field(discriminator="kind")]


def check(figure: Figure, config: TrialConfig, *, where: str) -> None:
    """Raise a ParamsError if a row's configuration lacks a number that the figure draws it at."""
    values = dict(flatten(to_dict(config)))
    for path in figure.paths:
        if path not in values:
            raise ParamsError([f"{where}: {path} of {config.method} is unknown{nearest(path, values)}"])
        if isinstance(values[path], bool) or not isinstance(values[path], (int, float)):
            raise ParamsError(
                [f"{where}: {path} is {json.dumps(values[path])} of {config.method}; only numbers have a place"]
            )


def stems(figure: Figure | None) -> list[str]:
    """The published files that a figure takes numbers from."""
    match figure:
        case Curve():
            named = [line.partition(": ")[0] for line in figure.lines]
            return [*([figure.best.published] if figure.best else []), *named]
        case Heat(best=Stated() as stated) | Epochs(mark=Stated() as stated):
            return [stated.published]
    return []


def check_joins(figure: Figure | None, series: list[str], tables: Mapping[str, PublishedTable]) -> None:
    """Raise a PublishedError if a number that the figure names is not there, or not alone."""
    match figure:
        case Curve():
            best = figure.best
            if best and not any(best.point(tables[best.published], name) for name in series):
                raise PublishedError(f"{best.published}.csv names no method of the series: {', '.join(series)}")
            for line in figure.lines:
                stem, _, method = line.partition(": ")
                levels(tables[stem], method)
        case Heat(best=Stated() as stated) | Epochs(mark=Stated() as stated):
            stated.point(tables[stated.published], "")


def levels(table: PublishedTable, method: str) -> None:
    """Raise a PublishedError if a table has no such method."""
    if all(number.method != method for number in table.numbers):
        known = dict.fromkeys(number.method for number in table.numbers)
        raise PublishedError(f"{table.file}: no method {method!r}; it has: {', '.join(known)}")
