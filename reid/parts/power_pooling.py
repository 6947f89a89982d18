"""Power pooling, a learned step from the average of a map to its maximum.

Shen et al., "ES-Net: Erasing Salient Parts to Learn More in Re-Identification" (IEEE TIP 2021), section III-D, after
Wei et al., "Building Detail-Sensitive Semantic Segmentation Networks with Polynomial Pooling" (CVPR 2019).
"""

from typing import Literal

import torch
from torch import Tensor, nn

from reid.parts.choices import choose
from reid.parts.gem import GeneralisedMean
from reid.parts.pooling import Pool, global_average, global_max

Pooling = Literal["gap", "gmp", "ppool"]

_LEAST, _MOST = 1.0, 50.0
_EPSILON = 1e-6


class PowerPooling(nn.Module):
    """P-pooling, equation 6: sum a^l / sum a^(l-1) over all positions, [B, C, H, W] -> [B, C]; l is learned.

    l = 1 is the average, large l the maximum. No power is computed: the sums are the mean of a with the weights
    softmax((l - 1) log a), whose gradient for l is equation 7. Values below 1e-6 are weighted as 1e-6: the formula
    counts zeros at l = 1 and ignores them right above it. Float32 at least, whatever the map is.

    l stays in 1 to 50: where an update leaves that range, the next forward in training puts the parameter back. The
    parameter must have no weight decay, which would pull it to the average.

    Args:
        initial: l at the start.
        channels: C for an exponent of each channel; None for one that all share.

    Attributes:
        exponent: the parameter l, a scalar or [C].
    """

    def __init__(self, initial: float = 1.0, *, channels: int | None = None) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.full(() if channels is None else (channels,), float(initial)))

    def forward(self, maps: Tensor) -> Tensor:
        """Pool non-negative maps."""
        if self.training:
            with torch.no_grad():
                self.exponent.clamp_(_LEAST, _MOST)
        return power_mean(maps, self._exponent())

    def spread(self, maps: Tensor, gradient: Tensor) -> Tensor:
        """The gradient [B, C, H, W] of the maps, given that of the pooled vectors [B, C], in closed form.

        With weights w, values a and their pooled value F it is G w (1 + (l - 1) (1 - F / a) [a > 1e-6]).
        """
        values, exponent = full_precision(maps).flatten(2), _per_channel(self._exponent())
        weights = _weights(values, exponent)
        pooled = (weights * values).sum(2, keepdim=True)
        steeper = (exponent - 1) * (1 - pooled / values.clamp(min=_EPSILON)) * (values > _EPSILON)
        return (gradient[:, :, None] * weights * (1 + steeper)).reshape(maps.shape)

    def _exponent(self) -> Tensor:
        """The parameter, put into its range; its gradient passes at the borders too, where that of a clamp is 0.

        A sum keeps nothing for the backward pass, so a later forward may put the parameter back into its range.
        """
        return self.exponent + (self.exponent.clamp(_LEAST, _MOST) - self.exponent).detach()


def make_pool(name: str, *, initial: float, channels: int | None) -> Pool:
    """The average, the maximum, the generalised mean, or a `PowerPooling` with these settings."""
    learned = PowerPooling(initial, channels=channels)
    pools: dict[str, Pool] = {"gap": global_average, "gmp": global_max, "gem": GeneralisedMean(), "ppool": learned}
    return choose("pooling", name, pools)


def power_mean(maps: Tensor, exponent: Tensor) -> Tensor:
    """Equation 6 for any exponent l >= 1, a scalar or [C]: [B, C, H, W] -> [B, C]."""
    values = full_precision(maps).flatten(2)
    return (_weights(values, _per_channel(exponent)) * values).sum(2)


def full_precision(tensor: Tensor) -> Tensor:
    """In float32, or as it is if it has more than that."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _weights(values: Tensor, exponent: Tensor) -> Tensor:
    """Weights [B, C, N] of the N positions; they sum to 1."""
    return ((exponent - 1) * values.clamp(min=_EPSILON).log()).softmax(2)


def _per_channel(exponent: Tensor) -> Tensor:
    """[C, 1] or [1, 1]: against values [B, C, N]."""
    return exponent.reshape(-1, 1)
