"""The journal of a packing: which chunks of rows are decoded, what became of their images, and a checksum of the rows.

One line a chunk, appended when its rows are written. What a kill or a power cut tears is not believed: neither a line,
which starts with the checksum of the rest, nor rows that have not the checksum in their line.
"""

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from reid.data.decode import Outcome


class Chunk(NamedTuple):
    """Consecutive images: the row of the first, the CRC-32 of the rows, what became of each."""

    start: int
    checksum: int
    outcomes: list[Outcome]


def work_of(path: Path) -> str:
    """The work that a journal was written for, as given to `start`; empty if there is none."""
    return str(next(_records(path), ""))


def start(path: Path, work: str) -> None:
    """Begin an empty journal for a piece of work, which is said in one line."""
    with path.open("wb") as file:
        _append(file, work)


def read(path: Path) -> dict[int, Chunk]:
    """The chunks of a journal by their first row; of several lines for one, the last."""
    records = _records(path)
    next(records, None)
    chunks = (Chunk(start, checksum, [Outcome(*one) for one in outcomes]) for start, checksum, outcomes in records)
    return {chunk.start: chunk for chunk in chunks}


def append(file: BinaryIO, chunk: Chunk) -> None:
    """Add a line to a journal that is open for appending; it is there whatever becomes of this process."""
    _append(file, chunk)


def _append(file: BinaryIO, record: Any) -> None:
    """A line starts, not ends, with the newline, so that one that is torn does not take the next with it."""
    body = json.dumps(record, separators=(",", ":")).encode()
    file.write(b"\n%08x %s" % (zlib.crc32(body), body))
    file.flush()


def _records(path: Path) -> Iterator[Any]:
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            checksum, _, body = line.rstrip(b"\n").partition(b" ")
            if checksum == b"%08x" % zlib.crc32(body):
                yield json.loads(body)
