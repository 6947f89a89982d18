"""Reductions and classifiers: what they compute and how they start."""

import math

import pytest
import torch
from torch import nn

from reid.parts.heads import Branch, Classifier, FanMode, Reduction
from reid.parts.pooling import global_average, global_max


def test_a_reduction_equals_a_1x1_convolution_with_batch_norm_and_relu() -> None:
    torch.manual_seed(0)
    reduction = Reduction(6, 4, fan_mode="fan_in")
    convolution, norm = nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4)
    convolution.load_state_dict({"weight": reduction.linear.weight[:, :, None, None], "bias": reduction.linear.bias})
    norm.load_state_dict(reduction.norm.state_dict())
    pooled = torch.randn(5, 6)
    expected = torch.relu(norm(convolution(pooled[:, :, None, None])))[:, :, 0, 0]
    torch.testing.assert_close(reduction(pooled), expected)


@pytest.mark.parametrize(("fan_mode", "fan"), [("fan_in", 800), ("fan_out", 200)])
def test_reduction_weights_start_kaiming_normal(fan_mode: FanMode, fan: int) -> None:
    torch.manual_seed(0)
    reduction = Reduction(800, 200, fan_mode=fan_mode)
    assert reduction.linear.weight.std().item() == pytest.approx(math.sqrt(2 / fan), rel=0.02)
    assert reduction.linear.bias.count_nonzero() == 0
    assert reduction.norm.weight.mean().item() == pytest.approx(1.0, abs=0.01)
    assert reduction.norm.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert reduction.norm.bias.count_nonzero() == 0


def test_classifier_weights_start_kaiming_normal_over_the_identities() -> None:
    torch.manual_seed(0)
    classifier = Classifier(200, 800)
    assert classifier.weight.std().item() == pytest.approx(math.sqrt(2 / 800), rel=0.02)
    assert classifier.bias.count_nonzero() == 0


def test_a_branch_applies_body_then_pool_then_reduction_then_classifier() -> None:
    torch.manual_seed(0)
    branch = Branch(3, 8, num_ids=5, pool=global_max, fan_mode="fan_out", body=nn.ReLU()).eval()
    maps = torch.randn(4, 3, 6, 2)
    output = branch(maps)
    feature = branch.reduction(maps.relu().amax((2, 3)))
    torch.testing.assert_close(output.feature, feature)
    torch.testing.assert_close(output.logits, feature @ branch.classifier.weight.T)


def test_a_branch_without_a_body_pools_the_map_itself() -> None:
    torch.manual_seed(0)
    branch = Branch(3, 8, num_ids=5, pool=global_average, fan_mode="fan_in").eval()
    maps = torch.randn(4, 3, 6, 2)
    torch.testing.assert_close(branch(maps).feature, branch.reduction(maps.mean((2, 3))))
