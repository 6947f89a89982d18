"""The two attentions against their formulas, written out position by position in float64."""

import itertools
import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from reid.parts.attention import ChannelAttention, SpatialAttention


def maps(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


@pytest.mark.parametrize("add", ["after", "before"])
@pytest.mark.parametrize(("reduction", "bias"), [(4, True), (4, False), (16, False)])
@torch.no_grad()
def test_channel_attention_is_its_formula(reduction: int, bias: bool, add: Literal["after", "before"]) -> None:
    torch.manual_seed(0)
    module = ChannelAttention(32, reduction=reduction, bias=bias, add=add).double()
    state = module.state_dict()

    def mlp(pooled: Tensor) -> Tensor:
        hidden = (state["mlp.0.weight"] @ pooled + state.get("mlp.0.bias", torch.tensor(0.0))).clamp(min=0)
        scores: Tensor = state["mlp.2.weight"] @ hidden + state.get("mlp.2.bias", torch.tensor(0.0))
        return scores

    images = maps(3, 32, 5, 4)
    weighted = module(images)
    for image, result in zip(images, weighted, strict=True):
        average = torch.stack([channel.sum() / 20 for channel in image])
        maximum = torch.stack([channel.max() for channel in image])
        scores = mlp(average) + mlp(maximum) if add == "after" else mlp(average + maximum)
        for channel in range(32):
            torch.testing.assert_close(result[channel], sigmoid(scores[channel].item()) * image[channel])


@pytest.mark.parametrize(("kernel", "bias"), [(3, True), (7, False)])
@torch.no_grad()
def test_spatial_attention_is_its_formula(kernel: int, bias: bool) -> None:
    torch.manual_seed(0)
    module = SpatialAttention(kernel=kernel, bias=bias).double()
    state = module.state_dict()
    weight = state["convolution.weight"][0]
    image = maps(2, 6, 5, 4)[1]
    result = module(maps(2, 6, 5, 4))[1]
    described = torch.stack([image.sum(0) / 6, image.max(0).values])
    reach = kernel // 2
    for row, column in itertools.product(range(5), range(4)):
        score = state["convolution.bias"].item() if bias else 0.0
        for dy, dx in itertools.product(range(-reach, reach + 1), repeat=2):
            if 0 <= row + dy < 5 and 0 <= column + dx < 4:
                score += (weight[:, dy + reach, dx + reach] * described[:, row + dy, column + dx]).sum().item()
        torch.testing.assert_close(result[:, row, column], sigmoid(score) * image[:, row, column])


def test_biases_are_optional() -> None:
    def names(module: torch.nn.Module) -> set[str]:
        return {name for name, _ in module.named_parameters()}

    assert names(ChannelAttention(8, reduction=2, bias=False)) == {"mlp.0.weight", "mlp.2.weight"}
    assert names(SpatialAttention(kernel=7, bias=False)) == {"convolution.weight"}


def test_the_reduction_ratio_sets_the_hidden_width() -> None:
    assert ChannelAttention(64, reduction=16).state_dict()["mlp.0.weight"].shape == (4, 64)


@pytest.mark.parametrize("module", [ChannelAttention(8, reduction=2), SpatialAttention(kernel=3)], ids=["c", "s"])
def test_attention_is_the_same_at_test_and_lets_gradients_through(module: torch.nn.Module) -> None:
    images = maps(2, 8, 5, 4).float().requires_grad_()
    trained = module.train()(images)
    assert torch.equal(module.eval()(images), trained)
    (gradient,) = torch.autograd.grad(trained.square().sum(), images)
    assert gradient.ne(0).all()
