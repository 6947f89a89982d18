"""Packing: decode every image of a data set once, fully, into one uint8 array.

Training then reads rows of a memory map instead of decoding JPEG files, at about ten times the speed. A packing that
was killed goes on where it was: until images.npy is there, its rows and their journal lie in a hidden folder beside it.
"""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import PIL

from reid.data import journal, lock
from reid.data import manifest as manifests
from reid.data.decode import Fit, Outcome, Source, decode, decoding, state_of
from reid.data.journal import Chunk
from reid.data.manifest import Record, atomically
from reid.data.readers import reader
from reid.data.rows import Rows, Task, pack_chunk, runner

MAX_PIXELS = 50_000_000  # nearly every camera takes fewer, and to decode them takes 0.2 GB

_FORMAT = 2  # of the journal and the rows: to be raised when the same images would be packed otherwise
_CHUNK = 32  # images to a task, and at most as many are decoded again after a kill, for each process
_IMAGES_PER_PROCESS = 4096  # another process takes about as long to start as one needs to decode these
_FEW = 32

Progress = Callable[[int, int], None]


class BadImagesError(ValueError):
    """Some images cannot be packed; the message lists every one with its reason."""


class PackingError(ValueError):
    """Packing could not go on; one line says where, why and what to do. What is decoded is kept for the next try."""


@dataclass(frozen=True, kw_only=True)
class PackInfo:
    """What info.json says of a packed data set.

    `shape` is that of images.npy; `fit` says how images were brought to it, and `resized` is whether that took
    anything, or all were of this size. `counts` has images, identities (above 0) and cameras by split, `skipped` the
    path, the box as the manifest has it, and the reason of every image that was left out.
    """

    dataset: str
    name: str
    digest: str
    shape: tuple[int, ...]
    fit: Fit
    resized: bool
    counts: dict[str, dict[str, int]]
    warnings: tuple[str, ...]
    skipped: tuple[dict[str, str], ...]

    @classmethod
    def load(cls, folder: Path) -> "PackInfo":
        """That of the packed data set in `folder`."""
        content = json.loads((folder / "info.json").read_text())
        lists = {name: tuple(value) for name, value in content.items() if isinstance(value, list)}
        return cls(**content | lists)

    def fault(self, image_size: tuple[int, int]) -> str:
        """Why a trial that asks for images of this height and width would not get what was packed; empty if it would.

        To stretch twice is to stretch once. Images that were padded to keep their shape would lose it.
        """
        height, width = self.shape[1:3]
        if self.fit == "stretch" or image_size[0] * width == image_size[1] * height:
            return ""
        return (
            f"recipe.image_size is {image_size[0]} x {image_size[1]}, and the images of {self.dataset} are padded to "
            f"{height} x {width}, so that they would lose their shape; set recipe.image_size to that or a like one, or "
            f"prepare.by_dataset.{self.dataset} to another size, or its fit to stretch"
        )

    def warning(self, image_size: tuple[int, int]) -> str:
        """What to say of a trial that asks for larger images, where the sources were scaled; empty if it does not."""
        height, width = self.shape[1:3]
        if not self.resized or (image_size[0] <= height and image_size[1] <= width):
            return ""
        return (
            f"recipe.image_size is {image_size[0]} x {image_size[1]}, and the images of {self.dataset} are packed at "
            f"{height} x {width}: they are enlarged; to keep more of them, set prepare.by_dataset.{self.dataset}"
        )


def pack(  # noqa: PLR0913 - each is a setting of its own
    root: Path,
    records: Iterable[Record],
    folder: Path,
    *,
    image_size: tuple[int, int],
    fit: Fit = "stretch",
    workers: int,
    max_pixels: int = MAX_PIXELS,
    skip_bad: bool = False,
    progress: Progress = lambda done, total: None,
) -> PackInfo:
    """Decode all images and write manifest.parquet, images.npy and info.json to `folder`, all or none of them.

    Where all good sources have one size and it is not larger than `image_size`, the images are packed at that size (it
    is faster to resize a small batch than to read a large one), otherwise resized to `image_size`; with `fit` "pad" it
    is always that. What becomes of odd images, and of boxes, is said in `reid.data.decode`.

    After a kill, a full disk or bad images, what is decoded stays in `folder`/.packing. The next call decodes what is
    missing there, has changed since (by its size and time) or is damaged, and the result is the same, bit for bit. All
    is decoded anew for other paths, another size or limit, or another version of Pillow.

    Args:
        root: what the records' paths are relative to.
        records: what a reader found.
        folder: `data/<dataset>`; its name is the data set's key.
        image_size: height and width, in pixels.
        fit: how images are brought to that size.
        workers: processes that decode, at most: a small set is faster done in this one.
        max_pixels: an image with more is bad: it is refused before it is decoded.
        skip_bad: leave bad files out and record them, instead of failing.
        progress: called with the number of images done and the number in all; it starts at what an earlier call did.

    Raises:
        BadImagesError: files are truncated, of another format, too large or unreadable.
        PackingError: `folder` cannot be written, or another process is packing there.
        ValueError: an identity is in both train and test, or no image is left.
    """
    reader(folder.name)  # there is one, or nothing is begun
    table = manifests.tabulate(records)
    sources = [Source(path, manifests.box_of(box)) for path, box in zip(table["path"], table["box"], strict=True)]
    with _workplace(folder) as place:
        images = _Images(place, root, sources, fit, max_pixels)
        rows, outcomes = _decoded(images, image_size, workers=workers, progress=progress)
        good = pd.Series([not outcome.fault for outcome in outcomes], dtype="bool")
        table = table.assign(sha256=[outcome.sha256 for outcome in outcomes])
        skipped = _skipped(table[~good], outcomes)
        _check_bad(root, skipped, total=len(table), skip_bad=skip_bad)
        kept = table[good].reset_index(drop=True)
        info = _info(images, outcomes, dataset=folder.name, manifest=kept, size=rows.size, skipped=skipped)
        _publish(folder, _without_gaps(rows, outcomes), kept, info)
        images.remove()
    return info


def _skipped(bad: pd.DataFrame, outcomes: Iterable[Outcome]) -> tuple[dict[str, str], ...]:
    reasons = [outcome.fault for outcome in outcomes if outcome.fault]
    columns = zip(bad["path"], bad["box"], reasons, strict=True)
    return tuple({"path": path, "box": box, "reason": reason} for path, box, reason in columns)


def _info(
    images: "_Images",
    outcomes: Sequence[Outcome],
    *,
    dataset: str,
    manifest: pd.DataFrame,
    size: tuple[int, int],
    skipped: tuple[dict[str, str], ...],
) -> PackInfo:
    source, shape = reader(dataset), (len(manifest), *size, 3)
    warnings = [
        *manifests.count_warnings(manifest, source.expected),
        *manifests.duplicate_warnings(manifest),
        *_changes(images.sources, outcomes),
    ]
    return PackInfo(
        dataset=dataset,
        name=source.display_name,
        digest=manifests.digest(manifest, shape, fit=images.fit),
        shape=shape,
        fit=images.fit,
        resized=_sizes(outcomes) != {size},
        counts=manifests.counts(manifest),
        warnings=tuple(warnings),
        skipped=skipped,
    )


def _changes(sources: Iterable[Source], outcomes: Sequence[Outcome]) -> Iterator[str]:
    """What other toolboxes may not do to images: a difference from published numbers should be seen."""
    if turned := sum(outcome.turned for outcome in outcomes):
        yield f"{turned} images were turned upright, as their EXIF data say"
    boxes = [(one.box, outcome) for one, outcome in zip(sources, outcomes, strict=True) if not outcome.fault]
    cut = sum(box is not None and (one.height, one.width) != (box[3] - box[1], box[2] - box[0]) for box, one in boxes)
    if cut:
        yield f"{cut} boxes reach beyond their images and were cut at the border"


def named(image: Mapping[str, str]) -> str:
    """How to call an image of which `path` and `box` are known, as in a manifest's row."""
    return f"{image['path']} [{image['box']}]" if image["box"] else image["path"]


def _check_bad(root: Path, bad: Sequence[Mapping[str, str]], *, total: int, skip_bad: bool) -> None:
    listed = "".join(f"\n  {named(one)}: {one['reason']}" for one in bad)
    if len(bad) == total:
        raise BadImagesError(f"none of the {total} images under {root} can be packed:{listed}")
    if bad and not skip_bad:
        raise BadImagesError(
            f"{len(bad)} of {total} images under {root} cannot be packed; mend or remove them, or set prepare.skip_bad "
            f"to go on without them:{listed}"
        )


@contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """The hidden folder for what is not finished, at which this process is alone; the rest stays there for next time.

    What cannot be read of the sources is among the bad images, so that an error of the system is one of writing.
    """
    place = folder / ".packing"
    try:
        with _locked(place):
            yield place
    except BlockingIOError as error:
        raise PackingError(f"{folder}: another process is packing there; wait for it to end") from error
    except BrokenProcessPool as error:
        raise PackingError(
            f"{folder}: a process that decodes has died, of too little memory perhaps; set fewer prepare.workers and "
            f"try again, which goes on from here"
        ) from error
    except OSError as error:
        raise PackingError(
            f"{folder}: cannot be written ({error.strerror or error}); mend that, such as by making room, and try "
            f"again, which goes on from here"
        ) from error


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    file = place / "lock"
    descriptor = lock.take(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        with suppress(OSError):  # it holds what is decoded
            place.rmdir()
        os.close(descriptor)


@dataclass(frozen=True)
class _Images:
    """The images to decode, and where that is done."""

    place: Path
    root: Path
    sources: Sequence[Source]
    fit: Fit
    max_pixels: int

    @property
    def journal(self) -> Path:
        return self.place / "journal"

    def rows(self, size: tuple[int, int]) -> Rows:
        return Rows(self.place / "rows", len(self.sources), size)

    def work(self, size: tuple[int, int]) -> str:
        """What the rows are, but for the content of the files: rows of other work are not of use."""
        names = "\0".join(f"{source.path}\0{source.box}" for source in self.sources)
        work = {
            "format": _FORMAT,
            "chunk": _CHUNK,
            "pillow": PIL.__version__,
            "root": str(self.root.resolve()),
            "sources": hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest(),
            "size": size,
            "fit": self.fit,
            "max_pixels": self.max_pixels,
        }
        return json.dumps(work)

    def packed_size(self, outcomes: Iterable[Outcome], limit: tuple[int, int]) -> tuple[int, int]:
        """The size to pack at, if these became of the images: that of all good ones, if it is one within the limit."""
        sizes = _sizes(outcomes)
        common = min(sizes, default=limit)
        kept = self.fit == "stretch" and len(sizes) == 1 and common[0] <= limit[0] and common[1] <= limit[1]
        return common if kept else limit

    def remove(self) -> None:
        """Remove all that was made here, but not the lock: it goes last."""
        for name in ("journal", "rows", "kept"):
            (self.place / name).unlink(missing_ok=True)


def _decoded(
    images: _Images, image_size: tuple[int, int], *, workers: int, progress: Progress
) -> tuple[Rows, list[Outcome]]:
    """All rows and what became of each image; anew if only the images themselves show at which size to pack."""
    begun = journal.work_of(images.journal) == images.work(image_size)
    size = image_size if begun else _likely_size(images, image_size)
    while True:
        outcomes = _attempt(images, size, limit=image_size, workers=workers, progress=progress)
        right = image_size if outcomes is None else images.packed_size(outcomes, image_size)
        if outcomes is not None and right == size:
            return images.rows(size), outcomes
        size = right


def _likely_size(images: _Images, limit: tuple[int, int]) -> tuple[int, int]:
    """The size to pack at, if a few images are like the rest."""
    few = images.sources[:: 1 + len(images.sources) // _FEW]
    with decoding():
        outcomes = [decode(images.root, one, limit, fit=images.fit, max_pixels=images.max_pixels)[0] for one in few]
    return images.packed_size(outcomes, limit)


def _sizes(outcomes: Iterable[Outcome]) -> set[tuple[int, int]]:
    return {(outcome.height, outcome.width) for outcome in outcomes if not outcome.fault}


def _attempt(
    images: _Images, size: tuple[int, int], *, limit: tuple[int, int], workers: int, progress: Progress
) -> list[Outcome] | None:
    """Write all rows at a size: what became of each image, or None once one shows that there are several sizes."""
    claims, chunks = _claims(images, size), dict[int, Chunk]()
    rows, starts = images.rows(size), range(0, len(images.sources), _CHUNK)
    rows.prepare()
    tasks = [Task(start, images.sources[start : start + _CHUNK], claims.get(start)) for start in starts]
    done = sum(len(chunk.outcomes) for chunk in claims.values())
    if done:
        progress(done, rows.count)
    work = functools.partial(pack_chunk, rows, images.root, images.fit, images.max_pixels)
    with runner(min(workers, 1 + (rows.count - done) // _IMAGES_PER_PROCESS)) as run, images.journal.open("ab") as file:
        for chunk in run(work, tasks):
            if size != limit and not _sizes(chunk.outcomes) <= {size}:
                return None
            chunks[chunk.start] = chunk
            if chunk != claims.get(chunk.start):
                journal.append(file, chunk)
            if chunk.start not in claims:
                done += len(chunk.outcomes)
                progress(done, rows.count)
    return [outcome for start in starts for outcome in chunks[start].outcomes]


def _claims(images: _Images, size: tuple[int, int]) -> dict[int, Chunk]:
    """The chunks that the journal has and whose files have not changed; a journal of other work is begun anew."""
    if journal.work_of(images.journal) != images.work(size):
        journal.start(images.journal, images.work(size))
        return {}
    return {start: chunk for start, chunk in journal.read(images.journal).items() if _unchanged(images, chunk)}


def _unchanged(images: _Images, chunk: Chunk) -> bool:
    sources = images.sources[chunk.start : chunk.start + len(chunk.outcomes)]
    pairs = zip(sources, chunk.outcomes, strict=True)
    return all(outcome.state == state_of(images.root / source.path) for source, outcome in pairs)


def _without_gaps(rows: Rows, outcomes: Sequence[Outcome]) -> Path:
    """A file of the good rows alone: a copy if there are others, so that a kill finds the rows in their places."""
    good = [row for row, outcome in enumerate(outcomes) if not outcome.fault]
    file = rows.path if len(good) == rows.count else rows.copy(good, rows.path.with_name("kept")).path
    with file.open("rb") as written:
        os.fsync(written.fileno())
    return file


def _publish(folder: Path, images: Path, manifest: pd.DataFrame, info: PackInfo) -> None:
    """Put the three files in place, the images last: they cannot be made again in a moment.

    Meanwhile there is no images.npy: after a kill the folder reads as not prepared, never as a mixture of old and new.
    """
    (folder / "images.npy").unlink(missing_ok=True)
    manifests.write(manifest, folder / "manifest.parquet")
    with atomically(folder / "info.json") as temporary:
        temporary.write_text(json.dumps(asdict(info), indent=2) + "\n")
    images.replace(folder / "images.npy")
