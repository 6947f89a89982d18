"""Operators that erase parts of a feature map while a network trains, and leave it alone at test.

All of them map [B, C, H, W] to the same shape. Masks are drawn on the tensor's own device by comparing random numbers
with index grids, so no operator waits for the device. They are the alternatives of Table 3 of Dai et al., "Batch
DropBlock Network for Person Re-identification and Beyond" (ICCV 2019), and the two of Bryan et al., "Second-order
Non-local Attention Networks for Person Re-identification" (ICCV 2019). BDB does not print the rates of its
alternatives; p = 0.3 makes each remove the share of the map that BDB's own block removes.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid.distributed import batch_size, mine, size
from reid.parts.choices import choose

Gamma = Literal["drop_prob", "seed_rate"]


class Dropout(nn.Module):
    """Torch's dropout; of several processes, each has its rows of the mask for the whole batch.

    Args:
        p: the share that is dropped; what is kept is scaled up.
        channels: whether all of a channel [H, W] of an image is dropped at once, or every value on its own.
    """

    def __init__(self, p: float, *, channels: bool = False) -> None:
        super().__init__()
        self.p, self.channels = p, channels

    def forward(self, inputs: Tensor) -> Tensor:
        """Drop in training from [B, ...], maps where channels are dropped."""
        drop = F.dropout2d if self.channels else F.dropout
        if size() == 1 or not self.training:
            return drop(inputs, self.p, self.training)
        alike = torch.ones_like(inputs[:, :, :1, :1] if self.channels else inputs)
        return inputs * mine(drop(torch.cat([alike] * size()), self.p))  # laid out in memory as the inputs are


class BatchDropBlock(nn.Module):
    """BDB's layer (section 3.2): erase one rectangle, at the same place in every image and channel of the batch.

    Nothing is rescaled. The rectangle has round(height_ratio * H) rows and round(width_ratio * W) columns and lies
    fully inside the map, each place being equally likely.

    Args:
        height_ratio: share of the rows; 0.3 in the paper, 0.33 in the code released later (7 and 8 of 24 rows).
        width_ratio: share of the columns; 1 erases full-width stripes.
        groups: how many equal runs of consecutive images draw a rectangle of their own. 1 is the paper; 4 is what the
            authors' training on four devices did; None draws one for each image, which the paper calls DropBlock.
    """

    def __init__(self, height_ratio: float = 0.3, width_ratio: float = 1.0, *, groups: int | None = 1) -> None:
        super().__init__()
        self.height_ratio, self.width_ratio, self.groups = height_ratio, width_ratio, groups

    def forward(self, maps: Tensor) -> Tensor:
        """Erase rectangles in training.

        Raises:
            ValueError: the rectangle would cover the whole map.
        """
        if not self.training:
            return maps
        batch, (height, width) = batch_size(len(maps)), maps.shape[2:]
        rows, columns = round(self.height_ratio * height), round(self.width_ratio * width)
        if (rows, columns) == (height, width):
            raise ValueError(
                f"a dropped block of {self.height_ratio:g} x {self.width_ratio:g} (height x width ratio) covers all of "
                f"a {height} x {width} map; make one of the ratios smaller"
            )
        groups = batch if self.groups is None else self.groups
        inside_rows = _random_spans(groups, size=height, length=rows, device=maps.device)
        inside_columns = _random_spans(groups, size=width, length=columns, device=maps.device)
        erased = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]  # [groups, 1, H, W]
        return maps.masked_fill(mine(erased.repeat_interleave(-(-batch // groups), 0)[:batch]), 0)


def _random_spans(count: int, *, size: int, length: int, device: torch.device) -> Tensor:
    """`count` runs of `length` positions, each somewhere in `size` positions, as a bool mask [count, size]."""
    start = torch.randint(size - length + 1, (count, 1), device=device)
    positions = torch.arange(size, device=device)
    return (positions >= start) & (positions < start + length)


class BatchDropout(nn.Module):
    """Erase each position with probability `p`, in all channels and at the same places in all images; no rescaling."""

    def __init__(self, p: float = 0.3) -> None:
        super().__init__()
        self.p = p

    def forward(self, maps: Tensor) -> Tensor:
        """Erase positions in training."""
        if not self.training:
            return maps
        return maps.masked_fill(torch.rand(maps.shape[2:], device=maps.device) < self.p, 0)


class DropBlock(nn.Module):
    """DropBlock of Ghiasi et al. (NeurIPS 2018), Algorithm 1, with rectangular blocks, shared over the channels.

    Every image draws its own seeds; each seed erases a block that lies fully inside the map, and the rest is scaled up
    by the share that was erased over the batch. With 5 x 8 blocks it is DropBlock+ of SONA-Net (section 3.3).

    NOTE the reference implementation draws a mask for every channel; here an erased region is erased in all of them,
    because re-identification drops regions of the map before a maximum is taken over it.

    Args:
        drop_prob: the share of the map erased on average, blocks' overlaps not counted.
        block: rows and columns of a block; on a smaller map it shrinks to the map.
        gamma_is: how `drop_prob` is read. `seed_rate` takes it for the probability of a seed at each position of the
            map, blocks being cut off at the border: SONA-Net's "gamma = 0.1" to the letter, which keeps 4 % of its map.
    """

    def __init__(
        self, drop_prob: float = 0.1, block: tuple[int, int] = (7, 7), *, gamma_is: Gamma = "drop_prob"
    ) -> None:
        super().__init__()
        self.drop_prob, self.block, self.gamma_is = drop_prob, block, gamma_is

    def forward(self, maps: Tensor) -> Tensor:
        """Erase blocks and rescale in training."""
        if not self.training:
            return maps
        kept = self.kept(maps)
        scale = kept.numel() / kept.sum().clamp(min=1)
        return maps * mine(kept * scale).to(maps.dtype)

    def kept(self, maps: Tensor) -> Tensor:
        """A random mask for the whole batch, float32 [B, 1, H, W]: 0 where a block erases, 1 elsewhere."""
        batch, (height, width) = batch_size(len(maps)), maps.shape[2:]
        rows, columns = min(self.block[0], height), min(self.block[1], width)
        if self.gamma_is == "seed_rate":  # seeds anywhere, each in the middle of its block
            places, seed_rate = (height, width), self.drop_prob
            before = (rows // 2, columns // 2)
        else:  # seeds are top left corners: row r is erased by the seeds of the rows r - rows + 1 to r
            places = (height - rows + 1, width - columns + 1)
            seed_rate = self.drop_prob / (rows * columns) * (height * width) / (places[0] * places[1])
            before = (rows - 1, columns - 1)
        after = (height + rows - 1 - places[0] - before[0], width + columns - 1 - places[1] - before[1])
        seeds = (torch.rand((batch, 1, *places), device=maps.device) < seed_rate).float()
        around = F.pad(seeds, (before[1], after[1], before[0], after[0]))
        return 1 - F.max_pool2d(around, (rows, columns), stride=1)


def drop_operator(
    name: str, *, height_ratio: float = 0.3, width_ratio: float = 1.0, groups: int = 1, p: float = 0.3
) -> nn.Module:
    """A drop operator by its name.

    Args:
        name: `none`, `dropout`, `spatial_dropout`, `batch_dropout`, `dropblock_single`, `batch_dropblock`, `dropblock`
            or `dropblock_plus`.
        height_ratio: of `batch_dropblock` and `dropblock_single`.
        width_ratio: of the same two.
        groups: of `batch_dropblock`.
        p: of the three dropouts.

    Raises:
        ValueError: the name is unknown.
    """
    operators: dict[str, Callable[[], nn.Module]] = {
        "none": nn.Identity,
        "dropout": lambda: Dropout(p),
        "spatial_dropout": lambda: Dropout(p, channels=True),
        "batch_dropout": lambda: BatchDropout(p),
        "dropblock_single": lambda: BatchDropBlock(height_ratio, width_ratio, groups=None),
        "batch_dropblock": lambda: BatchDropBlock(height_ratio, width_ratio, groups=groups),
        "dropblock": DropBlock,
        "dropblock_plus": lambda: DropBlock(block=(5, 8)),
    }
    return choose("drop operator", name, operators)()
