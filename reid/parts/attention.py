"""Attention that scales a feature map by weights in (0, 1), one for each channel or one for each position.

The two halves of Woo et al., "CBAM: Convolutional Block Attention Module" (ECCV 2018), sections 3.1 and 3.2. SaADB puts
both on its second branch (reduction 4, kernel 3, biases), HAN spreads them over its stages (16, 7, none).
"""

from typing import Literal

import torch
from torch import Tensor, nn

from reid.parts.pooling import global_average, global_max


class ChannelAttention(nn.Module):
    """Scale every channel by sigmoid(MLP(average) + MLP(maximum)), both taken over all positions.

    The MLP is shared: channels -> channels // reduction -> channels, with a ReLU between. Papers write its layers as
    1 x 1 convolutions of a pooled map, which are these linear layers.

    Args:
        channels: channels of the map.
        reduction: the reduction ratio.
        bias: whether the two layers of the MLP have biases.
        add: whether the two descriptors are added `after` the MLP, or `before` it, which then runs once.
    """

    def __init__(
        self, channels: int, *, reduction: int, bias: bool = True, add: Literal["after", "before"] = "after"
    ) -> None:
        super().__init__()
        hidden = channels // reduction
        self.mlp = nn.Sequential(nn.Linear(channels, hidden, bias), nn.ReLU(), nn.Linear(hidden, channels, bias))
        self.add = add

    def forward(self, maps: Tensor) -> Tensor:
        """Weighted maps, [B, channels, H, W] -> the same shape."""
        average, maximum = global_average(maps), global_max(maps)
        after = self.add == "after"
        scores: Tensor = self.mlp(average) + self.mlp(maximum) if after else self.mlp(average + maximum)
        return maps * scores.sigmoid()[:, :, None, None]


class SpatialAttention(nn.Module):
    """Scale every position by sigmoid(convolution of [average; maximum]), both taken over the channels.

    Args:
        kernel: odd side of the convolution, which keeps the resolution.
        bias: whether the convolution has a bias.
    """

    def __init__(self, *, kernel: int, bias: bool = True) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=bias)

    def forward(self, maps: Tensor) -> Tensor:
        """Weighted maps, [B, C, H, W] -> the same shape."""
        described = torch.cat([maps.mean(1, keepdim=True), maps.amax(1, keepdim=True)], 1)
        scores: Tensor = self.convolution(described)
        return maps * scores.sigmoid()
