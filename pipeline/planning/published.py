"""The numbers the papers print, and the join of one row, data set and metric to its printed number.

The files lie in `reports/published`, one row per printed number; their README says what is uncertain in them. A join
that finds nothing, or two numbers, is an error: a table never shows a guess.
"""

import csv
import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

_COLUMNS = (
    "paper",
    "table",
    "dataset",
    "protocol",
    "method",
    "reference",
    "variant_flags",
    "metric",
    "mean",
    "std",
    "note",
)


STATISTICS = "dataset statistics"  # in the place of a method


class PublishedError(ValueError):
    """A published file that cannot be read, or a join to it that is not exactly one number."""


@dataclass(frozen=True, kw_only=True)
class Printed:
    """One printed number: `mean` and `std` are the characters of the paper, in percent. It is in `line` of `file`."""

    file: str
    line: int
    dataset: str
    protocol: str
    method: str
    reference: str
    metric: str
    mean: str
    std: str
    note: str

    @property
    def doubtful(self) -> bool:
        """Whether the files' notes say that this number may not be what the paper means."""
        return "doubtful" in self.note


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """One table of a paper, or several read as one.

    `sources`: paper and table of each, `BDB, Table 1`. `dashes`: the methods whose table prints dashes.

    A data set is asked for by its name, or, where the table prints several protocols of it, by name and some words of
    the protocol: `CUHK03-NP: detected`, `VehicleID: small`.
    """

    file: str
    sources: tuple[str, ...]
    numbers: tuple[Printed, ...]
    dashes: frozenset[str]

    def find(self, *, method: str, dataset: str, metric: str) -> Printed | None:
        """The number a paper prints for a method, or None where it prints a dash.

        Raises:
            PublishedError: the table has no such method or data set, prints no dash where the number is lacking, or
                prints two numbers that fit; the message says which names it has.
        """
        of_method = [number for number in self.numbers if number.method == method]
        if not of_method:
            raise PublishedError(self._unknown("method", method, (number.method for number in self.numbers)))
        self._on(self.numbers, dataset)
        found = [number for number in _selected(of_method, dataset) if number.metric == metric]
        if len(found) > 1:
            raise PublishedError(self._ambiguous(found, dataset))
        if not found and method not in self.dashes:
            raise PublishedError(
                f"{self.file}: {method!r} has no {metric} on {dataset!r}, "
                "and by index.csv the paper prints no dash in this table"
            )
        return found[0] if found else None

    def count(self, *, dataset: str, metric: str) -> Printed | None:
        """The number a paper prints of a data set itself, in a table or in its prose; None where it prints none.

        Raises:
            PublishedError: the table says nothing of that data set, or two numbers fit.
        """
        of_data = [number for number in self.numbers if number.method == STATISTICS]
        if not any(number.dataset == dataset.partition(": ")[0] for number in of_data):
            names = (number.dataset for number in of_data)
            raise PublishedError(self._unknown("statistics of a data set", dataset, names))
        found = [number for number in _selected(of_data, dataset) if number.metric == metric]
        if len(found) > 1:
            raise PublishedError(self._ambiguous(found, dataset))
        return found[0] if found else None

    def metrics(self, dataset: str) -> tuple[str, ...]:
        """The metrics the table prints for a data set, in the order of the file.

        Raises:
            PublishedError: the table has no such data set.
        """
        return tuple(dict.fromkeys(number.metric for number in self._on(self.numbers, dataset)))

    def protocols(self, dataset: str) -> tuple[str, ...]:
        """The protocols the table names for a data set, in its own words."""
        return tuple(dict.fromkeys(number.protocol for number in self._on(self.numbers, dataset)))

    def reference(self, method: str) -> str:
        """The paper's citation tag of a method, or an empty text."""
        return next((number.reference for number in self.numbers if number.method == method), "")

    def _on(self, numbers: Iterable[Printed], dataset: str) -> list[Printed]:
        found = _selected(numbers, dataset)
        if not found:
            raise PublishedError(self._unknown("data set", dataset, (number.dataset for number in self.numbers)))
        return found

    def _unknown(self, what: str, name: str, known: Iterable[str]) -> str:
        names = list(dict.fromkeys(known))
        close = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return f"{self.file}: no {what} {name!r}.{hint} It has: {', '.join(names)}"

    def _ambiguous(self, found: list[Printed], dataset: str) -> str:
        first = found[0]
        choices = "; ".join(f"{number.mean} ({number.protocol})" for number in found)
        name, _, _ = dataset.partition(": ")
        return (
            f"{self.file}: {first.method!r} has {len(found)} numbers for {first.metric} on {dataset!r}: {choices}. "
            f"Name one by words of its protocol, as in {name + ': ' + first.protocol.split()[-1]!r}"
        )


def load(folder: Path, stem: str) -> PublishedTable:
    """Read `<folder>/<stem>.csv`; of several stems, `bdb_table1+han_tableii`, all as one table.

    There a method's name begins with its table's, `han_tableii: Ours`, and its reference names the paper and table.

    Raises:
        PublishedError: there is no such file, its columns are others, or a number is no number.
    """
    stems = stem.split("+")
    tables = [_load(folder, item) for item in stems]
    return tables[0] if len(tables) == 1 else _together(stems, tables)


def _load(folder: Path, stem: str) -> PublishedTable:
    path = folder / f"{stem}.csv"
    if not path.is_file():
        known = [other.stem for other in sorted(folder.glob("*.csv")) if other.stem != "index"]
        close = difflib.get_close_matches(stem, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise PublishedError(f"no published table {path}.{hint}")
    rows = _read(path)
    numbers = tuple(_printed(path, line, row) for line, row in enumerate(rows, start=2))
    if not numbers:
        raise PublishedError(f"{path}: no rows")
    return PublishedTable(
        file=path.name,
        sources=(f"{rows[0]['paper']}, {rows[0]['table']}",),
        numbers=numbers,
        dashes=frozenset(row["method"] for row in rows) if _dashes(folder, path.name) else frozenset(),
    )


def _together(stems: Sequence[str], tables: Sequence[PublishedTable]) -> PublishedTable:
    named = list(zip(stems, tables, strict=True))
    return PublishedTable(
        file="+".join(table.file for table in tables),
        sources=tuple(source for table in tables for source in table.sources),
        numbers=tuple(
            replace(number, method=f"{stem}: {number.method}", reference=table.sources[0])
            for stem, table in named
            for number in table.numbers
        ),
        dashes=frozenset(f"{stem}: {method}" for stem, table in named for method in table.dashes),
    )


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != _COLUMNS:
            raise PublishedError(f"{path}: the columns are {reader.fieldnames}, expected {', '.join(_COLUMNS)}")
        return list(reader)


def _printed(path: Path, line: int, row: dict[str, str]) -> Printed:
    for column in ("mean", "std"):
        if (column == "mean" or row[column]) and not _is_number(row[column]):
            raise PublishedError(f"{path}, line {line}: {column} is {row[column]!r}, expected a number")
    fields = ("dataset", "protocol", "method", "reference", "metric", "mean", "std", "note")
    return Printed(file=path.name, line=line, **{name: row[name] for name in fields})


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).removeprefix("-").isdigit()


def _dashes(folder: Path, file: str) -> int:
    index = folder / "index.csv"
    with index.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            if row["file"] == file:
                return int(row["dash_cells_omitted"])
    raise PublishedError(f"{index}: no line for {file}; add one, with its count of dash cells left out")


def _selected(numbers: Iterable[Printed], dataset: str) -> list[Printed]:
    name, _, words = dataset.partition(": ")
    return [number for number in numbers if number.dataset == name and words in number.protocol]
