"""One image file, read whole and decoded fully: RGB pixels of the packed size, or the reason why there are none."""

import errno
import functools
import hashlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import ExifTags, Image, UnidentifiedImageError

Fit = Literal["stretch", "pad"]
FORMATS = ("JPEG", "PNG", "BMP", "WEBP")

_BYTES_A_PIXEL = 8  # of the deepest kind that is not compressed
_BYTES_BESIDE = 2**20  # what a file may have besides its pixels
_PNG_DEPTH = 24  # where a PNG says its bits a channel
# A link is not followed unseen, and opening a pipe does not wait for a writer.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_TURNS = {  # EXIF: what brings an image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

State = tuple[int, int]
NOT_READ: State = (-1, -1)


class Source(NamedTuple):
    """An image file, and the part of it that is wanted, as in a `Record`; None is all of it."""

    path: str
    box: tuple[int, int, int, int] | None


class Outcome(NamedTuple):
    """What became of one image.

    `fault` is empty for a good one. `height` and `width` are those of the source, upright, or of the part of it that is
    wanted, in pixels; 0 for a bad one.
    `turned`: its EXIF data say that it is not stored upright. `file_bytes` and `mtime_ns` tell whether the file has
    changed since; -1 if it could not be opened or is no file.
    """

    sha256: str
    fault: str
    height: int
    width: int
    turned: bool
    file_bytes: int
    mtime_ns: int

    @property
    def state(self) -> State:
        """Bytes and time of the file's last change."""
        return (self.file_bytes, self.mtime_ns)


class _FaultError(Exception):
    """A file is no image that can be packed; the text says why."""


@contextmanager
def decoding() -> Iterator[None]:
    """Settings of the whole process that `decode` needs, for the time of a few images.

    Pillow's own limit of pixels is off and its warnings, of what does not matter here, are not shown.
    """
    _keep_memory()
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings(action="ignore"):
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


@functools.cache
def _keep_memory() -> None:
    """Let the memory of one image be used for the next, which makes decoding up to a third faster.

    glibc gives a freed block of more than 128 KB (that is 256 x 128 pixels in Pillow) back to the system, and gets the
    next one page by page, until it has seen one of this size freed.
    """
    bytes(16 * 2**20)


def decode(root: Path, source: Source, size: tuple[int, int], *, fit: Fit, max_pixels: int) -> tuple[Outcome, bytes]:
    """Decode an image under `root`, within `decoding`: what became of it, and its pixels (none if it is bad).

    An image is turned upright as its EXIF data say, cut to its box, becomes RGB as Pillow converts it (transparency is
    ignored, the stored colours stay) and is then resized bilinearly: to `size`, height and width, by `fit` "stretch";
    by "pad" to what keeps its shape and just fits into that, centred, with zeros around it. Boxes that people drew may
    reach beyond the image, and are cut at its border.

    Refused are: files that are not whole, `verify()` of which would pass most truncated JPEGs; more than 8 bits a
    channel, as nobody knows the range; several frames, as nobody knows which is meant; a header with more than
    `max_pixels`, before anything is decoded; links that lead out of the data set; boxes of which less than half is in
    the image, as they may be those of another.
    """
    state, sha256 = NOT_READ, ""
    try:
        content, state = _read(root, source.path, max_bytes=_BYTES_A_PIXEL * max_pixels + _BYTES_BESIDE)
        sha256 = hashlib.sha256(content).hexdigest()
        upright, turned = _upright(_load(content, max_pixels))
        image = upright if source.box is None else _part(upright, source.box)
        height, width = image.height, image.width
        pixels = _fitted(image if image.mode == "RGB" else image.convert("RGB"), size, fit).tobytes()
    except _FaultError as error:
        fault = str(error)
    except OSError as error:
        fault = error.strerror or f"is damaged ({error})"  # the system's or Pillow's
    except Exception as error:  # a decoder may raise anything on damaged bytes
        fault = f"is damaged ({type(error).__name__}: {error})"
    else:
        return Outcome(sha256, "", height, width, turned, *state), pixels
    return Outcome(sha256, " ".join(fault.split()), 0, 0, False, *state), b""


def state_of(path: Path) -> State:
    """Bytes and time of the last change of a file; `NOT_READ` if it cannot be looked at."""
    try:
        found = os.stat(path)
    except OSError:
        return NOT_READ
    return (found.st_size, found.st_mtime_ns)


def _read(root: Path, path: str, *, max_bytes: int) -> tuple[bytes, State]:
    with open(_opened(root, path), "rb", buffering=0) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise _FaultError("is a pipe or a device, not a file")
        if found.st_size > max_bytes:
            raise _FaultError(f"has {found.st_size:,} bytes, more than an image within prepare.max_pixels can have")
        return file.read(), (found.st_size, found.st_mtime_ns)


def _opened(root: Path, path: str) -> int:
    """Open a file; a link only where it leads into a folder above the file and under `root`, as the readers want it."""
    try:
        return os.open(f"{root}/{path}", _FLAGS)  # a Path for each would take as long as the opening
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    target = Path(os.path.realpath(root / path))
    above = (Path(path).parents[number] for number in range(len(Path(path).parents)))
    if not any(target.is_relative_to(os.path.realpath(root / folder)) for folder in above):
        raise _FaultError(f"is a link to {target}, outside the data set")
    return os.open(target, _FLAGS)


def _load(content: bytes, max_pixels: int) -> Image.Image:
    if not content:
        raise _FaultError("is empty")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise _FaultError(f"is not a {', '.join(FORMATS)} image") from None
    if image.width * image.height > max_pixels:
        size = f"{image.width} x {image.height} = {image.width * image.height:,} pixels"
        raise _FaultError(f"has {size}, more than prepare.max_pixels ({max_pixels:,})")
    if image.format == "PNG" and content[_PNG_DEPTH] > 8:
        raise _FaultError("has more than 8 bits a channel; convert it to 8")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format in ("PNG", "WEBP"):  # of a JPEG's frames the first is the photograph
        raise _FaultError(f"is animated ({frames} frames); put one frame in its place")
    image.load()
    return image


def _upright(image: Image.Image) -> tuple[Image.Image, bool]:
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF data, of whole pixels
        turn = None
    return (image, False) if turn is None else (image.transpose(turn), True)


def _part(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    left, top, right, bottom = box
    inside = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
    width, height = max(inside[2] - inside[0], 0), max(inside[3] - inside[1], 0)
    if 2 * width * height < (right - left) * (bottom - top) or not width * height:
        pixels = f"({left}, {top}) to ({right}, {bottom})"
        raise _FaultError(f"has {image.width} x {image.height} pixels, and most of its box, {pixels}, is not in them")
    return image.crop(inside)


def _fitted(image: Image.Image, size: tuple[int, int], fit: Fit) -> Image.Image:
    if fit == "stretch":
        return _resize(image, size)
    height, width = size
    if image.width * height > width * image.height:  # too wide
        inner = (max(1, round(width * image.height / image.width)), width)
    else:
        inner = (height, max(1, round(height * image.width / image.height)))
    canvas = Image.new("RGB", (width, height))
    canvas.paste(_resize(image, inner), ((width - inner[1]) // 2, (height - inner[0]) // 2))
    return canvas


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    height, width = size
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.BILINEAR)
