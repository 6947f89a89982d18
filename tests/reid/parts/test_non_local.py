"""The non-local block against its formula, position by position."""

import torch
from torch import nn

from reid.parts.non_local import NonLocal


def test_it_is_the_formula_in_float64() -> None:
    torch.manual_seed(0)
    block, maps = NonLocal(6, inner=3).double().eval(), torch.randn(2, 6, 4, 3, dtype=torch.float64)
    block.norm.weight.data.uniform_(0.5, 2.0)
    block.norm.bias.data.uniform_(-1.0, 1.0)
    block.norm.running_mean = torch.randn(6, dtype=torch.float64)
    block.norm.running_var = torch.rand(6, dtype=torch.float64) + 0.5

    def linear(layer: nn.Conv2d, vector: torch.Tensor) -> torch.Tensor:
        product = layer.weight[:, :, 0, 0] @ vector
        return product if layer.bias is None else product + layer.bias

    expected = torch.empty_like(maps)
    places = [(row, column) for row in range(4) for column in range(3)]
    for image in range(2):
        for i in places:
            here = maps[image, :, *i]
            found = torch.zeros(3, dtype=torch.float64)
            for j in places:
                there = maps[image, :, *j]
                similarity = linear(block.theta, here) @ linear(block.phi, there)
                found = found + similarity * linear(block.g, there) / len(places)
            shifted = linear(block.w, found) - block.norm.running_mean
            scaled = shifted / (block.norm.running_var + block.norm.eps).sqrt()
            expected[image, :, *i] = here + scaled * block.norm.weight + block.norm.bias
    torch.testing.assert_close(block(maps), expected)


def test_it_starts_as_the_identity_and_can_leave_it() -> None:
    block, maps = NonLocal(8, inner=4), torch.randn(3, 8, 4, 2)
    output = block(maps)
    assert torch.equal(output, maps)
    (gradient,) = torch.autograd.grad(output.square().sum(), [block.norm.weight])
    assert gradient.abs().min() > 0


def test_its_number_of_parameters() -> None:
    block = NonLocal(8, inner=4)
    assert sum(parameter.numel() for parameter in block.parameters()) == 3 * (8 * 4 + 4) + 4 * 8 + 2 * 8
