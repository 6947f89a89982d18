"""Which pixels are erased, from which images, and with what; the maps are tested in test_relevance.py."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reid.config import IMAGENET_MEAN, IMAGENET_STD
from reid.parts import erasing
from reid.parts.erasing import SalientErasing, most_salient_pixels
from reid.parts.neck import NeckBranch
from reid.parts.pooling import global_average
from reid.parts.relevance import BranchLayers, cg_ram, grad_cam, positive_pairs

PUBLISHED: dict[str, Any] = {"layer": "layer4", "ratio": 0.2, "probability": 0.5, "per": "image", "value": "mean"}


def bilinear(salience: list[list[float]], height: int, width: int) -> list[list[float]]:
    """Resized with pixel centres aligned and the border repeated."""
    rows, columns = len(salience), len(salience[0])

    def source(index: int, size: int, length: int) -> tuple[int, int, float]:
        position = min(max((index + 0.5) * size / length - 0.5, 0), size - 1)
        low = int(position)
        return low, min(low + 1, size - 1), position - low

    resized = []
    for y in range(height):
        top, bottom, down = source(y, rows, height)
        line = []
        for x in range(width):
            left, right, across = source(x, columns, width)
            upper = salience[top][left] * (1 - across) + salience[top][right] * across
            lower = salience[bottom][left] * (1 - across) + salience[bottom][right] * across
            line.append(upper * (1 - down) + lower * down)
        resized.append(line)
    return resized


def by_sorting(salience: list[list[float]], height: int, width: int, ratio: float) -> list[list[bool]]:
    resized = bilinear(salience, height, width)
    ranked = sorted((value for line in resized for value in line), reverse=True)
    count = round(ratio * len(ranked))
    least = ranked[count - 1] * (1 - 1e-5) if count else float("inf")
    erased = [[value >= least and value > 0 for value in line] for line in resized]
    return [[False] * width] * height if all(map(all, erased)) else erased


# ---- which pixels


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.1, 0.2, 0.5, 0.9])
def test_the_pixels_are_those_of_a_sorted_list(ratio: float) -> None:
    generator = torch.Generator().manual_seed(0)
    salience = (torch.randn(6, 6, 3, generator=generator) * torch.tensor([2, 1, 0, -1, -3, 5])[:, None, None]).relu()
    found = most_salient_pixels(salience, (48, 20), ratio=ratio)
    for image in range(6):
        assert found[image].tolist() == by_sorting(salience[image].tolist(), 48, 20, ratio), image


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.sampled_from([0.0, 0.0, 0.25, 0.5, 1.0, 3.0]), min_size=12, max_size=12),
    ratio=st.floats(0, 0.9),
)
def test_the_share_is_reached_unless_too_little_is_salient_and_never_all_is_erased(
    values: list[float], ratio: float
) -> None:
    salience = torch.tensor(values).reshape(1, 4, 3)  # its own size: nothing is resized
    erased = most_salient_pixels(salience, (4, 3), ratio=ratio)
    assert not erased.all()
    assert not erased[salience == 0].any()
    count, positive = round(ratio * 12), sum(value > 0 for value in values)
    if erased.any():
        least = salience[erased].min()
        assert torch.equal(erased, salience >= least)  # ties are erased together
        assert (salience > least).sum() < count  # and no more than that
        assert erased.sum() >= min(count, positive)
    else:
        assert count == 0 or positive == 0 or (positive == 12 and sum(value > min(values) for value in values) < count)


@pytest.mark.parametrize("ratio", [0.1, 0.2, 0.4])
def test_the_erased_share_is_the_ratio_where_enough_is_salient(ratio: float) -> None:
    salience = torch.rand(16, 24, 8, generator=torch.Generator().manual_seed(0))
    share = most_salient_pixels(salience, (384, 128), ratio=ratio).float().mean((1, 2))
    assert (share >= round(ratio * 384 * 128) / (384 * 128)).all()
    assert (share < ratio + 0.003).all()  # a corner repeats its value 8 x 8 times


def test_a_map_with_little_salience_loses_only_that() -> None:
    salience = torch.zeros(3, 4, 2)
    salience[1, 0, 0], salience[2] = 1, 1  # nothing, one place, everything alike
    found = most_salient_pixels(salience, (4, 2), ratio=0.5)
    assert found.flatten(1).sum(1).tolist() == [0, 1, 0]
    assert found[1, 0, 0]


def test_ties_at_the_threshold_are_erased_together() -> None:
    salience = torch.tensor([[[5.0, 3.0], [3.0, 3.0], [1.0, 0.0]]])
    assert most_salient_pixels(salience, (3, 2), ratio=1 / 3)[0].tolist() == [
        [True, True],
        [True, True],
        [False, False],
    ]


def test_too_small_a_share_is_none() -> None:
    assert not most_salient_pixels(torch.rand(2, 4, 2), (8, 4), ratio=0.01).any()


def test_compiled_code_erases_the_same_pixels() -> None:
    salience = torch.rand(8, 4, 2, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(lambda maps: most_salient_pixels(maps, (64, 32), ratio=0.2), backend="aot_eager")
    assert torch.equal(compiled(salience), most_salient_pixels(salience, (64, 32), ratio=0.2))


# ---- which images, and with what


def branch() -> BranchLayers:
    """Reads a map of 3 channels as it is."""
    torch.manual_seed(0)
    return BranchLayers(nn.Identity(), nn.ReLU(), NeckBranch(3, num_ids=4, pool=global_average, neck="bn"))


def batch(count: int = 8) -> tuple[Tensor, Tensor]:
    images = torch.randn(count, 3, 12, 6, generator=torch.Generator().manual_seed(1)) + 5  # no value is a fill value
    return images, torch.arange(count) // 2


def shared(images: Tensor) -> Tensor:
    return nn.functional.avg_pool2d(images, 3) - 5


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image's map is salient on the left."""

    def on_the_left(branch: object, shared: Tensor, *_: Any, **__: Any) -> Tensor:
        return torch.tensor([[1.0, 0.0], [1.0, 0.0]]).expand(len(shared), 2, 2)

    monkeypatch.setattr(erasing, "cg_ram", on_the_left)


def erase(count: int = 8, **overrides: Any) -> tuple[Tensor, Tensor]:
    """A batch, and what is left of it."""
    images, labels = batch(count)
    layer = SalientErasing("besm", **PUBLISHED | overrides)
    return images, layer(images, labels, branch=branch(), shared=shared(images))


@pytest.mark.usefixtures("mapped")
@pytest.mark.parametrize(("value", "fill"), [("mean", [0.0, 0.0, 0.0]), ("black", None)])
def test_erased_pixels_have_one_value_in_all_colours_and_the_others_stay(value: str, fill: list[float] | None) -> None:
    images, left = erase(probability=1.0, value=value)
    black = [-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    changed = left != images
    assert torch.equal(changed, changed[:, :1].expand_as(changed))
    torch.testing.assert_close(left[changed].reshape(8, 3, -1)[0, :, 0], torch.tensor(fill or black))
    columns = changed[:, 0].float().mean((0, 1))
    assert columns.tolist() == [1, 1, 0, 0, 0, 0]  # two are the most salient, alike


@pytest.mark.usefixtures("mapped")
@pytest.mark.parametrize("probability", [0.3, 0.5, 1.0])
def test_each_image_is_drawn_on_its_own(probability: float) -> None:
    torch.manual_seed(0)
    images, left = erase(2000, probability=probability)
    touched = (left != images).flatten(1).any(1).float()
    assert touched.mean().item() == pytest.approx(probability, abs=0.03)
    together = (touched[1:] * touched[:-1]).mean().item()
    assert together == pytest.approx(probability**2, abs=0.03)


@pytest.mark.usefixtures("mapped")
def test_a_batch_that_begins_is_erased_wholly() -> None:
    images, left = erase(per="batch", probability=0.1)
    assert (left != images).flatten(1).any(1).all()


@pytest.mark.parametrize(
    ("how", "overrides", "share"),
    [
        ("besm", {}, 1.0),
        ("grad_cam", {}, 1.0),
        ("none", {}, 0.0),
        ("besm", {"probability": 0.0}, 0.0),
        ("besm", {"ratio": 0.0}, 0.0),
        ("besm", {"per": "batch"}, 0.5),
        ("besm", {"per": "batch", "probability": 0.2}, 0.2),
        ("besm", {"per": "batch", "probability": 1.0}, 1.0),
        ("besm", {"per": "batch", "probability": 0.0}, 0.0),
    ],
)
def test_how_many_batches_begin(how: Any, overrides: dict[str, Any], share: float) -> None:
    layer = SalientErasing(how, **PUBLISHED | overrides)
    torch.manual_seed(0)
    begun = sum(layer.begins() for _ in range(600)) / 600
    assert begun == share if share in (0.0, 1.0) else begun == pytest.approx(share, abs=0.06)
    assert not any(layer.eval().begins() for _ in range(20))


@pytest.mark.parametrize("how", ["besm", "grad_cam"])
def test_the_maps_are_those_asked_for(how: Any) -> None:
    images, labels = batch()
    reader, seen = branch(), shared(images)
    maps: dict[str, Callable[[], Tensor]] = {
        "besm": lambda: cg_ram(reader, seen, positive_pairs(images, labels), layer="layer3"),
        "grad_cam": lambda: grad_cam(reader, seen, labels, layer="layer3"),
    }
    layer = SalientErasing(how, **PUBLISHED | {"probability": 1.0, "layer": "layer3"})
    left = layer(images, labels, branch=reader, shared=seen)
    expected = most_salient_pixels(maps[how](), (12, 6), ratio=0.2)
    assert expected.any()
    assert torch.equal((left != images)[:, 0], expected)


def test_what_is_left_is_data() -> None:
    images, labels = batch()
    images.requires_grad_()
    seen = shared(images)
    assert seen.requires_grad
    left = SalientErasing("besm", **PUBLISHED)(images, labels, branch=branch(), shared=seen)
    assert not left.requires_grad


def test_the_fill_is_no_part_of_the_state() -> None:
    assert not SalientErasing("besm", **PUBLISHED).state_dict()


def test_an_image_without_another_photograph_of_its_identity_stays() -> None:
    images, labels = batch()
    images[1] = images[0].flip(2)
    layer = SalientErasing("besm", **PUBLISHED | {"probability": 1.0})
    left = layer(images, labels, branch=branch(), shared=shared(images))
    touched = (left != images).flatten(1).any(1)
    assert not touched[:2].any()
    assert touched[2:].any()


def test_the_probe_erases_from_all_images_by_cg_ram_and_leaves_no_trace() -> None:
    images, labels = batch()
    reader, before = branch(), nn.Sequential(nn.Conv2d(3, 3, 3, stride=3), nn.BatchNorm2d(3))
    layer = SalientErasing("grad_cam", **PUBLISHED | {"probability": 0.0})
    states = [{key: tensor.clone() for key, tensor in module.state_dict().items()} for module in (reader, before)]
    output = layer.without_salient(images, labels, branch=reader, shared=before)
    for module, state in zip((reader, before), states, strict=True):
        assert all(torch.equal(tensor, state[key]) for key, tensor in module.state_dict().items())
    maps = cg_ram(reader, before(images), positive_pairs(images, labels), layer="layer4")
    erased = most_salient_pixels(maps, (12, 6), ratio=0.2)
    assert erased.any()
    expected = reader(before(images.masked_fill(erased[:, None], 0)))
    torch.testing.assert_close(output.logits, expected.logits.detach())
    assert not output.logits.requires_grad
