"""Images that are fit to be shown: small, blurred where they show people, with heat, marks or erased parts on them.

All images are uint8 [height, width, 3], RGB; maps are NumPy arrays [h, w] of any smaller size.
"""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from reid.visualize.picture import Shown

Pixels = NDArray[np.uint8]
Map = NDArray[np.floating]
Point = tuple[int, int]  # row and column of a map

_MOST_HIGH, _MOST_WIDE = 128, 96  # of a tile
_BLURRED_WIDTH = 8  # columns that are left of a blurred image; a face is then about two of them
_BLANK = 178  # grey of an image that is left out
_COLOURS = 128
# From what counts for nothing to what counts most: as shares of the maximum, and colours from blue to red.
_HEAT = ((0.0, (33, 42, 130)), (0.35, (42, 155, 185)), (0.65, (244, 211, 70)), (1.0, (205, 32, 32)))
_REFERENCE, _RELATED = (60, 220, 90), (235, 40, 40)


def tile(image: Pixels, shown: Shown) -> Pixels:
    """An image as it is shown, of the same shape and at most 128 x 96 pixels.

    `blur` cannot be undone: what is shown is made of 8 columns and as many rows as keep their pixels square, and of
    nothing else of the image. `omit` is plain grey.
    """
    height, width = image.shape[:2]
    scale = min(_MOST_HIGH / height, _MOST_WIDE / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if shown == "omit":
        return np.full((size[1], size[0], 3), _BLANK, np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(image))
    if shown == "blur":
        few = _BLURRED_WIDTH, max(1, round(_BLURRED_WIDTH * height / width))
        picture = picture.resize(few, Image.Resampling.BOX).resize(size, Image.Resampling.BICUBIC)
        return np.asarray(picture.filter(ImageFilter.GaussianBlur(size[0] / _BLURRED_WIDTH / 2)))
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))


def heated(base: Pixels, salience: Map) -> Pixels:
    """A map, from 0 to 1, laid over an image: blue is 0 and red is 1; resized bilinearly and smoothed no further."""
    height, width = base.shape[:2]
    small = Image.fromarray(np.clip(salience, 0, 1).astype(np.float32))
    level = np.asarray(small.resize((width, height), Image.Resampling.BILINEAR)).clip(0, 1)
    stops = [stop for stop, _ in _HEAT]
    channels = [np.interp(level, stops, [colour[channel] for _, colour in _HEAT]) for channel in range(3)]
    share = (0.35 + 0.3 * level)[:, :, None]
    return _bytes((1 - share) * _dimmed(base) + share * np.stack(channels, 2))


def erased(base: Pixels, mask: NDArray[np.bool_]) -> Pixels:
    """An image whose parts under a mask are hatched over; a map's positions are shown as the blocks that they are."""
    height, width = base.shape[:2]
    large = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST), bool)
    rows, columns = np.indices((height, width))
    stripes = np.where((rows + columns) % 8 < 2, 225, 62)[:, :, None]
    return np.where(large[:, :, None], stripes, base).astype(np.uint8)


def marked(base: Pixels, reference: Point, related: Sequence[Point], size: tuple[int, int]) -> Pixels:
    """An image with a green point at a position of a map [size], and red ones at others."""
    picture = Image.fromarray(base)
    draw = ImageDraw.Draw(picture)
    for points, colour, radius in ((related, _RELATED, 2.0), ([reference], _REFERENCE, 3.5)):
        for row, column in points:
            x, y = (column + 0.5) * base.shape[1] / size[1], (row + 0.5) * base.shape[0] / size[0]
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=(255, 255, 255))
    return np.asarray(picture)


def png(images: Sequence[Pixels]) -> bytes:
    """Images of one height side by side as a PNG file of 128 colours, a quarter of the size that all colours take."""
    picture = Image.fromarray(np.concatenate(images, 1)).quantize(_COLOURS, method=Image.Quantize.MEDIANCUT)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _dimmed(base: Pixels) -> NDArray[np.float64]:
    """Half the colour of an image, so that it does not mix with that of the heat."""
    grey = base.astype(float).mean(2, keepdims=True)
    return np.asarray((base + grey) / 2)


def _bytes(values: NDArray[np.float64]) -> Pixels:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)
