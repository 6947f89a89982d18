"""Non-local attention, in the dot product version: each position adds what it finds at all the others.

Wang et al., "Non-local Neural Networks" (CVPR 2018), equations 1, 4 and 6.
"""

from typing import Literal

from torch import Tensor, nn

from reid.parts.backbone import Trunk


class NonLocal(nn.Module):
    """A non-local block, [B, C, H, W] -> the same shape, for any number n = H * W of positions.

    With theta, phi and g of `inner` channels, one row for each position: y = (theta phi^T / n) g, and the result is
    x + norm(w(y)). There is no softmax, so the product is taken from the right, without an n x n matrix. The scale of
    the norm starts at zero, and the block as the identity.

    Args:
        channels: C, of the map.
        inner: channels of theta, phi and g; half of C in the paper.
    """

    def __init__(self, channels: int, *, inner: int) -> None:
        super().__init__()
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi = nn.Conv2d(channels, inner, 1)
        self.g = nn.Conv2d(channels, inner, 1)
        self.w = nn.Conv2d(inner, channels, 1, bias=False)  # the norm has a shift
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, maps: Tensor) -> Tensor:
        """Add to each position what it finds."""
        theta, phi, g = (layer(maps).flatten(2) for layer in (self.theta, self.phi, self.g))  # [B, inner, n]
        found = (g @ phi.transpose(1, 2) / g.shape[2]) @ theta
        added: Tensor = self.norm(self.w(found.unflatten(2, maps.shape[2:])))
        return maps + added


def insert_non_local(trunk: Trunk, *, inner: Literal["half", "single"]) -> None:
    """Put blocks where AGW has them: after the last two blocks of layer2 and the last three of layer3, or all of them.

    Args:
        trunk: is changed.
        inner: channels of theta, phi and g: half of the map's, or a single one as in AGW's public code.
    """
    for stage, channels, count in (("layer2", trunk.stage_channels[1], 2), ("layer3", trunk.stage_channels[2], 3)):
        for index in [name for name, _ in trunk.get_submodule(stage).named_children()][-count:]:
            trunk.insert_after(f"{stage}.{index}", NonLocal(channels, inner=channels // 2 if inner == "half" else 1))
