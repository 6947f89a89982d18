"""`results/pictures`: what networks have drawn, and `index.json`, which says what of it is shown and in which order."""

from dataclasses import dataclass
from pathlib import Path

import pydantic

from pipeline.drawing.figures import file_stem
from pipeline.exports.results import validated
from reid.visualize.picture import Shown, What

INDEX = "index.json"


@dataclass(frozen=True, kw_only=True)
class Tile:
    """The words under a small image, and for one of a gallery whether it is right."""

    caption: str
    right: bool | None


@dataclass(frozen=True, kw_only=True)
class Strip:
    """What one row has drawn of an image: a file below `results/pictures`, and the width and height of its tiles.

    `average_precision`: of the query, in a ranking list by the row's own protocol.
    """

    row: str
    file: str
    size: list[int]
    tiles: list[Tile]
    average_precision: float | None


@dataclass(frozen=True, kw_only=True)
class Item:
    """An image that is shown: its number among the queries, or of a training identity, and its AP by the first row."""

    number: int
    average_precision: float | None
    strips: list[Strip]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """What an experiment shows of a data set: `items` out of as many as were `drawn`, in the order of the AP of row
    `by`, if there is one; `missing`: rows that have drawn nothing, and why."""

    dataset: str
    title: str
    shown: Shown
    by: str
    drawn: int
    items: list[Item]
    missing: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Album:
    """All pictures of an experiment."""

    name: str
    title: str
    note: str
    what: What
    sheets: list[Sheet]

    @property
    def stem(self) -> str:
        """The start of its files' names, and its place in the page."""
        return file_stem(self.name)


def read(folder: Path) -> list[Album]:
    """Read the index of the pictures.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a field lacks or has a wrong type; the message names its path.
    """
    return validated(pydantic.TypeAdapter(list[Album]), folder / INDEX)
