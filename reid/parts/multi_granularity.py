"""Pooling of a map over horizontal windows of many heights, from the whole map down to a single stripe.

The multi-granularity operation (MGO) of the hybrid-attention guided network, Zhang et al., section III-C. A map is cut
into k stripes of equal height. Level p = 1 to k has p windows, each of k - p + 1 neighbouring stripes and each one
stripe below the one before: P = k (k + 1) / 2 windows, for k = 6 the 21 parts of the paper. They come in that order.

Windows overlap, so the map is read once, a value for each stripe, and windows are made of the stripes' values: stripes
are equally high, hence the mean over a window is the mean of its stripes' means, as its maximum is that of the maxima.
"""

import torch
from torch import Tensor


def num_parts(stripes: int) -> int:
    """Number P of windows over all levels."""
    return stripes * (stripes + 1) // 2


def check_size(height: int, width: int, *, step: int, stripes: int) -> None:
    """Check that the map of an image can be pooled and cut by whole numbers.

    Args:
        height: of the image.
        width: of the image.
        step: pixels of the image to one position of the map, in either direction.
        stripes: stripes of equal height the map is cut into.

    Raises:
        ValueError: it cannot; the message names the settings to change, and values that fit.
    """
    size, rows = f"recipe.image_size is {height} x {width}", height // step
    if height % step or width % step:
        raise ValueError(f"{size}: choose multiples of {step}, which is how many pixels make a row or column of maps")
    if rows % stripes:
        fitting = ", ".join(str(count) for count in range(1, rows + 1) if rows % count == 0)
        raise ValueError(
            f"{size}, so the map has {rows} rows, which cannot be cut into {stripes} equal stripes: set model.stripes "
            f"to one of {fitting}, or choose a height that is a multiple of {step * stripes}"
        )


def window_means(maps: Tensor, stripes: int) -> Tensor:
    """Mean over every window, [B, C, H, W] -> [B, P, C]; H is a multiple of `stripes`."""
    means = _cut(maps, stripes).mean((3, 4)).transpose(1, 2)
    return torch.cat([means.unfold(1, height, 1).mean(3) for height in range(stripes, 0, -1)], 1)


def window_maxima(maps: Tensor, stripes: int) -> Tensor:
    """Maximum over every window, [B, C, H, W] -> [B, P, C]; H is a multiple of `stripes`."""
    maxima = _cut(maps, stripes).amax((3, 4)).transpose(1, 2)
    return torch.cat([maxima.unfold(1, height, 1).amax(3) for height in range(stripes, 0, -1)], 1)


def _cut(maps: Tensor, stripes: int) -> Tensor:
    """Split the height, [B, C, H, W] -> [B, C, stripes, H / stripes, W]."""
    return maps.view(*maps.shape[:2], stripes, -1, maps.shape[3])
