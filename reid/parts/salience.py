"""Erasing the most salient positions of a feature map while a network trains, always or by turns with something else.

Salience is the mean over the channels of a non-negative map, as in Choe and Shim, "Attention-based Dropout Layer for
Weakly Supervised Object Localization" (CVPR 2019), section 3.1, whose threshold is `near_maximum`.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from reid.parts.chance import happens

DropRule = Literal["max_frac", "top_frac"]


class SalientDrop(nn.Module):
    """Set an image's most salient positions to zero in all its channels; nothing is rescaled.

    The mask is a constant to the gradient. It is made in float32, because the few bits of bfloat16 would make ties.

    Args:
        rule: `max_frac` erases what is at least `alpha` times the image's maximum, `top_frac` the share `frac` of its
            positions.
        alpha: threshold of `max_frac`.
        frac: share of `top_frac`.
    """

    def __init__(self, rule: DropRule, *, alpha: float, frac: float) -> None:
        super().__init__()
        self.rule, self.alpha, self.frac = rule, alpha, frac

    def forward(self, maps: Tensor) -> Tensor:
        """Erase in training; maps [B, C, H, W] are non-negative."""
        if not self.training:
            return maps
        salience = maps.detach().mean(1, dtype=torch.float32)
        by_value = self.rule == "max_frac"
        erased = near_maximum(salience, self.alpha) if by_value else most_salient(salience, self.frac)
        return maps.masked_fill(erased[:, None], 0)


class DropOrAttend(nn.Module):
    """In training one of two layers, drawn anew for every batch; at test `attend`.

    Only the chosen layer runs, so the other's parameters have no gradient in that iteration.
    """

    def __init__(self, drop: nn.Module, attend: nn.Module, *, drop_probability: float) -> None:
        super().__init__()
        self.drop, self.attend, self.drop_probability = drop, attend, drop_probability

    def forward(self, maps: Tensor) -> Tensor:
        """Maps [B, C, H, W] to the same shape."""
        layer = self.drop if self.training and happens(self.drop_probability) else self.attend
        chosen: Tensor = layer(maps)
        return chosen


def near_maximum(salience: Tensor, alpha: float) -> Tensor:
    """Where salience [B, H, W] is at least `alpha` times its image's maximum; bool. The maximum itself always is."""
    return salience >= alpha * salience.amax((1, 2), keepdim=True)


def most_salient(salience: Tensor, frac: float) -> Tensor:
    """The round(frac * H * W) most salient positions of every image [B, H, W]; bool.

    Of equally salient positions the first counts as the more salient, row by row from the top left.
    """
    flat = salience.flatten(1)
    rank = flat.argsort(dim=1, descending=True, stable=True).argsort(1)
    return (rank < round(frac * flat.shape[1])).reshape(salience.shape)
