"""ResNet trunks made of torchvision's blocks, in the three layouts re-identification uses.

The stride sits in the 3 x 3 convolution (torchvision's "V1.5"). Parameters are the same in every layout and are named
as in torchvision, apart from a `stem.` before the first convolution and its batch norm: any layout takes any weights.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from reid.parts.choices import choose
from reid.parts.weights import read_weights

Layout = Literal["stride2", "stride1", "dilated"]
Block = Literal["BasicBlock", "Bottleneck"]
STAGES = ("layer1", "layer2", "layer3", "layer4")


@dataclass(frozen=True)
class _Shape:
    """Block, blocks in each of the four stages, and planes of the first stage (the others double it)."""

    block: Block
    depths: tuple[int, int, int, int]
    width: int = 64


BACKBONES = {
    "resnet10_w16": _Shape("BasicBlock", (1, 1, 1, 1), 16),
    "resnet10_w32": _Shape("BasicBlock", (1, 1, 1, 1), 32),
    "resnet18": _Shape("BasicBlock", (2, 2, 2, 2)),
    "resnet34": _Shape("BasicBlock", (3, 4, 6, 3)),
    "resnet50": _Shape("Bottleneck", (3, 4, 6, 3)),
    "resnet101": _Shape("Bottleneck", (3, 4, 23, 3)),
}


@dataclass(frozen=True)
class _Steps:
    """A stage's stride, the dilation of the 3 x 3 convolution that has the stride, and that of those behind it."""

    stride: int
    first: int = 1
    rest: int = 1


_LAYOUTS = {
    "stride2": (_Steps(1), _Steps(2), _Steps(2), _Steps(2)),
    "stride1": (_Steps(1), _Steps(2), _Steps(2), _Steps(1)),
    # On bottlenecks torchvision's replace_stride_with_dilation=[False, True, True]; its basic blocks cannot be dilated.
    "dilated": (_Steps(1), _Steps(2), _Steps(1, first=1, rest=2), _Steps(1, first=2, rest=4)),
}


class Trunk(nn.Module):
    """A ResNet without its pooling and classifier; `stem` and `layer1` to `layer4` can be called one by one.

    Attributes:
        stage_channels: channels of the map after each of the four stages.
        channels: channels of the last map; 2048 for resnet50.
    """

    def __init__(self, shape: _Shape, layout: Layout) -> None:
        super().__init__()
        self.stem = _stem(shape.width)
        stages, inputs = [], shape.width
        block = residual_block(shape.block)
        self.stage_channels = tuple(shape.width * 2**index * block.expansion for index in range(4))
        for index, steps in enumerate(choose("layout", layout, _LAYOUTS)):
            planes = shape.width * 2**index
            stages.append(_stage(block, inputs, planes, depth=shape.depths[index], steps=steps))
            inputs = self.stage_channels[index]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.channels: int = inputs
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], normalised, to the last map [B, channels, H / s, W / s]; s is 32, 16 or 8 by layout."""
        maps: Tensor = self.stem(images)
        for stage in STAGES:
            maps = self.get_submodule(stage)(maps)
        return maps

    def stages(self, images: Tensor) -> list[Tensor]:
        """The maps after each of the four stages; the last is what `forward` returns."""
        maps = [self.stem(images)]
        for stage in STAGES:
            maps.append(self.get_submodule(stage)(maps[-1]))
        return maps[1:]

    def insert_after(self, place: str, module: nn.Module) -> None:
        """Let a module act on the map after a stage, `layer2`, or after a block of one, `layer2.3`; it keeps its shape.

        It becomes part of the stage, so that whatever walks or splits the trunk takes it along. The trunk's own
        parameters keep their names; those of `module` are found under `layer2.3_then`.
        """
        stage, _, block = place.partition(".")
        children = OrderedDict(self.get_submodule(stage).named_children())
        after = block or next(reversed(children))
        items = list(children.items())
        items.insert(list(children).index(after) + 1, (f"{after}_then", module))
        self.add_module(stage, nn.Sequential(OrderedDict(items)))

    def split(self, place: str) -> tuple[nn.Sequential, nn.Sequential]:
        """The layers up to the end of a stage, `layer2`, or of one of its blocks, `layer3.0`, and those behind it."""
        chain: list[tuple[str, nn.Module]] = [("stem", self.stem)]
        for stage in STAGES:
            chain += [(f"{stage}_{name}", block) for name, block in self.get_submodule(stage).named_children()]
        end = place.replace(".", "_")
        cut = 1 + max(index for index, (name, _) in enumerate(chain) if f"{name}_".startswith(f"{end}_"))
        return nn.Sequential(OrderedDict(chain[:cut])), nn.Sequential(OrderedDict(chain[cut:]))


def build_trunk(backbone: str, *, layout: Layout = "stride1", weights: str | None = None) -> Trunk:
    """A trunk by name.

    Args:
        backbone: a key of `BACKBONES`. resnet10_w32 and resnet10_w16 have one basic block a stage and half and a
            quarter of the usual widths: trunks for demonstrations and tests.
        layout: `stride2` is torchvision's; `stride1` keeps the resolution in the last stage; `dilated` keeps it in the
            last two and dilates their 3 x 3 convolutions instead: every fourth position is then that of `stride2`.
        weights: None for a random initialisation, or what `reid.parts.weights.read_weights` takes.

    Raises:
        ValueError: an unknown backbone or layout, or weights that do not fit.
        FileNotFoundError: the weights are not there.
    """
    shape = choose("backbone", backbone, BACKBONES)
    trunk = Trunk(shape, layout)
    if weights is not None:
        trunk.load_state_dict(read_weights(weights, backbone, like=trunk.state_dict()))
    return trunk


def residual_block(name: Block) -> Any:
    """A class of torchvision, which takes as long to import as torch: that is done where a network is built alone."""
    from torchvision.models import resnet

    return getattr(resnet, name)


def _stem(width: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
            bn1=nn.BatchNorm2d(width),
            relu=nn.ReLU(inplace=True),
            maxpool=nn.MaxPool2d(3, stride=2, padding=1),
        )
    )


def _stage(block: Any, inputs: int, planes: int, *, depth: int, steps: _Steps) -> nn.Sequential:
    """`depth` blocks; the first may change resolution and channels, with a 1 x 1 convolution as its shortcut."""
    outputs = planes * block.expansion
    shortcut = None
    if steps.stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride=steps.stride, bias=False),
            nn.BatchNorm2d(outputs),
        )
    blocks = [block(inputs, planes, steps.stride, shortcut), *(block(outputs, planes) for _ in range(depth - 1))]
    stage = nn.Sequential(*blocks)
    convolutions = [module for module in stage.modules() if getattr(module, "kernel_size", None) == (3, 3)]
    for index, convolution in enumerate(convolutions):
        _dilate(convolution, steps.rest if index else steps.first)
    return stage


def _dilate(convolution: Any, dilation: int) -> None:
    """Set what torchvision sets in its bottlenecks alone; the weights are the same."""
    convolution.dilation = convolution.padding = (dilation, dilation)


def _initialise(module: nn.Module) -> None:
    """He initialisation of the convolutions, as torchvision's ResNet; batch norms start as the identity anyway."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
