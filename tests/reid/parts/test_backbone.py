"""The trunks equal torchvision's networks in every layout, and take weights of each other."""

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from reid.parts.backbone import BACKBONES, Layout, Trunk, build_trunk


def maps_of(network: nn.Module, images: Tensor) -> Tensor:
    """The last map of a torchvision ResNet."""
    trunk = nn.Sequential(*(child for name, child in network.named_children() if name not in ("avgpool", "fc")))
    maps: Tensor = trunk(images)
    return maps


def with_weights_of(network: nn.Module, backbone: str, layout: Layout) -> Trunk:
    trunk = build_trunk(backbone, layout=layout)
    state = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("fc.")}
    trunk.load_state_dict({f"stem.{name}" if not name.startswith("layer") else name: t for name, t in state.items()})
    return trunk.eval()


def reference(backbone: str, layout: Layout) -> nn.Module:
    """Torchvision's network, changed as each layout is defined in the literature."""
    torch.manual_seed(0)
    dilated = [False, True, True] if layout == "dilated" else None
    network: Any = getattr(torchvision.models, backbone)(replace_stride_with_dilation=dilated).eval()
    if layout == "stride1":
        first = network.layer4[0]
        strided = first.conv1 if backbone in ("resnet18", "resnet34") else first.conv2
        strided.stride = first.downsample[0].stride = (1, 1)
    reference: nn.Module = network
    return reference


@pytest.mark.parametrize(
    ("backbone", "layout"),
    [
        ("resnet18", "stride2"),
        ("resnet18", "stride1"),
        ("resnet34", "stride1"),
        ("resnet50", "stride2"),
        ("resnet50", "stride1"),
        ("resnet50", "dilated"),
    ],
)
def test_a_trunk_equals_torchvisions_network(backbone: str, layout: Layout) -> None:
    network = reference(backbone, layout)
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        expected, actual = maps_of(network, images), with_weights_of(network, backbone, layout)(images)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize(("layout", "height", "width"), [("stride2", 12, 4), ("stride1", 24, 8), ("dilated", 48, 16)])
def test_resnet50_maps_have_the_published_shapes(layout: Layout, height: int, width: int) -> None:
    with torch.device("meta"):
        trunk = build_trunk("resnet50", layout=layout)
        assert trunk(torch.empty(2, 3, 384, 128)).shape == (2, 2048, height, width)
    assert sum(parameter.numel() for parameter in trunk.parameters()) == 23_508_032


@pytest.mark.parametrize("backbone", BACKBONES)
def test_channels_are_what_the_map_has(backbone: str) -> None:
    with torch.device("meta"):
        trunk = build_trunk(backbone)
        assert trunk(torch.empty(1, 3, 64, 32)).shape == (1, trunk.channels, 4, 2)


@pytest.mark.parametrize(("backbone", "width"), [("resnet10_w32", 32), ("resnet10_w16", 16)])
def test_demonstration_trunks_have_one_block_a_stage_and_narrow_widths(backbone: str, width: int) -> None:
    trunk = build_trunk(backbone)
    stages: list[Any] = [trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4]
    assert [len(stage) for stage in stages] == [1, 1, 1, 1]
    assert [stage[0].bn2.num_features for stage in stages] == [width, 2 * width, 4 * width, 8 * width]


def test_stages_can_be_called_one_by_one() -> None:
    trunk = build_trunk("resnet10_w16").eval()
    images = torch.randn(1, 3, 64, 32)
    third = trunk.layer3(trunk.layer2(trunk.layer1(trunk.stem(images))))
    torch.testing.assert_close(trunk.layer4(third), trunk(images))


@torch.no_grad()
def test_the_maps_of_all_stages_come_from_one_pass() -> None:
    trunk, images = build_trunk("resnet10_w16").eval(), torch.randn(1, 3, 64, 32)
    maps = trunk.stages(images)
    assert [each.shape[1] for each in maps] == list(trunk.stage_channels)
    assert torch.equal(maps[1], trunk.layer2(trunk.layer1(trunk.stem(images))))
    assert torch.equal(maps[3], trunk(images))


@torch.no_grad()
def test_a_module_acts_on_the_map_after_a_stage_or_a_block() -> None:
    trunk, images = build_trunk("resnet18").eval(), torch.randn(1, 3, 64, 32)
    before = dict(trunk.named_parameters())
    stages: Any = trunk
    first = stages.layer2[1](stages.layer2[0](stages.layer1(stages.stem(images))).tanh())
    expected = stages.layer4(stages.layer3(first)).sigmoid()
    trunk.insert_after("layer2.0", nn.Tanh())
    trunk.insert_after("layer4", nn.Sigmoid())
    torch.testing.assert_close(trunk(images), expected)
    assert dict(trunk.named_parameters()) == before


@torch.no_grad()
@pytest.mark.parametrize(
    ("place", "last", "first"),
    [("layer2", "layer2_1_then", "layer3_0"), ("layer3.0", "layer3_0", "layer3_1"), ("layer3", "layer3_1", "layer4_0")],
)
def test_a_trunk_splits_after_a_stage_or_a_block(place: str, last: str, first: str) -> None:
    trunk, images = build_trunk("resnet18").eval(), torch.randn(1, 3, 64, 32)
    trunk.insert_after("layer2", nn.Tanh())
    shared, rest = trunk.split(place)
    assert [name for name, _ in shared.named_children()][-1] == last
    assert next(name for name, _ in rest.named_children()) == first
    assert torch.equal(rest(shared(images)), trunk(images))


def test_initialisation_is_he_normal_and_follows_torchs_seed() -> None:
    torch.manual_seed(3)
    trunk = build_trunk("resnet18")
    assert trunk.state_dict()["layer4.1.conv2.weight"].std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    torch.manual_seed(3)
    again = build_trunk("resnet18").state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in trunk.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["resnet10_w16", "resnet18", "resnet50"])
def test_a_dilated_map_is_the_strided_one_at_every_fourth_position(backbone: str) -> None:
    """The a-trous identity: where a stride is given up, the convolutions behind it reach as far as before."""
    torch.manual_seed(0)
    strided, dilated = (build_trunk(backbone, layout=layout).double().eval() for layout in ("stride2", "dilated"))
    dilated.load_state_dict(strided.state_dict())
    images = torch.randn(1, 3, 128, 64, dtype=torch.float64)
    whole = dilated(images)
    assert whole.shape[2:] == (16, 8)
    torch.testing.assert_close(whole[:, :, ::4, ::4], strided(images))


def test_an_unknown_backbone_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown backbone 'resnet5', allowed: .*did you mean 'resnet50'\?"):
        build_trunk("resnet5")


def test_an_unknown_layout_is_named() -> None:
    with pytest.raises(ValueError, match="unknown layout 'stride3', allowed: dilated, stride1, stride2"):
        build_trunk("resnet18", layout="stride3")  # type: ignore[arg-type]
