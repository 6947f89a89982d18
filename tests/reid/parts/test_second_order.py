"""The SONA module equals its published equations, and starts as the identity."""

import math

import pytest
import torch
from torch import Tensor, nn

from reid.parts.second_order import ProjectionInit, Scale, SecondOrderAttention, ValueLayers


def module(
    channels: int,
    *,
    scale: Scale = "literal",
    p_init: ProjectionInit = "default",
    values: ValueLayers = "conv",
    slope: float = 0.1,
) -> SecondOrderAttention:
    """A module in float64 whose batch norms are not the identity."""
    torch.manual_seed(0)
    made = SecondOrderAttention(channels, scale=scale, p_init=p_init, values=values, slope=slope).double().eval()
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None and layer.running_var is not None:
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.1, 1)  # large logits, so that the scale matters
            nn.init.normal_(layer.weight, std=3)
            nn.init.normal_(layer.bias)
    return made


def features(layers: nn.Module, positions: Tensor, *, slope: float = 0.1) -> Tensor:
    """A convolution of one position, alone or with batch norm and leaky ReLU, on rows [n, C]."""
    if isinstance(layers, nn.Conv2d):
        assert layers.bias is not None
        return positions @ layers.weight[:, :, 0, 0].T + layers.bias
    assert isinstance(layers, nn.Sequential)
    state = layers[1].state_dict()
    rows = features(layers[0], positions)
    rows = (rows - state["running_mean"]) / (state["running_var"] + 1e-5).sqrt() * state["weight"] + state["bias"]
    return torch.where(rows > 0, rows, slope * rows)


def published(sona: SecondOrderAttention, maps: Tensor, *, first_division: bool, slope: float) -> Tensor:
    """Equations 1 to 3 as printed, one image after the other; `first_division` is the 1 / c' of Ibar."""
    _, channels, height, width = maps.shape
    inner = channels // 2
    divisor = inner if first_division else 1
    centring = (torch.eye(inner).double() - torch.ones(inner, inner).double() / inner) / divisor
    results = []
    for image in maps:
        positions = image.reshape(channels, height * width).T
        theta, g = (features(layers, positions, slope=slope) for layers in (sona.theta, sona.g))
        sigma = theta @ centring @ theta.T
        weights = (sigma / math.sqrt(inner)).exp()
        z = weights / weights.sum(1, keepdim=True) @ g
        results.append((positions + features(sona.p, z)).T.reshape(channels, height, width))
    return torch.stack(results)


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(5, 3), (1, 1)])
@pytest.mark.parametrize("scale", ["literal", "sqrt"])
@pytest.mark.parametrize("values", ["conv", "like_theta"])
@pytest.mark.parametrize("slope", [0.1, 0.3])
def test_it_equals_the_published_equations(
    scale: Scale, values: ValueLayers, slope: float, height: int, width: int
) -> None:
    sona = module(12, scale=scale, values=values, slope=slope)
    maps = torch.randn(3, 12, height, width, dtype=torch.float64)
    expected = published(sona, maps, first_division=scale == "literal", slope=slope)
    torch.testing.assert_close(sona(maps), expected, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_the_scales_differ() -> None:
    maps = torch.randn(2, 12, 4, 3, dtype=torch.float64)
    difference = module(12, scale="sqrt")(maps) - module(12)(maps)
    assert difference.abs().max() > 0.01


@pytest.mark.parametrize("training", [True, False])
def test_a_projection_of_zeros_makes_it_the_identity(training: bool) -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 8, 4, 3)
    assert torch.equal(SecondOrderAttention(8).train(training)(maps), maps)
    assert not torch.equal(SecondOrderAttention(8, p_init="default").train(training)(maps), maps)


def test_from_the_identity_every_layer_starts_to_learn_after_one_step() -> None:
    torch.manual_seed(0)
    sona = SecondOrderAttention(8)
    maps, target = torch.randn(2, 8, 4, 3), torch.randn(2, 8, 4, 3)
    optimiser = torch.optim.SGD(sona.parameters(), 1.0)
    for _ in range(2):
        torch.autograd.backward((sona(maps) * target).sum())
        optimiser.step()
    assert [name for name, p in sona.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_layers_are_those_of_the_paper() -> None:
    with torch.device("meta"):
        sona, alike = SecondOrderAttention(512), SecondOrderAttention(512, values="like_theta")
    # Three convolutions between 512 and 256 channels with biases, and theta's batch norm.
    assert sum(p.numel() for p in sona.parameters()) == 3 * 512 * 256 + 2 * 256 + 512 + 2 * 256
    assert [type(layer).__name__ for layer in sona.theta] == ["Conv2d", "BatchNorm2d", "LeakyReLU"]
    assert sona.theta[2].negative_slope == 0.1
    assert [tuple(p.shape) for p in alike.g.parameters()] == [tuple(p.shape) for p in sona.theta.parameters()]


@torch.no_grad()
def test_shape_and_memory_format_of_a_step_are_kept() -> None:
    torch.manual_seed(0)
    sona = SecondOrderAttention(8, p_init="default")
    maps = torch.randn(2, 8, 4, 3)
    in_channels_last = sona(maps.contiguous(memory_format=torch.channels_last))
    assert in_channels_last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(in_channels_last, sona(maps))
