"""The rows of images.npy while they are made, chunk by chunk, in this process or in several.

This is what the processes that decode import: it stays free of all that they do not need.
"""

import functools
import io
import multiprocessing
import os
import signal
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from reid.data.decode import Fit, Outcome, Source, decode, decoding
from reid.data.journal import Chunk


@dataclass(frozen=True)
class Rows:
    """A .npy file of `count` images of one size (height and width), uint8 RGB, of which some are not there yet.

    Rows are read and written through the file, not a memory map, whose dirty pages would count as memory in use.
    """

    path: Path
    count: int
    size: tuple[int, int]

    @property
    def row_bytes(self) -> int:
        """Bytes of one image."""
        return self.size[0] * self.size[1] * 3

    def prepare(self) -> None:
        """Make the file, or give the one that is there its header and length; rows in it stay."""
        self.path.touch()
        with self.path.open("r+b") as file:
            file.write(_header(self.count, self.size))
            file.truncate(self._offset(self.count))

    @contextmanager
    def at(self, start: int) -> Iterator[BinaryIO]:
        """The file, open for writing where row `start` begins."""
        with self.path.open("r+b") as file:
            file.seek(self._offset(start))
            yield file

    def checksum(self, start: int, count: int) -> int:
        """The CRC-32 of `count` rows from `start` on."""
        with self.path.open("rb") as file:
            file.seek(self._offset(start))
            return zlib.crc32(file.read(count * self.row_bytes))

    def copy(self, kept: Sequence[int], target: Path) -> "Rows":
        """Another file with these rows alone."""
        other = Rows(target, len(kept), self.size)
        with self.path.open("rb") as source, target.open("wb") as file:
            file.write(_header(other.count, other.size))
            for row in kept:
                source.seek(self._offset(row))
                file.write(source.read(self.row_bytes))
        return other

    def _offset(self, row: int) -> int:
        return len(_header(0, self.size)) + row * self.row_bytes


@functools.cache
def _header(count: int, size: tuple[int, int]) -> bytes:
    """The .npy header; NumPy pads it so that its length does not depend on `count`."""
    buffer = io.BytesIO()
    content = {"descr": "|u1", "fortran_order": False, "shape": (count, *size, 3)}
    np.lib.format.write_array_header_1_0(buffer, content)
    return buffer.getvalue()


class Task(NamedTuple):
    """Consecutive images to decode, from row `start` on; `claimed` is what a journal says of them, if anything."""

    start: int
    sources: Sequence[Source]
    claimed: Chunk | None


Work = Callable[[Task], Chunk]
Runner = Callable[[Work, Iterable[Task]], Iterator[Chunk]]


def pack_chunk(rows: Rows, root: Path, fit: Fit, max_pixels: int, task: Task) -> Chunk:
    """Write the images of a task to their rows, zeros for bad ones; nothing is done where they are there already."""
    claimed = task.claimed
    if claimed is not None and claimed.checksum == rows.checksum(task.start, len(task.sources)):
        return claimed
    outcomes: list[Outcome] = []
    checksum = 0
    with decoding(), rows.at(task.start) as file:
        for source in task.sources:
            outcome, pixels = decode(root, source, rows.size, fit=fit, max_pixels=max_pixels)
            outcomes.append(outcome)
            row = pixels or bytes(rows.row_bytes)
            checksum = zlib.crc32(row, checksum)
            file.write(row)
    return Chunk(task.start, checksum, outcomes)


@contextmanager
def runner(workers: int) -> Iterator[Runner]:
    """A `map` whose results come in any order, in this process or over several.

    Processes, because Pillow's decoders hold the interpreter's lock: without a resize two threads were slower than one.
    Spawned, because a fork beside other threads can deadlock.
    """
    if workers == 1:
        yield map
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        yield functools.partial(_as_done, pool, 2 * workers)
    finally:
        pool.shutdown(cancel_futures=True)


def _as_done(pool: ProcessPoolExecutor, at_once: int, work: Work, tasks: Iterable[Task]) -> Iterator[Chunk]:
    """Results as they come, so that a slow chunk keeps no other from the journal; few tasks are handed out ahead."""
    waiting: set[Future[Chunk]] = set()
    for task in tasks:
        waiting.add(pool.submit(work, task))
        if len(waiting) >= at_once:
            yield from _finished(waiting)
    while waiting:
        yield from _finished(waiting)


def _finished(waiting: set[Future[Chunk]]) -> list[Chunk]:
    done = wait(waiting, return_when=FIRST_COMPLETED).done
    waiting -= done
    return [future.result() for future in done]


def _begin() -> None:
    """Leave Ctrl-C to the parent, and end when it ends: a pool's processes would wait for work for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
