"""What is particular to AGW; the contract of all methods is in test_methods.py."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from reid import methods
from reid.losses import hard_triplet, weighted_triplet
from reid.methods.base import Method
from reid.parts.gem import GeneralisedMean
from reid.parts.non_local import NonLocal

PLACES = ["layer2.2", "layer2.3", "layer3.3", "layer3.4", "layer3.5"]


def small(variant: str = "default", *, backbone: str = "resnet10_w16", **overrides: Any) -> Method:
    torch.manual_seed(0)
    return methods.build("agw", variant, num_ids=4, backbone=backbone, **overrides)


def batch() -> tuple[Tensor, Tensor]:
    images = torch.randn(12, 3, 64, 32, generator=torch.Generator().manual_seed(1))
    return images, torch.arange(4).repeat_interleave(3)


def non_local_places(method: Method) -> list[str]:
    return [
        name.removeprefix("trunk.").removesuffix("_then")
        for name, module in method.named_modules()
        if isinstance(module, NonLocal)
    ]


# ---- the weighted regularised triplet loss


def by_the_definition(features: list[list[float]], labels: list[int]) -> float:
    losses = []
    for i, anchor in enumerate(features):
        distances = [math.dist(anchor, other) for other in features]
        positive = [d for d, label in zip(distances, labels, strict=True) if label == labels[i]]
        negative = [d for d, label in zip(distances, labels, strict=True) if label != labels[i]]
        far = sum(d * math.exp(d) for d in positive) / sum(math.exp(d) for d in positive)
        near = sum(d * math.exp(-d) for d in negative) / sum(math.exp(-d) for d in negative)
        losses.append(math.log1p(math.exp(far - near)))
    return sum(losses) / len(losses)


def test_the_loss_is_its_definition() -> None:
    features = torch.randn(9, 4, generator=torch.Generator().manual_seed(2)) * 2
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 2, 0, 2])
    expected = by_the_definition(features.tolist(), labels.tolist())
    assert weighted_triplet(features, labels).item() == pytest.approx(expected, rel=1e-5)


def test_far_apart_it_is_the_hard_triplet_loss_with_soft_margin() -> None:
    features = torch.randn(9, 4, generator=torch.Generator().manual_seed(2)) * 1e4
    labels = torch.arange(3).repeat(3)
    torch.testing.assert_close(weighted_triplet(features, labels), hard_triplet(features, labels))


def test_equal_images_have_finite_gradients() -> None:
    features = torch.ones(6, 4, requires_grad=True)
    loss = weighted_triplet(features, torch.arange(2).repeat(3))
    assert loss.item() == pytest.approx(math.log(2))
    (gradient,) = torch.autograd.grad(loss, features)
    assert gradient.isfinite().all()


# ---- the network


def test_the_recipe_is_that_of_bag_of_tricks() -> None:
    assert methods.recipe("agw") == methods.recipe("bag_of_tricks")


@pytest.mark.parametrize(
    ("variant", "inner", "places"),
    [("default", (256, 512), PLACES), ("authors_code", (1, 1), PLACES), ("no_non_local", (0, 0), [])],
)
def test_size_on_resnet50_with_market_identities(variant: str, inner: tuple[int, int], places: list[str]) -> None:
    with torch.device("meta"):
        method = methods.build("agw", variant, num_ids=751)
        embedding = method.eval().embed(torch.empty(2, 3, 256, 128))
    sizes = [(512, inner[0])] * 2 + [(1024, inner[1])] * 3 if places else []
    blocks = sum(3 * (c * i + i) + c * i + 2 * c for c, i in sizes)
    bag_of_tricks, exponent = 23_508_032 + 2 * 2048 + 751 * 2048, 1
    assert sum(p.numel() for p in method.parameters()) == bag_of_tricks + exponent + blocks
    assert non_local_places(method) == places
    assert embedding.shape == (2, 2048)
    assert method.embedding_dim == 2048


def test_a_smaller_trunk_has_a_block_after_each_of_its_own() -> None:
    assert non_local_places(small(backbone="resnet18")) == ["layer2.0", "layer2.1", "layer3.0", "layer3.1"]


@torch.no_grad()
def test_at_the_start_the_blocks_change_nothing_and_later_they_do() -> None:
    method, (images, _) = small().eval(), batch()
    plain = small("no_non_local").eval().get_submodule("trunk")
    pooled = GeneralisedMean(3.0)(plain(images))
    torch.testing.assert_close(method.branches(images)["global"].feature, pooled)
    for place in non_local_places(method):
        before = method.branches(images)["global"].feature
        method.get_parameter(f"trunk.{place}_then.norm.weight").fill_(100.0)
        assert not torch.allclose(method.branches(images)["global"].feature, before)


def test_the_triplet_loss_acts_before_the_neck_and_ranking_is_behind_it() -> None:
    method, (images, labels) = small(), batch()
    losses, feature = method.losses(images, labels), method.branches(images)["global"].feature
    assert list(losses) == ["id/global", "triplet/global"]
    torch.testing.assert_close(losses["triplet/global"], weighted_triplet(feature, labels))
    embedding = method.embed(images)  # still in training mode: batch statistics
    torch.testing.assert_close(embedding.mean(0), torch.zeros(128), atol=1e-4, rtol=0)
    assert not torch.allclose(embedding, feature)


def test_the_settings_reach_the_parts() -> None:
    images, labels = batch()
    hard = small("hard_triplet", margin=2.0)
    feature = hard.branches(images)["global"].feature
    torch.testing.assert_close(hard.losses(images, labels)["triplet/global"], hard_triplet(feature, labels, margin=2.0))
    assert small(gem_p=5.0).get_parameter("head.pool.p").item() == 5.0
    average: Any = small("average_pooling").eval()
    torch.testing.assert_close(average.branches(images)["global"].feature, average.trunk(images).mean((2, 3)))
