"""Second-order non-local attention: positions of a map attend to each other by the covariance of their channels.

Xia et al., "Second-order Non-local Attention Networks for Person Re-identification" (ICCV 2019), section 3.2.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Scale = Literal["literal", "sqrt"]
ProjectionInit = Literal["zero", "default"]
ValueLayers = Literal["conv", "like_theta"]


class SecondOrderAttention(nn.Module):
    """The SONA module, [B, C, H, W] -> the same shape, for any number n = H * W of positions.

    With theta and g of c' = C // 2 channels, one row for each position:

    - equation 1: Sigma = theta Ibar theta^T, [n, n], where Ibar = (I - 11^T / c') / c' centres the c' channels;
    - equation 2: z = softmax(Sigma / sqrt(c')) g, the softmax over each row;
    - equation 3: the result is x + p(z).

    Centring twice is centring once, so Sigma = t t^T / c' with t = theta minus its mean over the channels, and equation
    2 is ordinary attention with queries and keys t, values g and scale c'^(-3/2).

    NOTE equations 1 and 2 both divide: at the start the attention is all but uniform. The paper gives neither the
    slope, nor the initialisation of p, nor says whether g has theta's batch norm and activation.

    Args:
        channels: C, of the map.
        scale: `literal` is the published scale c'^(-3/2); `sqrt` leaves out the 1 / c' of equation 1.
        p_init: `zero` makes the module start as the identity; `default` is torch's initialisation.
        values: g is a convolution (`conv`), or followed by batch norm and leaky ReLU as theta is (`like_theta`).
        slope: of the leaky ReLU.
    """

    def __init__(
        self,
        channels: int,
        *,
        scale: Scale = "literal",
        p_init: ProjectionInit = "zero",
        values: ValueLayers = "conv",
        slope: float = 0.1,
    ) -> None:
        super().__init__()
        inner = channels // 2
        self.scale = inner**-1.5 if scale == "literal" else inner**-0.5
        self.theta = _normalised(channels, inner, slope)
        self.g = nn.Conv2d(channels, inner, 1) if values == "conv" else _normalised(channels, inner, slope)
        self.p = nn.Conv2d(inner, channels, 1)
        if p_init == "zero":
            nn.init.zeros_(self.p.weight)
            nn.init.zeros_(self.p.bias)  # type: ignore[arg-type]

    def forward(self, maps: Tensor) -> Tensor:
        """Add to each position what it attends to."""
        theta = self.theta(maps)
        centred = _rows(theta - theta.mean(1, keepdim=True))
        attended = F.scaled_dot_product_attention(centred, centred, _rows(self.g(maps)), scale=self.scale)
        added: Tensor = self.p(attended.transpose(2, 3).reshape(theta.shape))
        return maps + added


def _normalised(channels: int, inner: int, slope: float) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, inner, 1), nn.BatchNorm2d(inner), nn.LeakyReLU(slope))


def _rows(maps: Tensor) -> Tensor:
    """A map [B, C, H, W] as one attention head with a row for each position, [B, 1, H * W, C]."""
    return maps.flatten(2).transpose(1, 2).unsqueeze(1)
