"""The neck branch against its definition written out."""

import pytest
import torch

from reid.parts.neck import Neck, NeckBranch, NeckClassifier
from reid.parts.pooling import global_average, global_max


def maps() -> torch.Tensor:
    return torch.randn(6, 5, 4, 2, generator=torch.Generator().manual_seed(0))


def test_the_outputs_are_before_and_behind_the_neck() -> None:
    branch = NeckBranch(5, num_ids=3, pool=global_average, neck="bn")
    output = branch(maps())
    pooled = maps().mean((2, 3))
    normalised = (pooled - pooled.mean(0)) / (pooled.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(output.feature, pooled)
    torch.testing.assert_close(output.embedding, normalised)
    torch.testing.assert_close(output.logits, normalised @ branch.classifier.weight.T)


def test_without_a_neck_all_read_the_pooled_vector() -> None:
    branch = NeckBranch(5, num_ids=3, pool=global_max, neck="none")
    output = branch(maps())
    assert torch.equal(output.feature, maps().amax((2, 3)))
    assert torch.equal(output.embedding, output.feature)
    torch.testing.assert_close(output.logits, output.feature @ branch.classifier.weight.T)


@pytest.mark.parametrize(
    ("neck", "trained"), [("bn", ["neck.weight", "classifier.weight"]), ("none", ["classifier.weight"])]
)
def test_neither_the_neck_nor_the_classifier_learns_a_shift(neck: Neck, trained: list[str]) -> None:
    branch = NeckBranch(5, num_ids=3, pool=global_average, neck=neck)
    assert [name for name, parameter in branch.named_parameters() if parameter.requires_grad] == trained


def test_the_classifier_starts_small() -> None:
    torch.manual_seed(0)
    classifier = NeckClassifier(300, 400)
    assert classifier.weight.std().item() == pytest.approx(0.001, rel=0.02)
    assert classifier.bias is None
