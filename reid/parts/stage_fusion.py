"""The maps of several stages of a trunk as one map, with attention before and behind their concatenation.

The fusion of multiple resolutions (FMR) and the hybrid attention of the hybrid-attention guided network, Zhang et al.
(arXiv 2009.07536), sections III-A and III-B. The trunk itself is left as it is: attention acts on what is read from it.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from reid.parts.attention import ChannelAttention, SpatialAttention

Operation = Literal["SAM", "cat", "CAM"]
CamSum = Literal["after", "before"]
SamAt = Literal["pooled", "native"]


class StageFusion(nn.Module):
    """Maximum pooling of every stage to one resolution, concatenation of their channels, and attention on the way.

    Args:
        channels: channels of every stage's map; their sum is the output's.
        factors: how many times higher and wider than the output every stage's map is.
        order: the operations, left to right. SAM is spatial, CAM channel attention: before `cat` each stage has one of
            its own, behind it there is one on all channels. A single stage needs no `cat`.
        cam_sum: see `add` of `reid.parts.attention.ChannelAttention`.
        sam_at: whether a stage's spatial attention sees the pooled map, or the stage's own, pooled right behind it.
    """

    def __init__(
        self,
        channels: Sequence[int],
        factors: Sequence[int],
        *,
        order: tuple[Operation, ...],
        cam_sum: CamSum,
        sam_at: SamAt,
    ) -> None:
        super().__init__()
        each, fused = _split(order)
        pooled_after = each.index("SAM") + 1 if sam_at == "native" and "SAM" in each else 0
        self.stages = nn.ModuleList()
        for stage_channels, factor in zip(channels, factors, strict=True):
            layers = [_attention(operation, stage_channels, cam_sum) for operation in each]
            layers.insert(pooled_after, nn.MaxPool2d(factor) if factor > 1 else nn.Identity())
            self.stages.append(nn.Sequential(*layers))
        self.fused = nn.Sequential(*(_attention(operation, sum(channels), cam_sum) for operation in fused))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Fuse one map [B, C, H, W] of each stage; every H and W is a multiple of the stage's factor."""
        side_by_side = torch.cat([stage(each) for stage, each in zip(self.stages, maps, strict=True)], 1)
        fused: Tensor = self.fused(side_by_side)
        return fused


def check_fusion(stages: tuple[int, ...], order: tuple[Operation, ...], sam_at: SamAt) -> None:
    """Check settings that only together can be wrong.

    Raises:
        ValueError: stages that are none or not in rising order, an operation that comes twice, several stages without
            `cat`, or SAM at a stage's own resolution behind `cat`, where there is none.
    """
    if not stages or list(stages) != sorted(set(stages)):
        raise ValueError(f"stages is {stages!r}: name one stage or more, each once, in rising order")
    if len(set(order)) < len(order):
        raise ValueError(f"order is {order!r}: name each of SAM, cat and CAM at most once")
    if len(stages) > 1 and "cat" not in order:
        raise ValueError(f"order is {order!r} for stages {stages!r}: put 'cat' into it, or name a single stage")
    if sam_at == "native" and "SAM" in _split(order)[1]:
        raise ValueError(f"order is {order!r} and sam_at 'native': put SAM before cat, or set sam_at to 'pooled'")


def _split(order: tuple[Operation, ...]) -> tuple[tuple[Operation, ...], tuple[Operation, ...]]:
    """The attentions before `cat`, which every stage has, and those behind it; without `cat` all are before it."""
    end = order.index("cat") if "cat" in order else len(order)
    return order[:end], order[end + 1 :]


def _attention(operation: Operation, channels: int, cam_sum: CamSum) -> nn.Module:
    if operation == "SAM":
        return SpatialAttention(kernel=7, bias=False)
    return ChannelAttention(channels, reduction=16, bias=False, add=cam_sum)
