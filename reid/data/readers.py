"""The data sets that can be read, by key. Not imported by a trial, so that a new reader re-trains nothing.

A reader is a file with `DISPLAY_NAME`, `EXPECTED` (counts of the real set, by split) and `read(root)`, and one line
in the table below.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from reid.data import market1501
from reid.data.manifest import Expected, Record


@dataclass(frozen=True)
class Reader:
    """How one data set's own folder layout becomes records.

    `read` takes the folder that holds the data set and returns its records, with paths relative to that folder.
    `expected` has the counts of the real set by split; where a folder differs, that is worth a warning.
    """

    display_name: str
    read: Callable[[Path], list[Record]]
    expected: Mapping[str, Expected]


_READERS = {
    "market1501": Reader(market1501.DISPLAY_NAME, market1501.read, market1501.EXPECTED),
    "synthetic": Reader("Embedded set", market1501.read, {}),
}


def readers() -> dict[str, str]:
    """Display name of every data set that can be read, by key."""
    return {key: reader.display_name for key, reader in _READERS.items()}


def reader(key: str) -> Reader:
    """The reader of a data set.

    Raises:
        ValueError: there is no such reader; the message names those there are.
    """
    if key not in _READERS:
        close = difflib.get_close_matches(key, _READERS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no reader for data set {key!r}, there are: {', '.join(_READERS)}{hint}")
    return _READERS[key]
