"""What a network costs where it is used: its size, the work for an image, and the time of one."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from reid.timing import Laps

IMAGES = 16  # embedded at a time
_REPEATS = 5


@torch.no_grad()
def footprint(network: nn.Module, embed: Callable[[Tensor], object], pixels: Tensor) -> dict[str, float]:
    """Parameters, multiply-adds of convolutions and matrix products for an image, and median seconds for one.

    All that the network was trained with counts as its parameters, classifiers included; what an embedding takes, with
    its mirror image where that is averaged in, as its work.

    Args:
        network: in evaluation mode.
        embed: makes embeddings of such pixels by this network.
        pixels: at least one image, as `embed` takes them, on the network's device; up to `IMAGES` of them are used.
    """
    pixels = pixels[:IMAGES]
    with FlopCounterMode(display=False) as counter:
        embed(pixels[:1])
    embed(pixels)  # the first time is spent on choosing kernels
    laps = Laps(pixels.device)
    laps.mark()
    for _ in range(_REPEATS):
        embed(pixels)
        laps.mark()
    return {
        "parameters": float(sum(value.numel() for value in network.parameters())),
        "multiply_adds": counter.get_total_flops() / 2,
        "embed_seconds_per_image": laps.median() / len(pixels),
    }
