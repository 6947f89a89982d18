"""Non-local attention, in the dot product version: each position adds what it finds at all the others.

Wang et al., "Non-local Neural Networks" (CVPR 2018), equations 1, 4 and 6.
"""

from torch import Tensor, nn


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
