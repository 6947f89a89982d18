"""What is particular to Bag of Tricks; the contract of all methods is in test_methods.py."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reid import methods
from reid.config import Augment, Optimiser, Protocol, Recipe, Sampler, Schedule
from reid.losses import hard_triplet
from reid.methods.base import Method


def small(variant: str = "default", **overrides: Any) -> Method:
    torch.manual_seed(0)
    return methods.build("bag_of_tricks", variant, num_ids=4, backbone="resnet10_w16", **overrides)


def batch() -> tuple[Tensor, Tensor]:
    images = torch.randn(12, 3, 64, 32, generator=torch.Generator().manual_seed(1))
    return images, torch.arange(4).repeat_interleave(3)


def test_the_recipe_is_the_papers() -> None:
    assert methods.recipe("bag_of_tricks") == Recipe(
        backbone="resnet50",
        weights="imagenet",
        image_size=(256, 128),
        sampler=Sampler(identities=16, images=4, epoch="images_once"),
        augment=Augment(flip=0.5, crop_padding=10, cutout=0.0, random_erasing=0.5),
        optimiser=Optimiser(name="adam", weight_decay=5e-4),
        schedule=Schedule(name="S3", epochs=120, peak_lr=3.5e-4, time_scale=1.0),
        protocol=Protocol(distance="cosine", normalise=True, flip=False, ap="hits"),
    )


def test_size_on_resnet50_with_market_identities() -> None:
    """The trunk, scale and frozen shift of the neck, one row of 2048 weights for each identity."""
    with torch.device("meta"):
        method = methods.build("bag_of_tricks", num_ids=751)
        embedding = method.eval().embed(torch.empty(2, 3, 256, 128))
    assert sum(p.numel() for p in method.parameters()) == 23_508_032 + 2 * 2048 + 751 * 2048
    assert embedding.shape == (2, 2048)
    assert method.embedding_dim == 2048


def test_the_losses_read_both_sides_of_the_neck() -> None:
    method, (images, labels) = small(), batch()
    losses = method.losses(images, labels)
    pooled = method.get_submodule("trunk")(images).mean((2, 3))
    normalised = F.batch_norm(pooled, None, None, training=True)
    logits = normalised @ method.state_dict()["head.classifier.weight"].T
    assert list(losses) == ["id/global", "triplet/global"]
    torch.testing.assert_close(losses["triplet/global"], hard_triplet(pooled, labels, margin=0.3))
    torch.testing.assert_close(losses["id/global"], F.cross_entropy(logits, labels, label_smoothing=0.1))
    assert not torch.isclose(losses["triplet/global"], hard_triplet(normalised, labels, margin=0.3))


def test_images_are_ranked_behind_the_neck() -> None:
    method, (images, labels) = small(), batch()
    with torch.no_grad():
        method.losses(images, labels)
        method.eval()
        output = method.branches(images)["global"]
        state = method.state_dict()
        expected = F.batch_norm(output.feature, state["head.neck.running_mean"], state["head.neck.running_var"])
        torch.testing.assert_close(method.embed(images), expected)
        assert not torch.allclose(expected, output.feature)


def test_without_the_neck_the_pooled_vector_is_ranked() -> None:
    method, (images, _) = small("no_neck").eval(), batch()
    assert torch.equal(method.embed(images), method.branches(images)["global"].feature)


def test_without_the_triplet_loss_identities_alone_are_learnt() -> None:
    assert list(small("no_triplet").losses(*batch())) == ["id/global"]


def test_the_smoothing_and_the_margin_reach_the_losses() -> None:
    # The neck and the first classifier make the logits so small that smoothing hardly shows: larger weights show it.
    def losses(**overrides: Any) -> dict[str, Tensor]:
        method = small(**overrides)
        with torch.no_grad():
            method.get_parameter("head.classifier.weight").mul_(100)
        return method.losses(*batch())

    published, sharp, wide = losses(), losses(label_smoothing=0.0), losses(margin=5.0)
    assert not torch.isclose(published["id/global"], sharp["id/global"])
    assert published["triplet/global"] == sharp["triplet/global"]
    assert wide["triplet/global"] > published["triplet/global"]


@pytest.mark.parametrize(("variant", "size"), [("default", (16, 8)), ("stride2", (8, 4))])
def test_the_last_stride_is_a_setting(variant: str, size: tuple[int, int]) -> None:
    with torch.device("meta"):
        method = methods.build("bag_of_tricks", variant, num_ids=3)
        assert method.get_submodule("trunk")(torch.empty(1, 3, 256, 128)).shape[2:] == size
