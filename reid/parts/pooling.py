"""Global pooling of feature maps, [B, C, H, W] -> [B, C].

Written as a mean and a maximum over the two spatial axes because the gradients of torch's adaptive pooling layers are
not deterministic on CUDA.
"""

from collections.abc import Callable

from torch import Tensor

Pool = Callable[[Tensor], Tensor]


def global_average(maps: Tensor) -> Tensor:
    """Mean over all positions, [B, C, H, W] -> [B, C]."""
    return maps.mean((2, 3))


def global_max(maps: Tensor) -> Tensor:
    """Maximum over all positions, [B, C, H, W] -> [B, C]; equal maxima share the gradient."""
    return maps.amax((2, 3))


POOLS: dict[str, Pool] = {"avg": global_average, "max": global_max}
