"""From a uint8 batch to what a network sees, with or without training-time augmentation, for many images at once.

Everything is tensor code on the batch's device with an explicit generator: no loop over images, no wait for the device.
Inside this file images are [B, H, W, 3]. They are mirrored and cropped as bytes, and normalised and erased as rows of
W * 3 values, because a CPU is several times slower on float images with a last dimension of 3.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from reid.config import IMAGENET_MEAN, IMAGENET_STD, Augment
from reid.distributed import batch_size, mine

_CACHED_PIXELS = 2**18
_ATTEMPTS = 100
_AREA = (0.02, 0.4)
_RATIO = (0.3, 1 / 0.3)
# Random numbers per image: mirror it? the crop's place; cut out? where; erase? where; areas and ratios to choose from.
_DRAWS = (1, 2, 1, 2, 1, 2, 2 * _ATTEMPTS)


def to_float(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize, scale and normalise with ImageNet's mean and standard deviation.

    Bilinear with antialiasing, rounded to 8 bits, as when files are resized before they are turned into floats.

    Args:
        pixels: uint8 [B, H, W, 3], RGB.
        size: height and width wanted.

    Returns:
        float32 [B, 3, height, width], in channels-last memory.
    """
    images = torch.empty(len(pixels), *size, 3, device=pixels.device)
    _normalise(_resize(pixels, size), images)
    return images.permute(0, 3, 1, 2)


def augment(pixels: Tensor, size: tuple[int, int], settings: Augment, generator: torch.Generator) -> Tensor:
    """Mirror, resize, pad and crop, normalise, cut out, erase: each image on its own.

    Every call draws the same number of random numbers for an image whatever the settings and the outcome, so that two
    trials of one seed see the same flips although only one of them erases. With everything off, the result is that of
    `to_float`.

    Args:
        pixels: uint8 [B, H, W, 3], RGB; left as they are.
        size: height and width to resize to; those of the result too, unless `settings.crop` is smaller.
        settings: `crop_padding` is black, in pixels of `size`, on each side (Bag of Tricks). Cutout (BDB's code) and
            erasing fill with 0, the mean colour. The rectangle that is erased has an area and a height to width ratio
            drawn uniformly, the first of up to 100 draws that fits (Zhong et al., Random Erasing, Algorithm 1).
        generator: on whose device the numbers are drawn.

    Returns:
        float32 [B, 3, height, width], normalised, in channels-last memory.

    Raises:
        ValueError: `cutout_size` does not fit into the image.
    """
    wanted = settings.crop or size
    if settings.cutout > 0 and settings.cutout_at == "inside" and settings.cutout_size > min(wanted):
        limit = f"at most {min(wanted)} fits into an image of {wanted[0]} x {wanted[1]}"
        raise ValueError(f"recipe.augment.cutout_size is {settings.cutout_size}, {limit}")
    drawn = torch.rand(batch_size(len(pixels)), sum(_DRAWS), generator=generator, device=generator.device)
    noise = mine(drawn).to(pixels.device)
    images = torch.empty(len(pixels), *wanted, 3, device=pixels.device)
    for part in _parts(images):
        _augment_into(images[part], pixels[part], size, settings=settings, noise=noise[part])
    return images.permute(0, 3, 1, 2)


def _parts(images: Tensor) -> list[slice]:
    """The batch in parts whose intermediate results stay in a CPU's cache; elsewhere, all of it at once."""
    count, height, width, _ = images.shape
    step = max(1, _CACHED_PIXELS // (height * width)) if images.device.type == "cpu" else max(1, count)
    return [slice(start, start + step) for start in range(0, count, step)]


def _augment_into(images: Tensor, pixels: Tensor, size: tuple[int, int], *, settings: Augment, noise: Tensor) -> None:
    """Fill `images` from `pixels` by way of `size`; `noise` [B, sum(_DRAWS)] is uniform in [0, 1)."""
    mirror, window, cut, cut_place, erase, erase_place, candidates = noise.split_with_sizes(_DRAWS, 1)
    wanted = (images.shape[1], images.shape[2])
    if settings.flip > 0:
        pixels = _mirror(pixels, mirror < settings.flip)
    pixels = _resize(pixels, size)
    if settings.crop_padding > 0 or wanted != size:
        pixels = _crop(pixels, wanted, settings.crop_padding, window)
    _normalise(pixels, images)
    if settings.cutout > 0:
        side = settings.cutout_size * (cut < settings.cutout)
        _fill(images, side.expand(-1, 2), cut_place, clipped=settings.cutout_at == "clipped")
    if settings.random_erasing > 0:
        sides = _first_rectangle(candidates, wanted) * (erase < settings.random_erasing)
        _fill(images, sides, erase_place)


def _resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    if pixels.shape[1:3] == size:
        return pixels
    planes = pixels.permute(0, 3, 1, 2)
    if pixels.device.type == "cpu":  # the 8-bit kernel is ten times as fast, and exists only here
        planes = F.interpolate(planes, size, mode="bilinear", antialias=True)
    else:
        planes = F.interpolate(planes.float(), size, mode="bilinear", antialias=True).add_(0.5).floor_()
    return planes.permute(0, 2, 3, 1)


def _normalise(pixels: Tensor, images: Tensor) -> None:
    """Write the normalised pixels into `images`, float [B, H, W, 3]."""
    scale, shift = _normalisation(images.device, images.shape[2])
    images.copy_(pixels)
    rows = images.view(-1, len(scale))
    torch.addcmul(shift, rows, scale, out=rows)


@functools.cache
def _normalisation(device: torch.device, width: int) -> tuple[Tensor, Tensor]:
    """Factor and summand [width * 3] that take 0 to 255 to normalised values; copied to a device once."""
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    return (1 / (255 * std)).repeat(width).to(device), (-mean / std).repeat(width).to(device)


def _mirror(pixels: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the `chosen` [B, 1] images, by copying whole images: several times as fast as `torch.where`."""
    both = torch.cat([pixels, pixels.flip(2)]).flatten(1)
    choice = torch.arange(len(pixels), device=pixels.device) + len(pixels) * chosen[:, 0]
    return both.index_select(0, choice).view_as(pixels)


def _crop(pixels: Tensor, size: tuple[int, int], padding: int, place: Tensor) -> Tensor:
    """Cut a window out of each padded image, in one gather of pixels; `place` [B, 2] is uniform in [0, 1)."""
    frame = F.pad(pixels, (0, 0, padding, padding, padding, padding))
    top, left = (_below(place[:, axis, None], frame.shape[1 + axis] - size[axis] + 1) for axis in (0, 1))
    number, row, column = (torch.arange(length, device=pixels.device) for length in (len(pixels), *size))
    rows = number[:, None] * frame.shape[1] + top + row
    flat = rows[:, :, None] * frame.shape[2] + (left + column)[:, None]
    return frame.flatten(0, 2).index_select(0, flat.flatten()).view(len(pixels), *size, 3)


def _first_rectangle(candidates: Tensor, size: tuple[int, int]) -> Tensor:
    """Height and width [B, 2] of the first candidate smaller than the image, 0 where there is none."""
    area, ratio = candidates.chunk(2, 1)
    area = (_AREA[0] + (_AREA[1] - _AREA[0]) * area) * (size[0] * size[1])
    ratio = _RATIO[0] + (_RATIO[1] - _RATIO[0]) * ratio
    heights, widths = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (heights < size[0]) & (widths < size[1])
    first = fits.byte().argmax(1, keepdim=True)  # the first of equal values
    return torch.cat([heights.gather(1, first), widths.gather(1, first)], 1) * fits.any(1, keepdim=True)


def _fill(images: Tensor, sides: Tensor, place: Tensor, *, clipped: bool = False) -> None:
    """Set a rectangle of the `sides` [B, 2] in each image to 0, in place.

    It is placed uniformly inside the image; or, `clipped`, its centre is any pixel, and the border cuts it off.
    """
    rows = _outside(images.shape[1], sides[:, :1], place[:, :1], clipped=clipped)
    columns = _outside(images.shape[2], sides[:, 1:], place[:, 1:], clipped=clipped)
    # A value is kept where its row or its column is outside.
    keep = torch.maximum(rows[:, :, None], columns.repeat_interleave(3, 1)[:, None])
    images.view(keep.shape).mul_(keep)


def _outside(length: int, side: Tensor, place: Tensor, *, clipped: bool) -> Tensor:
    """1 outside a stretch of `side` [B, 1] values, 0 inside: float32 [B, length]."""
    start = _below(place, length) - side // 2 if clipped else _below(place, length - side + 1)
    position = torch.arange(length, device=side.device)
    return ((position < start) | (position >= start + side)).float()


def _below(chance: Tensor, bound: Tensor | int) -> Tensor:
    """A whole number from 0 to `bound` - 1, from one that is uniform in [0, 1).

    In float32 the product never rounds up to `bound`: it is at most bound * (1 - 2**-24).
    """
    return (chance * bound).long()
