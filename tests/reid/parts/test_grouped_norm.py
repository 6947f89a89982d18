"""Grouped batch norm against batch norms of their own for each group."""

import copy

import pytest
import torch
from torch import nn

from reid.parts.grouped_norm import GroupedBatchNorm, group_batch_norms


@pytest.mark.parametrize("shape", [(12, 5), (12, 5, 4, 3)])
def test_each_group_has_its_own_statistics_and_the_first_is_remembered(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    plain: nn.Module = nn.BatchNorm1d(5) if len(shape) == 2 else nn.BatchNorm2d(5)
    nn.init.normal_(plain.get_parameter("weight"))
    nn.init.normal_(plain.get_parameter("bias"))
    replicas = [copy.deepcopy(plain) for _ in range(3)]
    layer = nn.Sequential(plain)
    group_batch_norms(layer, 3)
    assert isinstance(layer[0], GroupedBatchNorm)
    inputs = torch.randn(shape, requires_grad=True)
    expected = torch.cat([norm(part) for norm, part in zip(replicas, inputs.chunk(3), strict=True)])
    torch.testing.assert_close(layer(inputs), expected)
    state = replicas[0].state_dict()
    assert layer[0].state_dict().keys() == state.keys()
    for name, tensor in layer[0].state_dict().items():
        torch.testing.assert_close(tensor, state[name])
    layer.eval(), replicas[0].eval()
    torch.testing.assert_close(layer(inputs), replicas[0](inputs))


def test_all_norms_are_replaced_and_keep_their_parameters() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()), nn.BatchNorm2d(4))
    before = dict(network.named_parameters())
    group_batch_norms(network, 2)
    after = dict(network.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)
    assert sum(isinstance(module, GroupedBatchNorm) for module in network.modules()) == 2
