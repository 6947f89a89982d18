"""Packing: decode every image of a data set once, fully, into one uint8 array.

Training then reads rows of a memory map instead of decoding JPEG files, at about ten times the speed.
"""

import functools
import hashlib
import io
import json
import multiprocessing
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from reid.data import manifest as manifests
from reid.data.manifest import Record, atomically
from reid.data.readers import reader

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")

_CHUNK = 16  # images to a task
_IMAGES_PER_PROCESS = 4096  # another process takes about as long to start as one needs to decode these

Progress = Callable[[int, int], None]


class BadImagesError(ValueError):
    """Some files are not whole images; the message lists every one with its reason."""


@dataclass(frozen=True, kw_only=True)
class PackInfo:
    """What info.json says of a packed data set.

    `shape` is that of images.npy, `counts` has images, identities (above 0) and cameras by split, `skipped` the path
    and the reason of every file that was left out.
    """

    dataset: str
    name: str
    digest: str
    shape: tuple[int, ...]
    counts: dict[str, dict[str, int]]
    warnings: tuple[str, ...]
    skipped: tuple[dict[str, str], ...]


@dataclass(frozen=True)
class _Image:
    sha256: str
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class _Bad:
    reason: str


def pack(
    root: Path,
    records: Iterable[Record],
    folder: Path,
    *,
    image_size: tuple[int, int],
    workers: int,
    skip_bad: bool = False,
    progress: Progress = lambda done, total: None,
) -> PackInfo:
    """Decode all images and write manifest.parquet, images.npy and info.json to `folder`, each whole or not at all.

    Where all sources have one size and it is not larger than `image_size`, the images are packed at that size (it is
    faster to resize a small batch than to read a large one), otherwise resized to `image_size`.

    Args:
        root: what the records' paths are relative to.
        records: what a reader found.
        folder: `data/<dataset>`; its name is the data set's key.
        image_size: height and width, in pixels.
        workers: processes that decode, at most: a small set is faster done in this one.
        skip_bad: leave bad files out and record them, instead of failing.
        progress: called with the number of images done and the number in all.

    Raises:
        BadImagesError: files are truncated, of another format, too large or unreadable.
        ValueError: an identity is in both train and test, or no image is left.
    """
    source = reader(folder.name)
    table = manifests.tabulate(records)
    paths = table["path"].tolist()
    size = _source_size(root, paths, image_size) or image_size
    folder.mkdir(parents=True, exist_ok=True)
    with atomically(folder / "images.npy") as images:
        hashes, bad = _pack_images(images, root, paths, size=size, workers=workers, progress=progress)
        _check_bad(root, bad, total=len(paths), skip_bad=skip_bad)
        kept = table[~table["path"].isin(bad)].assign(sha256=hashes).reset_index(drop=True)
        # From here to the last line there is no info.json: after a kill the folder reads as not prepared, never as a
        # mixture of old and new.
        (folder / "info.json").unlink(missing_ok=True)
    manifests.write(kept, folder / "manifest.parquet")
    shape = (len(kept), *size, 3)
    info = PackInfo(
        dataset=folder.name,
        name=source.display_name,
        digest=manifests.digest(kept, shape),
        shape=shape,
        counts=manifests.counts(kept),
        warnings=(*manifests.count_warnings(kept, source.expected), *manifests.duplicate_warnings(kept)),
        skipped=tuple({"path": path, "reason": reason} for path, reason in bad.items()),
    )
    with atomically(folder / "info.json") as temporary:
        temporary.write_text(json.dumps(asdict(info), indent=2) + "\n")
    return info


def _check_bad(root: Path, bad: dict[str, str], *, total: int, skip_bad: bool) -> None:
    if len(bad) == total:
        raise BadImagesError(f"none of the {total} files under {root} is a whole image:{_listed(bad)}")
    if bad and not skip_bad:
        raise BadImagesError(
            f"{len(bad)} of {total} files under {root} are not whole images; mend or remove them, or set skip_bad to "
            f"go on without them:{_listed(bad)}"
        )


def _listed(bad: dict[str, str]) -> str:
    return "".join(f"\n  {path}: {reason}" for path, reason in bad.items())


def _source_size(root: Path, paths: Sequence[str], limit: tuple[int, int]) -> tuple[int, int] | None:
    """Height and width if all images share them and they are within `limit`; reads headers only."""
    common: tuple[int, int] | None = None
    for path in paths:
        try:
            with warnings.catch_warnings(action="ignore"), Image.open(root / path, formats=FORMATS) as image:
                size = (image.height, image.width)
        except Exception:  # decoding meets the same file again and gives the reason
            continue
        if size[0] > limit[0] or size[1] > limit[1] or (common is not None and size != common):
            return None
        common = size
    return common


def _pack_images(
    target: Path, root: Path, paths: Sequence[str], *, size: tuple[int, int], workers: int, progress: Progress
) -> tuple[list[str], dict[str, str]]:
    """Write the good images as one .npy file; their hashes in order, and the reason of each bad path."""
    target.write_bytes(_header(len(paths), size))
    starts = range(0, len(paths), _CHUNK)
    chunks = [paths[start : start + _CHUNK] for start in starts]
    outcomes: list[str | _Bad] = []
    with _mapper(min(workers, 1 + len(paths) // _IMAGES_PER_PROCESS)) as mapper:
        for done in mapper(functools.partial(_pack_chunk, target, root, size), starts, chunks):
            outcomes += done
            progress(len(outcomes), len(paths))
    good = {row: outcome for row, outcome in enumerate(outcomes) if isinstance(outcome, str)}
    _close_gaps(target, list(good), size)
    bad = {path: outcome.reason for path, outcome in zip(paths, outcomes, strict=True) if isinstance(outcome, _Bad)}
    return list(good.values()), bad


@contextmanager
def _mapper(workers: int) -> Iterator[Callable[..., Iterator[list[str | _Bad]]]]:
    """`map`, in this process or over several.

    Processes, because Pillow's decoders hold the interpreter's lock: without a resize two threads were slower than one.
    Spawned, because a fork beside other threads can deadlock.
    """
    if workers == 1:
        yield map
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


def _pack_chunk(target: Path, root: Path, size: tuple[int, int], start: int, paths: Sequence[str]) -> list[str | _Bad]:
    """Write consecutive images at their rows; what comes back is the SHA-256 or the fault of each.

    Rows are written to the file, not through a memory map, whose dirty pages would count as memory in use.
    """
    outcomes: list[str | _Bad] = []
    with target.open("r+b") as file:
        for row, path in enumerate(paths, start):
            outcome = _decode(root / path, size)
            if isinstance(outcome, _Image):
                file.seek(_row_offset(row, size))
                file.write(outcome.pixels.data)
            outcomes.append(outcome.sha256 if isinstance(outcome, _Image) else outcome)
    return outcomes


def _close_gaps(target: Path, kept: Sequence[int], size: tuple[int, int]) -> None:
    """Move the rows that are kept to the front and cut the file there."""
    with target.open("r+b") as file:
        for row, source in enumerate(kept):
            if row != source:
                file.seek(_row_offset(source, size))
                pixels = file.read(_row_offset(1, size) - _row_offset(0, size))
                file.seek(_row_offset(row, size))
                file.write(pixels)
        file.seek(0)
        file.write(_header(len(kept), size))
        file.truncate(_row_offset(len(kept), size))


def _row_offset(row: int, size: tuple[int, int]) -> int:
    return len(_header(0, size)) + row * size[0] * size[1] * 3


@functools.cache
def _header(count: int, size: tuple[int, int]) -> bytes:
    """The .npy header; NumPy pads it so that its length does not depend on `count`."""
    buffer = io.BytesIO()
    content = {"descr": "|u1", "fortran_order": False, "shape": (count, *size, 3)}
    np.lib.format.write_array_header_1_0(buffer, content)
    return buffer.getvalue()


def _decode(path: Path, size: tuple[int, int]) -> _Image | _Bad:
    """Read the whole file; `verify()` would pass most truncated JPEGs, so every pixel is decoded."""
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            with Image.open(file, formats=FORMATS) as image:
                image.load()
                if image.mode[0] in "IF":
                    return _Bad(f"has more than 8 bits a channel (mode {image.mode})")
                pixels = np.asarray(_resize(image.convert("RGB"), size))
    except UnidentifiedImageError:
        return _Bad(f"is not a {', '.join(FORMATS)} image")
    except OSError as error:
        return _Bad(error.strerror or str(error))
    except Exception as error:  # a decoder may raise anything on damaged bytes
        return _Bad(f"{type(error).__name__}: {error}")
    return _Image(sha256, pixels)


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    height, width = size
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.BILINEAR)
