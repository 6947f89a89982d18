"""Global pooling equals torch's adaptive layers."""

import torch
import torch.nn.functional as F

from reid.parts.pooling import global_average, global_max


def test_pools_equal_the_adaptive_layers() -> None:
    maps = torch.randn(3, 5, 7, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(global_average(maps), F.adaptive_avg_pool2d(maps, 1).flatten(1))
    torch.testing.assert_close(global_max(maps), F.adaptive_max_pool2d(maps, 1).flatten(1))


def test_equal_maxima_share_the_gradient() -> None:
    maps = torch.zeros(1, 1, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(global_max(maps).sum(), maps)
    assert gradient.flatten().tolist() == [0.25] * 4
