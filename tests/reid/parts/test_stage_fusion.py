"""The fusion of stages against its operations, applied one by one from left to right."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid.parts.attention import ChannelAttention, SpatialAttention
from reid.parts.stage_fusion import Operation, SamAt, StageFusion, check_fusion

CHANNELS, FACTORS = (16, 32), (2, 1)


def stage_maps() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 16, 8, 4), (3, 32, 4, 2))
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def make_fusion(order: tuple[Operation, ...], *, sam_at: SamAt = "pooled") -> StageFusion:
    torch.manual_seed(0)
    return StageFusion(CHANNELS, FACTORS, order=order, cam_sum="after", sam_at=sam_at).double()


def one_by_one(fusion: StageFusion, order: tuple[Operation, ...], pool_at: int) -> Tensor:
    """The operations from left to right on a list of maps, pooled before number `pool_at`."""
    kinds = {"SAM": SpatialAttention, "CAM": ChannelAttention}
    own = {name: attentions(fusion, kind) for name, kind in kinds.items()}
    maps = stage_maps()
    for number, operation in enumerate((*order, "end")):
        if number == pool_at:
            maps = [F.max_pool2d(each, factor) for each, factor in zip(maps, FACTORS, strict=True)]
        if operation == "cat":
            maps = [torch.cat(maps, 1)]
        elif operation != "end":
            assert len(own[operation]) == len(maps)  # weights of its own for each stage, or one set for all channels
            maps = [module(each) for module, each in zip(own[operation], maps, strict=True)]
    (fused,) = maps
    return fused


ORDERS: list[tuple[Operation, ...]] = [
    ("cat",),
    ("SAM", "cat"),
    ("cat", "CAM"),
    # Table IX of the paper
    ("cat", "CAM", "SAM"),
    ("CAM", "SAM", "cat"),
    ("CAM", "cat", "SAM"),
    ("cat", "SAM", "CAM"),
    ("SAM", "CAM", "cat"),
    ("SAM", "cat", "CAM"),
]


def attentions(module: nn.Module, kind: type[nn.Module]) -> list[Any]:
    return [inner for inner in module.modules() if isinstance(inner, kind)]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@torch.no_grad()
def test_the_fusion_is_its_operations_from_left_to_right(order: tuple[Operation, ...]) -> None:
    fusion = make_fusion(order)
    fused = fusion(stage_maps())
    assert fused.shape == (3, 48, 4, 2)
    torch.testing.assert_close(fused, one_by_one(fusion, order, pool_at=0))


@torch.no_grad()
def test_another_order_is_another_map() -> None:
    results = [make_fusion(order)(stage_maps()) for order in ORDERS]
    assert all(not torch.allclose(one, two) for i, one in enumerate(results) for two in results[:i])


@pytest.mark.parametrize(
    ("order", "pool_at"), [(("SAM", "cat", "CAM"), 1), (("CAM", "SAM", "cat"), 2), (("cat", "CAM"), 0)], ids=str
)
@torch.no_grad()
def test_spatial_attention_may_see_the_stages_own_resolution(order: tuple[Operation, ...], pool_at: int) -> None:
    fusion = make_fusion(order, sam_at="native")
    torch.testing.assert_close(fusion(stage_maps()), one_by_one(fusion, order, pool_at=pool_at))
    same = torch.equal(fusion(stage_maps()), make_fusion(order)(stage_maps()))
    assert same == (pool_at == 0)


@torch.no_grad()
def test_the_maximum_of_the_text_is_taken_of_every_window() -> None:
    """Against the maximum of each 2 x 2 block, written out."""
    high, low = stage_maps()
    fused = make_fusion(("cat",))(stage_maps())
    for row in range(4):
        for column in range(2):
            block = high[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.equal(fused[:, :16, row, column], block.amax((2, 3)))
    assert torch.equal(fused[:, 16:], low)


@torch.no_grad()
def test_a_single_stage_needs_no_concatenation() -> None:
    torch.manual_seed(0)
    fusion = StageFusion([16], [2], order=("CAM",), cam_sum="after", sam_at="pooled").double()
    (attention,) = attentions(fusion, ChannelAttention)
    torch.testing.assert_close(fusion(stage_maps()[:1]), attention(F.max_pool2d(stage_maps()[0], 2)))


def test_settings_that_fit_are_accepted() -> None:
    check_fusion((4,), (), "pooled")
    check_fusion((4,), ("CAM", "SAM"), "native")
    check_fusion((1, 4), ("SAM", "cat", "CAM"), "native")


@pytest.mark.parametrize(
    ("stages", "order", "sam_at", "message"),
    [
        ((), (), "pooled", r"stages is \(\): name one stage or more"),
        ((2, 1), ("cat",), "pooled", r"stages is \(2, 1\): name one stage or more, each once, in rising order"),
        ((4,), ("SAM", "SAM"), "pooled", r"order is \('SAM', 'SAM'\): name each of SAM, cat and CAM at most once"),
        ((3, 4), ("SAM",), "pooled", r"order is \('SAM',\) for stages \(3, 4\): put 'cat' into it, or name a single"),
        ((4,), ("cat", "SAM"), "native", "put SAM before cat, or set sam_at to 'pooled'"),
    ],
)
def test_settings_that_do_not_fit_are_explained(stages: Any, order: Any, sam_at: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_fusion(stages, order, sam_at)
