"""CUHK03 as its authors hand it out: cuhk-03.mat, with all images inside, becomes a folder that `cuhk03` reads.

The file is of MATLAB's version 7.3, which is HDF5. `detected` and `labeled` are cells with one cell for each pair of
cameras, and that has one for each person and number: 1 to 5 are images of the pair's first camera, 6 to 10 of its
second, and those that there are not are empty. MATLAB's arrays are transposed in HDF5: an image is [3, width, height].

Such a file may be damaged, or made to do harm. The HDF5 library reads its structure; beyond that, no other file is
opened for it, no filter is loaded, and nothing is allocated before its size has been looked at.
"""

import itertools
import math
import os
import shutil
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from reid.data import archives, cuhk03
from reid.data.archives import FREE_BYTES, ArchiveError, Limits, Progress
from reid.data.archives import _workplace as workplace
from reid.data.cuhk03 import Boxes

ARCHIVES = ("cuhk03_release", "cuhk03/cuhk03_release")  # names, without their endings, of what cuhk-03.mat comes in

_PAIRS, _NUMBERS = 5, 10
_MOST_PERSONS = 999  # of a pair: names of images have three digits for them
_MOST_CELL_BYTES = 1 << 17  # of all references of a pair, which are eight bytes each
_MOST_PIXELS = 4_000_000  # of an image; the real ones have some ten thousand
_DEFLATE, _SHUFFLE = 1, 2  # HDF5's numbers of the filters that MATLAB uses; to shuffle single bytes changes nothing
_SLACK = 1 << 10  # what DEFLATE may add to bytes that do not shrink, and more


def find(root: Path) -> Path | None:
    """What `extract` takes, under `root`: cuhk-03.mat, or else an archive of the name that it is handed out in."""
    return cuhk03.find_raw(root) or archives.find_archive(root, ARCHIVES)


def extract(source: Path, destination: Path, *, root: Path, boxes: Boxes, limits: Limits, progress: Progress) -> None:
    """Write the images that the new protocol names, and a copy of its file, to a new folder: all or nothing.

    The folder appears when everything is in it; until then the files lie in a hidden folder beside it. What a killed
    process left there is removed at the next try. Where the destination holds all files already, nothing is written.

    Args:
        source: cuhk-03.mat, or an archive that holds it.
        destination: missing, empty, or extracted before.
        root: where the protocol's file is looked for as well, if it is not with the source.
        boxes: which of the images.
        limits: how much an archive may hold, and how much the images may become.
        progress: called with the images written and their number; before that, of an archive, with MB.

    Raises:
        ArchiveError: the source is damaged, not safe, or lacks an image; there is no protocol's file; the destination
            holds something else or cannot be written; another process is extracting there; or h5py is not installed.
        ValueError: the protocol's file is not what it should be.
    """
    try:
        with workplace(destination) as content:
            if destination.is_dir() and any(destination.iterdir()):
                _compare(source, destination, _protocol(source, root, boxes), boxes)
                return
            raw = source
            if source.suffix != ".mat":
                raw = _from_archive(source, content / "archive", limits, progress)
            protocol = _protocol(raw, root, boxes)
            if protocol is None:
                raise _lacks_protocol(source, boxes)
            _write(raw, protocol, content / "set", boxes, limits, progress)
            os.sync()  # so that after a power cut, too, a folder that is there is whole
            (content / "set").rename(destination)
    except OSError as error:  # of writing: those of reading are an ArchiveError already
        raise ArchiveError(
            f"{source}: cannot be extracted to {destination} ({error}); nothing was extracted: mend that or "
            f"name another folder"
        ) from error


def _from_archive(archive: Path, folder: Path, limits: Limits, progress: Progress) -> Path:
    archives.extract(archive, folder, limits=limits, progress=progress)
    raw = cuhk03.find_raw(folder)
    if raw is None:
        raise ArchiveError(
            f"{archive}: holds no cuhk-03.mat; nothing was extracted: unpack it yourself and look inside"
        )
    return raw


def _protocol(raw: Path, root: Path, boxes: Boxes) -> Path | None:
    """The protocol's file: it comes from elsewhere, so that people put it beside cuhk-03.mat or its folder."""
    beside = [raw.parent, *([raw.parent.parent] if raw.parent.name == "cuhk03_release" else [])]
    paths = [folder / cuhk03.protocol_name(boxes) for folder in (*beside, *(root / home for home in cuhk03.HOMES))]
    return next((path for path in paths if path.is_file()), None)


def _lacks_protocol(source: Path, boxes: Boxes) -> ArchiveError:
    home = source.parent.parent if source.parent.name == "cuhk03_release" else source.parent
    return ArchiveError(
        f"{source}: which images train and which are the test is not in it; put the new protocol's file at "
        f"{home / cuhk03.protocol_name(boxes)} (it is in the repository of the paper, Zhong et al., CVPR 2017)"
    )


def _compare(source: Path, destination: Path, protocol: Path | None, boxes: Boxes) -> None:
    """See that a folder that is there already has what would be written."""
    copy, images = destination / cuhk03.protocol_name(boxes), destination / f"images_{boxes}"
    lacking = copy.name
    if copy.is_file() and (protocol is None or copy.read_bytes() == protocol.read_bytes()):
        present = set(os.listdir(images)) if images.is_dir() else set()
        names = sorted({image.name for image in cuhk03.listed(copy)} - present)
        lacking = f"{images.name}/{names[0]}" if names else ""
    if lacking:
        raise ArchiveError(
            f"{source}: {destination} is there already, but without its {lacking}; move that folder away, then try "
            f"again"
        )


def _write(raw: Path, protocol: Path, folder: Path, boxes: Boxes, limits: Limits, progress: Progress) -> None:
    images = folder / f"images_{boxes}"
    images.mkdir(parents=True)
    shutil.copyfile(protocol, folder / protocol.name)
    names = {image.name for image in cuhk03.listed(protocol)}
    for done, (name, pixels) in enumerate(_images(raw, boxes, names, limits), start=1):
        Image.fromarray(pixels).save(images / name)
        progress(done, len(names))


def _images(
    raw: Path, boxes: Boxes, names: Collection[str], limits: Limits
) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """The images by name, [height, width, 3] each."""
    library = _library(raw)
    allowed = min(limits.gigabytes * 2**30, max(FREE_BYTES, limits.ratio * raw.stat().st_size))
    total = 0
    with _damage(raw, "it is not a whole MATLAB 7.3 (HDF5) file"):
        file = library.File(raw, "r", locking=False)  # many network disks have no locks, and it is not changed
    with file:
        mat = _Mat(library, file, boxes)
        with _damage(raw, f"its variable {boxes}"):
            cells = mat.cells()
        for name in sorted(names):
            with _damage(raw, name):
                pixels = mat.image(cells, name)
                total += pixels.nbytes
                if total > allowed:
                    raise ValueError(
                        f"it brings the images to {total:,} bytes, more than prepare.archives.gigabytes and "
                        f"prepare.archives.ratio allow"
                    )
            yield name, pixels


def _library(raw: Path) -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise ArchiveError(
            f"{raw}: h5py, which reads it, is not installed; `pip install h5py`, or use the folders of CUHK03-NP"
        ) from error
    module: ModuleType = h5py
    return module


@contextmanager
def _damage(raw: Path, what: str) -> Iterator[None]:
    """Whatever HDF5 raises on damaged bytes, which may be anything, becomes one line; so do faults found here."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ArchiveError(
            f"{raw}: {what}: {reason}; nothing was extracted: get cuhk-03.mat and the protocol's file from their "
            f"sources again"
        ) from error


@dataclass(frozen=True)
class _Mat:
    """An open cuhk-03.mat; `library` is h5py."""

    library: ModuleType
    file: Any
    boxes: Boxes

    def cells(self) -> list[npt.NDArray[np.object_]]:
        """References to the images of each pair of cameras: [10, P]."""
        link = self.file.get(self.boxes, getlink=True)
        if not isinstance(link, self.library.HardLink):  # other links may lead to other files
            raise ValueError(f"there is none; it has: {', '.join(map(repr, itertools.islice(self.file, 10)))}")
        pairs = self._references(self.file[self.boxes], self.boxes)
        if pairs.size != _PAIRS:
            raise ValueError(f"{self.boxes} has {pairs.size} cells, {_PAIRS} are expected")
        whats = [f"{self.boxes}{{{number}}}" for number in range(1, _PAIRS + 1)]
        cells = [self._references(self.file[pair], what) for pair, what in zip(pairs.flat, whats, strict=True)]
        for cell, what in zip(cells, whats, strict=True):
            if cell.shape[0] != _NUMBERS:
                raise ValueError(f"{what} is {cell.shape}, ({_NUMBERS}, persons) is expected")
        return cells

    def image(self, cells: list[npt.NDArray[np.object_]], name: str) -> npt.NDArray[np.uint8]:
        """The image of a name such as 1_001_2_06.png: pair, person, camera, number."""
        pair, person, camera, number = (int(part) for part in Path(name).stem.split("_"))
        what = f"{self.boxes}{{{pair}}}{{{person},{number}}}"
        if not (1 <= pair <= _PAIRS and 1 <= person <= cells[pair - 1].shape[1] and 1 <= number <= _NUMBERS):
            raise ValueError(f"there is no cell {what}")
        if camera != 1 + (number > _NUMBERS // 2):
            raise ValueError(f"number {number} is not of camera {camera}")
        found = self.file[cells[pair - 1][number - 1, person - 1]]
        if not isinstance(found, self.library.Dataset) or found.ndim != 3:
            raise ValueError(f"{what} is empty, or no image")
        if found.dtype != np.uint8 or found.shape[0] != 3 or not found.size:
            raise ValueError(f"{what} is {found.dtype} {found.shape}, uint8 (3, width, height) is expected")
        if found.size > 3 * _MOST_PIXELS:
            raise ValueError(f"{what} has {found.size // 3:,} pixels, more than the {_MOST_PIXELS:,} that are read")
        self._check_storage(found, what, most=3 * _MOST_PIXELS)
        return np.ascontiguousarray(_pixels(found).transpose(2, 1, 0))

    def _references(self, found: Any, what: str) -> npt.NDArray[np.object_]:
        h5py = self.library
        is_cell = isinstance(found, h5py.Dataset) and h5py.check_ref_dtype(found.dtype) is h5py.Reference
        if not is_cell or found.ndim != 2:
            raise ValueError(f"{what} is no cell array of two dimensions")
        if max(found.shape) > _MOST_PERSONS:
            raise ValueError(f"{what} is {found.shape}, at most {_MOST_PERSONS} persons are read")
        self._check_storage(found, what, most=_MOST_CELL_BYTES)
        if found.id.get_storage_size() > _MOST_CELL_BYTES:
            raise ValueError(f"{what} takes {found.id.get_storage_size():,} bytes, more than references do")
        references: npt.NDArray[np.object_] = found[()]
        return references

    def _check_storage(self, stored: Any, what: str, *, most: int) -> None:
        """Refuse what would have other files opened, libraries loaded, or more than `most` bytes allocated at once."""
        plan = stored.id.get_create_plist()
        if plan.get_external_count() or plan.get_layout() == self.library.h5d.VIRTUAL:
            raise ValueError(f"{what} lies in another file")
        unknown = set(_filters(stored)) - {_DEFLATE, _SHUFFLE}
        if unknown:
            raise ValueError(f"{what} is packed in a way that MATLAB does not use (filter {min(unknown)})")
        if math.prod(stored.chunks or ()) * stored.dtype.itemsize > most:
            raise ValueError(f"{what} is stored in pieces of {stored.chunks}, more than are read")


def _filters(stored: Any) -> list[int]:
    plan = stored.id.get_create_plist()
    return [int(plan.get_filter(number)[0]) for number in range(plan.get_nfilters())]


def _pixels(stored: Any) -> npt.NDArray[np.uint8]:
    """An array of bytes. Chunks are inflated here: HDF5 itself would let one grow without limit."""
    if stored.chunks is None:
        if stored.id.get_storage_size() != stored.size:
            raise ValueError("it is not whole")
        whole: npt.NDArray[np.uint8] = stored[()]
        return whole
    pixels = np.empty(stored.shape, np.uint8)
    filters = _filters(stored)
    for corner in itertools.product(*map(range, itertools.repeat(0), stored.shape, stored.chunks)):
        part = np.frombuffer(_chunk(stored, corner, filters), np.uint8).reshape(stored.chunks)
        target = pixels[tuple(slice(at, at + size) for at, size in zip(corner, stored.chunks, strict=True))]
        target[...] = part[tuple(map(slice, target.shape))]
    return pixels


def _chunk(stored: Any, corner: tuple[int, ...], filters: list[int]) -> bytes:
    size = math.prod(stored.chunks)
    info = stored.id.get_chunk_info_by_coord(corner)
    if info.byte_offset is None or info.size > size + _SLACK:
        raise ValueError(f"its piece at {corner} is not there, or too large")
    skipped, packed = stored.id.read_direct_chunk(corner)
    content: bytes = packed
    if _DEFLATE in filters and not skipped >> filters.index(_DEFLATE) & 1:
        content = _inflate(content, size)
    if len(content) != size:
        raise ValueError(f"its piece at {corner} has {len(content)} bytes, {size} are expected")
    return content


def _inflate(packed: bytes, size: int) -> bytes:
    stream = zlib.decompressobj()
    content = stream.decompress(packed, size + 1)
    if not stream.eof:
        raise ValueError("it ends early, or is larger than declared")
    return content
